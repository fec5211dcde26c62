"""What operators do on purpose: addresses move without anybody noticing, and every order ends and says how."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.lab.configuration import member_folder
from service.lab.fault import Fault
from service.model.audit_record import RecordKind
from tests.command.invocation import invoke
from tests.e2e.site import FLOATING_IPS, Site, gateway

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.e2e, pytest.mark.timeout(240)]

FIRST = FLOATING_IPS[0]
_BACK_S = 0.3
"""For the answers to what waited."""


def order(site: Site, *words: str, member: str = "controller1") -> tuple[int, str]:
    """As an operator types it on the machine of that member: exit status and what was printed."""
    result = invoke(*words, "--run-dir", member_folder(site.lab.folder, member) / "run")
    return result.exit_code, result.output


def holders(site: Site) -> dict[str, Any]:
    return {address: row["holder"] for address, row in site.status()["floatingIPs"].items()}


def pod_away_from(site: Site, *nodes: str) -> str:
    return next(pod.full_name for pod in site.lab.plan.pods if pod.namespace == "alice" and pod.node not in nodes)


@pytest.fixture(autouse=True)
def whole(site: Site) -> Iterator[None]:
    """Each test finds every node eligible, and leaves it so."""
    site.wait_whole()
    yield
    site.apply("gateway.yaml", gateway(*FLOATING_IPS))
    for node in site.lab.plan.nodes:
        assert order(site, "undrain", node.name)[0] == 0


def test_o3_a_drain_empties_a_node_under_traffic_and_survives_every_restart(site: Site) -> None:
    drained = str(site.holder(FIRST))
    had = [address for address, name in holders(site).items() if name == drained]
    others = [node.name for node in site.lab.plan.nodes if node.name != drained]
    with site.stream(pod_away_from(site, drained)) as stream:
        status, said = order(site, "drain", drained)
        report = stream.report()
    assert status == 0, said
    assert all(f"{address}: moved from {drained} to " in said for address in had)
    assert said.endswith(f"{len(had)} floating IPs moved, none is left on {drained}\n")
    assert drained not in holders(site).values()
    assert (list(report["sources"]), report["broken"]) == ([FIRST], "")
    assert site.status()["nodes"][drained]["drained"]
    # Everything that could have forgotten it begins anew; agents and controllers only, so no address moves meanwhile.
    for member in site.lab.plan.members:
        site.fault(member, Fault.KILL, only=None if member.startswith("controller") else "agent")
    for member in site.lab.plan.members:
        site.fault(member, Fault.RESTART)
    site.wait_whole()
    site.wait("the drain to be known again", lambda: site.status(others[0])["nodes"][drained]["drained"])
    assert order(site, "move", FIRST, drained) == (
        1,
        f"{FIRST}: ordered to {drained}; on {site.holder(FIRST)} now\n"
        f"{FIRST}: not moved: node {drained} cannot hold it: drained\n",
    )
    kinds = [(record.kind, record.subject) for record in site.records()]
    assert (RecordKind.DRAIN_STARTED, drained) in kinds
    # Any member will do.
    assert order(site, "undrain", drained, member=others[0])[0] == 0
    site.wait("the end of the drain", lambda: not site.status()["nodes"][drained]["drained"])
    assert drained not in holders(site).values(), "nothing is given back"
    assert order(site, "move", FIRST, drained)[0] == 0


def test_o1_what_nobody_else_can_take_stays_and_goes_on_serving(site: Site) -> None:
    *others, last = sorted((node.name for node in site.lab.plan.nodes), key=lambda name: name == site.holder(FIRST))
    with site.stream(pod_away_from(site, last), interval_ms=20) as stream:
        for node in others:
            assert order(site, "drain", node)[0] == 0
        status, said = order(site, "drain", last)
        report = stream.report()
    assert status == 1
    assert f"{FIRST}: stays on {last}: node {last} is drained, and no other node can take {FIRST}" in said
    assert set(holders(site).values()) == {last}
    assert list(report["sources"]) == [FIRST]


def test_o4_an_address_is_moved_to_the_node_that_is_named_and_from_there_to_the_best_other(site: Site) -> None:
    source = str(site.holder(FIRST))
    target = next(node.name for node in site.lab.plan.nodes if node.name != source)
    with site.stream(pod_away_from(site, source, target)) as stream:
        status, said = order(site, "move", FIRST, target)
        report = stream.report()
    assert (status, said.splitlines()[-1]) == (0, f"{FIRST}: moved from {source} to {target}")
    assert site.holder(FIRST) == target
    assert (list(report["sources"]), report["broken"]) == ([FIRST], "")
    status, said = order(site, "move", FIRST, member=source)
    assert status == 0
    assert site.holder(FIRST) != target
    assert order(site, "move", "192.168.1.199")[0] == 2


def test_r4_a_move_on_purpose_loses_no_packet_of_a_pod_wherever_it_is(site: Site) -> None:
    """On the former holder, on the next one, and on neither. A machine that stands still for longer than packets wait
    loses some all the same: of four moves one has to lose none."""
    nodes = [node.name for node in site.lab.plan.nodes]
    pods = {pod.node: pod.full_name for pod in site.lab.plan.pods if pod.namespace == "alice"}
    lost: list[dict[str, int]] = []
    while len(lost) < 4 and not (lost and not any(lost[-1].values())):
        site.wait_whole()
        target = next(name for name in nodes if name != site.holder(FIRST))
        with contextlib.ExitStack() as stack:
            streams = {name: stack.enter_context(site.stream(pods[name], interval_ms=2)) for name in nodes}
            status, said = order(site, "move", FIRST, target)
            assert status == 0, said
            time.sleep(_BACK_S)
            reports = {name: stream.report() for name, stream in streams.items()}
        assert {source for report in reports.values() for source in report["sources"]} == {FIRST}
        lost.append({name: report["lost"] for name, report in reports.items()})
    assert not any(lost[-1].values()), lost


def test_a_rebalance_spreads_what_a_drain_has_heaped_up_and_a_dry_run_changes_nothing(site: Site) -> None:
    workers = [node.name for node in site.lab.plan.nodes if node.name.startswith("worker")]
    for address in FLOATING_IPS:
        assert order(site, "move", address, workers[0])[0] == 0
    before = holders(site)
    assert set(before.values()) == {workers[0]}
    status, said = order(site, "rebalance", "--dry-run")
    assert (status, said.count("would move from")) == (0, 1)
    assert holders(site) == before
    status, said = order(site, "rebalance")
    assert (status, said.splitlines()[-1]) == (0, "1 of 1 moved")
    assert sorted(map(list(holders(site).values()).count, workers)) == [1, 2]
    status, said = order(site, "rebalance")
    assert (status, said.startswith("the load is even")) == (0, True)


def test_o2_only_selected_nodes_hold_addresses_and_why_names_the_selector(site: Site) -> None:
    chosen = next(node.name for node in site.lab.plan.nodes if node.name != site.holder(FIRST))
    document = gateway(*FLOATING_IPS)
    document["spec"]["nodeSelector"] = {"matchLabels": {"kubernetes.io/hostname": chosen}}
    site.apply("gateway.yaml", document)
    site.wait(f"all addresses on {chosen}", lambda: set(holders(site).values()) == {chosen})
    document["spec"]["floatingIPs"] = [*FLOATING_IPS, "192.168.1.109"]
    document["spec"]["nodeSelector"] = {"matchLabels": {"rack": "nowhere"}}
    site.apply("gateway.yaml", document)
    words = "not selected by spec.nodeSelector"
    site.wait("the reason", lambda: words in site.status()["floatingIPs"].get("192.168.1.109", {}).get("reason", ""))
    site.wait("the others", lambda: words in site.status()["floatingIPs"][FIRST]["reason"])
    assert set(holders(site).values()) == {chosen, None}, "what is held stays where it serves"


def test_a_folder_that_is_no_process_is_told_in_one_line(site: Site, tmp_path: Path) -> None:
    result = invoke("drain", "worker1", "--run-dir", tmp_path)
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
