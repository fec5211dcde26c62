"""What happens when parts die, hang or are cut off, seen from outside and on every wire."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from service.datapath.layout import MapName, pin_folder
from service.lab.configuration import member_folder
from service.lab.fault import Fault
from service.lab.namespace import run
from service.lab.plan import ROUTER_OCTET, SECOND_UPLINK_DESTINATION, SEGMENTS
from service.lab.status import fetch_json
from service.lab.witness import wait_for_calls
from tests.e2e.site import FLOATING_IPS, Site, policy

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.e2e, pytest.mark.timeout(180)]

FIRST = FLOATING_IPS[0]
GAP_MS_MAX = 15_000.0
"""Timing is measured in loadtest; here the machine may be busy, TCP backs off exponentially, and only a hang fails."""


def other_pod(site: Site, *nodes: str) -> str:
    """A selected pod on a node that is not among `nodes`."""
    return next(
        pod.full_name for pod in site.lab.plan.pods if pod.full_name.startswith("alice/") and pod.node not in nodes
    )


def recover(site: Site, node: str) -> None:
    site.fault(node, Fault.CONT, Fault.HEAL, Fault.RESTART)
    site.wait_whole()


def asked(site: Site, not_node: str) -> str:
    return next(node.name for node in site.lab.plan.nodes if node.name != not_node)


def has_ended(pid: int) -> bool:
    """Gone, or a zombie that whoever started it has not collected yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rsplit(") ", 1)[1].startswith("Z")


def wait_moved(site: Site, node: str) -> str:
    witness = asked(site, node)
    site.wait(
        f"{FIRST} to leave {node}",
        lambda: (holder := site.holder(FIRST, asked=witness)) is not None and holder != node,
    )
    return str(site.holder(FIRST, asked=witness))


@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_the_holder_dies_and_clients_go_on_with_the_same_source(site: Site, tmp_path: Path, proto: str) -> None:
    holder = str(site.holder(FIRST))
    pod = other_pod(site, holder)
    try:
        with site.captured(tmp_path / "frames") as leaks, site.stream(pod, proto=proto) as stream:
            site.fault(holder, Fault.KILL, Fault.CUT)
            wait_moved(site, holder)
            wait_for_calls(site.lab, proto, FIRST, 100, timeout_s=45)
            report = stream.report()
        assert list(report["sources"]) == [FIRST]
        assert report["broken"] == ""
        assert report["gap_max_ms"] < GAP_MS_MAX
        assert leaks() == []
    finally:
        recover(site, holder)


def test_a_frozen_holder_falls_silent_and_gets_nothing_back_when_it_wakes(site: Site, tmp_path: Path) -> None:
    """Promise 1: SIGSTOP leaves links up and the kernel running; only the deadline in the map stops it."""
    holder = str(site.holder(FIRST))
    try:
        with site.captured(tmp_path / "frames") as leaks, site.stream(other_pod(site, holder)) as stream:
            site.fault(holder, Fault.STOP)
            successor = wait_moved(site, holder)
            wait_for_calls(site.lab, "udp", FIRST, 200, timeout_s=45)
            site.fault(holder, Fault.CONT)
            site.wait_whole()
            site.wait("the successor to be the holder still", lambda: site.holder(FIRST) == successor)
            report = stream.report()
        assert list(report["sources"]) == [FIRST]
        assert leaks() == []
    finally:
        recover(site, holder)


def test_a_holder_cut_off_loses_the_address_and_after_healing_there_is_one_holder(site: Site, tmp_path: Path) -> None:
    holder = str(site.holder(FIRST))
    try:
        with site.captured(tmp_path / "frames") as leaks, site.stream(other_pod(site, holder)) as stream:
            site.fault(holder, Fault.CUT)
            successor = wait_moved(site, holder)
            site.fault(holder, Fault.HEAL)
            site.wait_whole()
            site.wait(
                "every node to know the one holder",
                lambda: {site.holder(FIRST, asked=node.name) for node in site.lab.plan.nodes} == {successor},
            )
            report = stream.report()
        assert list(report["sources"]) == [FIRST]
        assert leaks() == []
    finally:
        recover(site, holder)


def test_r2_pods_of_a_node_that_hears_no_member_go_on_by_what_is_confirmed_over_the_data_path(site: Site) -> None:
    """An announcement alone is believed for half a second."""
    holder = str(site.holder(FIRST))
    pod = next(pod.full_name for pod in site.lab.plan.pods if pod.namespace == "alice" and pod.node == holder)
    site.wait_seen(pod, FIRST)
    site.fault(holder, Fault.CUT_CONTROL)
    try:
        wait_moved(site, holder)
        time.sleep(2.0)
        with site.stream(pod) as stream:
            time.sleep(3.0)
            report = stream.report()
    finally:
        recover(site, holder)
    assert list(report["sources"]) == [FIRST]
    assert report["lost"] < report["sent"] / 10


def test_the_death_of_the_holders_agent_costs_no_packet_and_neither_does_its_return(site: Site) -> None:
    holder = str(site.holder(FIRST))
    witness = asked(site, holder)
    try:
        with site.stream(other_pod(site, holder)) as remote:
            site.fault(holder, Fault.KILL, only="agent")
            wait_for_calls(site.lab, "udp", FIRST, 200, timeout_s=45)
            assert site.holder(FIRST, asked=witness) == holder
            site.fault(holder, Fault.RESTART)
            site.wait_whole()
            wait_for_calls(site.lab, "udp", FIRST, 200, timeout_s=45)
            report = remote.report()
        assert report["lost"] == 0
        site.wait("the holder to be the same", lambda: site.holder(FIRST) == holder)
    finally:
        recover(site, holder)


def test_an_agent_that_is_restarted_properly_costs_no_packet_and_moves_nothing(site: Site) -> None:
    holder = str(site.holder(FIRST))
    agent = next(node["agent_pid"] for node in site.lab.info()["nodes"] if node["name"] == holder)
    try:
        with site.stream(other_pod(site, holder)) as stream:
            os.kill(agent, signal.SIGTERM)
            wait_for_calls(site.lab, "udp", FIRST, 200, timeout_s=45)
            site.wait("the agent to end", lambda: has_ended(agent))
            site.fault(holder, Fault.RESTART)
            site.wait_whole()
            report = stream.report()
        assert report["lost"] == 0
        site.wait("the holder to be the same", lambda: site.holder(FIRST) == holder)
    finally:
        recover(site, holder)


def test_a_keeper_that_is_stopped_properly_hands_over_at_once(site: Site, tmp_path: Path) -> None:
    """The fence is closed and the lease released before the process ends: nobody waits for it to run out."""
    holder = str(site.holder(FIRST))
    keeper = next(node["keeper_pid"] for node in site.lab.info()["nodes"] if node["name"] == holder)
    try:
        with site.captured(tmp_path / "frames") as leaks, site.stream(other_pod(site, holder)) as stream:
            os.kill(keeper, signal.SIGTERM)
            wait_moved(site, holder)
            wait_for_calls(site.lab, "udp", FIRST, 100, timeout_s=45)
            report = stream.report()
        assert list(report["sources"]) == [FIRST]
        assert leaks() == []
    finally:
        recover(site, holder)


def test_an_agent_restarted_on_the_pods_node_interrupts_nothing(site: Site) -> None:
    holder = str(site.holder(FIRST))
    pod = other_pod(site, holder)
    node = site.pod(pod).node
    try:
        with site.stream(pod) as stream:
            site.fault(node, Fault.KILL, only="agent")
            wait_for_calls(site.lab, "udp", FIRST, 100, timeout_s=45)
            site.fault(node, Fault.RESTART)
            site.wait("the agent to be back", lambda: site.status(node)["keeper"]["alive"])
            wait_for_calls(site.lab, "udp", FIRST, 400, timeout_s=45)
            report = stream.report()
        assert report["lost"] == 0
        assert list(report["sources"]) == [FIRST]
    finally:
        recover(site, node)


def test_the_death_of_the_keeper_moves_the_address_or_gives_it_back_never_to_two(site: Site, tmp_path: Path) -> None:
    holder = str(site.holder(FIRST))
    try:
        with site.captured(tmp_path / "frames") as leaks, site.stream(other_pod(site, holder)) as stream:
            site.fault(holder, Fault.KILL, only="keeper")
            wait_moved(site, holder)
            site.fault(holder, Fault.RESTART)
            site.wait_whole()
            report = stream.report()
        assert list(report["sources"]) == [FIRST]
        assert leaks() == []
    finally:
        recover(site, holder)


def test_without_any_controller_traffic_goes_on_and_still_fails_over(site: Site) -> None:
    controllers = [controller.name for controller in site.lab.plan.controllers]
    holder = str(site.holder(FIRST))
    pod = other_pod(site, holder)
    try:
        for controller in controllers:
            site.fault(controller, Fault.KILL)
        with site.stream(pod) as stream:
            site.fault(holder, Fault.KILL, Fault.CUT)
            wait_moved(site, holder)
            wait_for_calls(site.lab, "udp", FIRST, 100, timeout_s=45)
            report = stream.report()
        assert list(report["sources"]) == [FIRST]
    finally:
        for controller in controllers:
            site.fault(controller, Fault.RESTART)
        recover(site, holder)


def test_without_a_majority_of_electors_the_address_goes_dark_and_comes_back(site: Site, tmp_path: Path) -> None:
    holder = str(site.holder(FIRST))
    others = [node.name for node in site.lab.plan.nodes if node.name != holder]
    pod = other_pod(site, holder)
    try:
        with site.captured(tmp_path / "frames") as leaks:
            assert site.seen(pod) == FIRST
            for node in others:
                site.fault(node, Fault.STOP, only="keeper")
            site.wait("the address to go dark", lambda: site.seen(pod, timeout_s=0.2) == "nothing came")
            site.wait("the holder to say so", lambda: site.status(holder)["floatingIPs"][FIRST]["holder"] is None)
            assert site.status(holder)["held"] == []
            for node in others:
                site.fault(node, Fault.CONT, only="keeper")
            site.wait_seen(pod, FIRST)
        assert leaks() == []
    finally:
        for node in others:
            site.fault(node, Fault.CONT)
        site.wait_whole()


def test_every_move_is_on_record_with_growing_tokens(site: Site) -> None:
    acquired = [
        (record.boot_time_ns, record.token, record.holder)
        for record in site.records()
        if record.kind == "acquired" and record.subject == FIRST
    ]
    tokens = [token for _, token, _ in sorted(acquired)]
    assert len(set(tokens)) > 3
    # An agent that restarted records again what its keeper still held, under the same token.
    assert tokens == sorted(tokens)
    holders = {token: {holder for _, other, holder in acquired if other == token} for token in tokens}
    assert all(len(names) == 1 for names in holders.values())
    assert site.bare_pod_sources() == set()


@contextmanager
def room_for(site: Site, node: str, **rows: int) -> Iterator[None]:
    """The node's agent begins anew with so little room in its maps; afterwards with the usual one."""
    path = member_folder(site.lab.folder, node) / "config.yaml"
    good = path.read_text(encoding="utf-8")
    settings = yaml.safe_load(good)
    settings["datapath"] |= rows
    site.fault(node, Fault.KILL, only="agent")
    # A map with more rows than there is room for would stay as it is.
    (pin_folder(str(path.parent / "bpf")) / MapName.SELECTED).unlink()
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    try:
        site.fault(node, Fault.RESTART)
        yield
    finally:
        site.fault(node, Fault.KILL, only="agent")
        path.write_text(good, encoding="utf-8")
        recover(site, node)


@contextmanager
def disk_in_place_of(folder: Path, options: str) -> Iterator[None]:
    """A file system of its own over the folder, whose content is not seen meanwhile."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "spoiled", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize(
    ("place", "options", "cause"),
    [
        ("state", "ro", "Read-only file system"),
        ("state", "size=4k", "No space left on device"),
        ("run", "size=4k", "No space left on device"),
    ],
    ids=["state-ro", "state-full", "run-full"],
)
def test_a_node_that_starts_on_a_disk_that_lets_it_write_nothing_waits_says_so_and_then_serves(
    site: Site, place: str, options: str, cause: str
) -> None:
    """Keeper and agent end neither, the others serve, and nobody has to start them again."""
    node = str(site.holder(FIRST))
    pod = other_pod(site, node)
    folder = member_folder(site.lab.folder, node) / place
    site.fault(node, Fault.KILL)
    wait_moved(site, node)
    with disk_in_place_of(folder, options):
        if cause.startswith("No space"):
            (folder / "full").write_bytes(b"x" * 4096)
        site.fault(node, Fault.RESTART)
        pids = {record.kind: record.pid for record in site.lab.state.processes if record.member == node}

        def troubles() -> list[str]:
            return [line for line in site.status(node)["troubles"] if cause in line]

        site.wait("the node to say why it waits", troubles)
        witness = asked(site, node)
        site.wait_seen(pod, FIRST)
        assert site.holder(FIRST, asked=witness) not in (None, node)
        assert node not in {row["holder"] for row in site.status(witness)["floatingIPs"].values()}
        time.sleep(6)  # longer than the longest back-off
        assert not any(has_ended(pid) for pid in pids.values())
        assert troubles()
    if place == "run":
        # Its promises need no room but for themselves, so it had begun there, silent. It has promised nothing.
        site.fault(node, Fault.KILL, only="keeper")
        del pids["keeper"]
        site.fault(node, Fault.RESTART)
    site.wait_whole()
    assert not any(has_ended(pid) for pid in pids.values()), "they went on by themselves"
    site.wait("nothing more to be told", lambda: not site.status(node)["troubles"])


@contextmanager
def address_away(site: Site, node: str) -> Iterator[None]:
    """The node's uplinks have no addresses meanwhile; with them go its routes."""

    def ip(*command: str) -> None:
        run(site.lab.enter(node, "ip", *command))

    others = [other for other in site.lab.plan.nodes if other.name != node]
    for segment in range(len(SEGMENTS)):
        ip("address", "flush", "dev", f"eth{segment}")
    try:
        yield
    finally:
        for segment in range(len(SEGMENTS)):
            address = f"{site.lab.node(node).address(segment)}/24"
            ip("address", "add", address, "broadcast", "+", "dev", f"eth{segment}")
        ip("route", "replace", str(SECOND_UPLINK_DESTINATION), "via", str(SEGMENTS[1][ROUTER_OCTET]))
        ip("route", "replace", "default", "via", str(SEGMENTS[0][ROUTER_OCTET]))
        for other in others:
            ip("route", "replace", str(other.pod_cidr), "via", str(other.ip))


def test_a_node_that_starts_while_its_address_is_gone_waits_says_so_and_then_serves(site: Site) -> None:
    """As a DHCP client leaves it for a while: nobody has to start its programs again when the address is back."""
    node = str(site.holder(FIRST))
    pod = other_pod(site, node)
    site.fault(node, Fault.KILL)
    wait_moved(site, node)
    with address_away(site, node):
        site.fault(node, Fault.RESTART)
        pids = [record.pid for record in site.lab.state.processes if record.member == node]

        def said() -> str:
            return str(fetch_json(site.lab.node(node).netns, "127.0.0.1", "/v1/status"))

        site.wait("the node to say why it waits", lambda: "bind_address" in said())
        site.wait_seen(pod, FIRST)
        time.sleep(6)  # longer than the longest back-off
        assert not any(has_ended(pid) for pid in pids)
        assert "bind_address" in said()
    site.wait_whole()
    assert not any(has_ended(pid) for pid in pids), "they went on by themselves"


def test_i1_a_full_map_costs_the_pods_that_find_no_room_and_nothing_leaves_bare(site: Site, tmp_path: Path) -> None:
    node, pods = "worker2", {"alice/frontend-worker2": FIRST, "paul/frontend-worker2": FLOATING_IPS[1]}

    def seen() -> dict[str, str]:
        return {pod: site.seen(pod, timeout_s=0.3) for pod in pods}

    def troubles() -> list[str]:
        return [line for line in site.status(node)["troubles"] if line.startswith("map selected")]

    site.apply("paul.yaml", policy("paul", FLOATING_IPS[1], user="paul"))
    site.wait("both pods to be seen", lambda: seen() == pods)
    with site.captured(tmp_path / "frames") as leaks, room_for(site, node, pods=1):
        site.wait("one pod to be served", lambda: sorted(seen().values())[-1] == "nothing came" and troubles())
        found = seen()
        (served,) = (pod for pod, source in found.items() if source == pods[pod])
        (unserved,) = pods.keys() - {served}
        assert found[unserved] == "nothing came"
        assert str(site.pod(unserved).ip) in troubles()[0]
        for proto in ("tcp", "udp"):
            assert site.seen(unserved, proto=proto, timeout_s=0.3) == "nothing came"
        assert site.seen("alice/frontend-worker1") == FIRST, "no other node is concerned"
        site.delete("paul.yaml" if served.startswith("paul") else "alice.yaml")
        site.wait_seen(unserved, pods[unserved])
        site.wait("status to be quiet", lambda: not troubles())
        site.apply("alice.yaml", policy("alice", FIRST, user="alice"))
        site.apply("paul.yaml", policy("paul", FLOATING_IPS[1], user="paul"))
    assert leaks() == []
    site.wait("both pods to be seen", lambda: seen() == pods)
    site.delete("paul.yaml")
    assert site.bare_pod_sources() == set()
