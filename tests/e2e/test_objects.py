"""Objects change while traffic runs: what is concerned follows, what is not loses nothing, and nothing ever leaks."""

import contextlib
import socket
import subprocess
import time
from pathlib import Path

import pytest

from service.lab.fault import Fault
from service.lab.namespace import inside
from service.lab.plan import TCP_PORT, UDP_PORT
from service.lab.traffic.leak_check import tenures_of
from service.model.objects import Kind, ObjectKey
from service.report.validity import RENEW_NS, VALID_NS
from service.sources.manifests.status_file import StatusFolder
from tests.e2e.site import ELSEWHERE, FLOATING_IPS, OUTSIDE, Site, gateway, policy

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.e2e, pytest.mark.timeout(180)]

FIRST, SECOND, THIRD = FLOATING_IPS
CONTROL1, WORKER1, WORKER2 = "192.168.1.11", "192.168.1.21", "192.168.1.22"


def test_assignment_is_as_documented_and_status_is_written_beside_the_manifests(site: Site) -> None:
    held = {floating_ip: site.holder(floating_ip) for floating_ip in FLOATING_IPS}
    assert held == {FIRST: "worker1", SECOND: "worker2", THIRD: "worker1"}
    written = site.lab.manifests / "status"

    def told() -> str:
        return "".join(path.read_text(encoding="utf-8") for path in written.glob("anthosnetworkgateway*"))

    site.wait("the gateway's status", lambda: f"{FIRST}: worker1" in told() and "worker2: Up" in told())


@pytest.mark.parametrize("proto", ["udp", "tcp", "ping"])
@pytest.mark.parametrize("node", ["control1", "worker1", "worker2"])
def test_a_selected_pod_is_seen_as_the_floating_ip_from_every_node(site: Site, node: str, proto: str) -> None:
    assert site.seen(f"alice/frontend-{node}", proto=proto) == FIRST


def test_other_pods_and_other_destinations_are_left_as_they_were(site: Site) -> None:
    assert site.seen("carol/other-worker1") == WORKER1
    assert site.seen("paul/frontend-worker2") == WORKER2
    assert site.seen("alice/frontend-worker2", ELSEWHERE) == WORKER2


def test_e2_a_connection_that_is_closed_after_its_policy_has_gone_is_reset_and_leaks_nothing(
    site: Site, tmp_path: Path
) -> None:
    """Connection tracking, which knows nothing of it any more, takes a FIN for invalid: nobody would translate it."""
    pod = "alice/frontend-worker2"
    opened = inside(site.pod(pod).netns, lambda: socket.create_connection((OUTSIDE, TCP_PORT), timeout=5.0))
    with opened as connection, site.captured(tmp_path / "frames") as leaks:
        connection.sendall(b"before\n")
        assert connection.recv(100).startswith(FIRST.encode())
        site.delete("alice.yaml")
        try:
            site.wait_seen(pod, WORKER2)
            connection.shutdown(socket.SHUT_WR)
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
        finally:
            site.apply("alice.yaml", policy("alice", FIRST, user="alice"))
        site.wait_seen(pod, FIRST)
    assert leaks() == []


def test_c16_a_socket_with_the_ports_of_an_old_flow_is_answered_at_once_when_its_policy_has_another_address(
    site: Site, tmp_path: Path
) -> None:
    """One in two hundred new sockets lost its first datagram, for minutes after an edit: ports come again by chance."""
    pod, ports = "alice/frontend-worker2", range(40_000, 40_020)

    def sources() -> set[str]:
        return {inside(site.pod(pod).netns, lambda port=port: ask_from(port)) for port in ports}

    with site.captured(tmp_path / "frames") as leaks:
        assert sources() == {FIRST}
        time.sleep(1.0)  # Nobody may think of one conversation any more.
        for floating_ip in (SECOND, FIRST):
            site.apply("alice.yaml", policy("alice", floating_ip, user="alice"))
            site.wait_seen(pod, floating_ip)
            assert sources() == {floating_ip}
    assert leaks() == []


def ask_from(port: int) -> str:
    """As which source one datagram from that port is answered; it is not repeated."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(1.0)
        client.bind(("", port))
        client.connect((OUTSIDE, UDP_PORT))
        client.send(b"again\n")
        return client.recv(256).split()[0].decode("ascii")


def test_changes_for_others_lose_no_packet_of_pods_that_are_not_concerned(site: Site, tmp_path: Path) -> None:
    site.wait_whole()
    with (
        site.captured(tmp_path / "frames") as leaks,
        site.stream("alice/frontend-worker2") as steered,
        site.stream("carol/other-control1") as plain,
    ):
        site.apply("paul.yaml", policy("paul", SECOND, user="paul"))
        site.wait_seen("paul/frontend-control1", SECOND)
        site.relabel(site.pod("paul/frontend-worker1"), "backend")
        site.wait_seen("paul/frontend-worker1", WORKER1)
        site.relabel(site.pod("paul/frontend-worker1"), "frontend")
        site.wait_seen("paul/frontend-worker1", SECOND)
        site.apply("gateway.yaml", gateway(*FLOATING_IPS, "192.168.1.103"))
        site.wait_held("192.168.1.103")
        site.apply("gateway.yaml", gateway(*FLOATING_IPS))
        site.wait("the fourth address to be gone", lambda: "192.168.1.103" not in site.status()["floatingIPs"])
        site.delete("paul.yaml")
        site.wait_seen("paul/frontend-control1", CONTROL1)
        for stream, source in ((steered, FIRST), (plain, CONTROL1)):
            report = stream.report()
            assert report["lost"] == 0
            assert list(report["sources"]) == [source]
    assert leaks() == []
    assert site.bare_pod_sources() == set()


def test_an_open_flow_follows_the_policy_and_never_shows_the_pods_own_address(site: Site) -> None:
    """Rule W10: connection tracking of before and after must not decide the source."""
    with site.stream("paul/frontend-worker2", interval_ms=3.0) as stream:
        site.wait("the stream to be seen as the node", lambda: site.seen("paul/frontend-worker2") == WORKER2)
        site.apply("paul.yaml", policy("paul", SECOND, user="paul"))
        site.wait_seen("paul/frontend-worker2", SECOND)
        site.apply("paul.yaml", policy("paul", THIRD, user="paul"))
        site.wait_seen("paul/frontend-worker2", THIRD)
        site.delete("paul.yaml")
        site.wait_seen("paul/frontend-worker2", WORKER2)
        length = site.log_length()
        site.wait("the open flow to go on", lambda: site.log_length() > length + 2000)
        report = stream.report()
    assert list(report["sources"]) == [WORKER2, SECOND, THIRD]
    assert [change["source"] for change in report["changes"]] == [WORKER2, SECOND, THIRD, WORKER2]
    assert site.bare_pod_sources() == set()


def test_the_older_of_two_policies_with_one_address_wins_and_the_other_is_told_why(site: Site) -> None:
    site.apply("aaa-younger.yaml", policy("younger", FIRST, user="carol", role="other"))
    try:
        site.wait("the younger policy to be refused", lambda: "younger" in site.status()["policies"])
        younger = site.status()["policies"]["younger"]
        assert (younger["accepted"], younger["reason"]) == (False, "EgressIPConflict")
        assert "alice" in younger["message"]
        assert site.seen("carol/other-worker1") == WORKER1
        assert site.seen("alice/frontend-worker1") == FIRST
    finally:
        site.delete("aaa-younger.yaml")


def test_packets_for_an_unknown_egress_ip_are_dropped_and_counted_never_sent_from_the_node(site: Site) -> None:
    def is_counted() -> bool:
        site.seen("carol/other-worker2", timeout_s=0.1)
        return site.drops("no_gateway") > before

    before = site.drops("no_gateway")
    site.apply("unknown.yaml", policy("unknown", "192.168.1.199", user="carol", role="other"))
    try:
        site.wait(
            "the packets to be dropped", lambda: site.seen("carol/other-worker2", timeout_s=0.2) == "nothing came"
        )
        site.wait("the drops to be counted", is_counted)
        assert site.status()["policies"]["unknown"]["reason"] == "UnknownEgressIP"
    finally:
        site.delete("unknown.yaml")
    site.wait_seen("carol/other-worker2", WORKER2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind: [", "alice.yaml"),
        ("apiVersion: networking.gke.io/v1alpha1\nkind: EgressNATPolicy\nmetadata: {name: alice}\nspec: {}\n", "spec."),
        (
            "apiVersion: networking.gke.io/v1alpha1\nkind: EgressNATPolicy\nmetadata: {name: alice}\n"
            "spec: {egress: [{podSelector: {}}], destinationCIDRs: [8.8.8.1/24], egressSourceIP: 192.168.1.100}\n",
            "spec.destinationCIDRs[0]",
        ),
    ],
)
def test_a_bad_file_is_reported_with_its_field_and_the_last_good_state_goes_on(
    site: Site, text: str, told: str
) -> None:
    with site.stream("alice/frontend-worker2") as stream:
        site.write("alice.yaml", text)
        site.wait("the error to be told", lambda: any(told in error for error in site.status()["errors"]))
        assert any("alice.yaml" in error for error in site.status()["errors"])
        assert site.seen("alice/frontend-control1") == FIRST
        site.apply("alice.yaml", policy("alice", FIRST, user="alice"))
        site.wait("the error to be gone", lambda: not site.status()["errors"])
        report = stream.report()
    assert report["lost"] == 0
    assert list(report["sources"]) == [FIRST]


def test_s9_an_address_that_is_taken_from_the_list_is_spoken_for_by_nobody_any_more(site: Site, tmp_path: Path) -> None:
    """Not by its successor, and not by what agents ask each other. Four times: who hears first is chance."""
    with site.captured(tmp_path / "frames") as leaks:
        for _ in range(4):
            site.wait_seen("alice/frontend-worker2", FIRST)
            before = tenures(site, FIRST)
            site.apply("gateway.yaml", gateway(SECOND, THIRD))
            site.wait("it to be let go of", lambda: site.holder(FIRST) is None)
            time.sleep(1.5)
            assert tenures(site, FIRST) == before
            site.apply("gateway.yaml", gateway(*FLOATING_IPS))
            site.wait_held(FIRST)
    assert leaks() == []


@pytest.mark.parametrize("after_s", [0.05, 0.15, 0.4])
def test_an_address_that_is_listed_again_at_once_serves_the_pods_of_every_node(site: Site, after_s: float) -> None:
    """Some have heard that it was none and forgotten whose ports are whose; its holder may not have."""
    site.apply("gateway.yaml", gateway(SECOND, THIRD))
    time.sleep(after_s)
    site.apply("gateway.yaml", gateway(*FLOATING_IPS))
    site.wait_held(FIRST)
    for node in ("control1", "worker1", "worker2"):
        site.wait_seen(f"alice/frontend-{node}", FIRST)


def test_q3_an_open_flow_goes_on_after_its_address_was_none_for_a_while(site: Site) -> None:
    """Long enough for what ended to be made anew by its pod's next packet: not with a port that is the node's no more.

    One node does without meanwhile, so that the others get other blocks than before.
    """
    pods = [f"alice/frontend-{node}" for node in ("worker1", "worker2")]
    away = site.pod("alice/frontend-control1")
    with contextlib.ExitStack() as stack:
        stack.callback(site.relabel, away, "frontend")
        streams = [stack.enter_context(site.stream(pod, interval_ms=10.0)) for pod in pods]
        time.sleep(1.0)
        site.apply("gateway.yaml", gateway(SECOND, THIRD))
        site.relabel(away, "backend")
        time.sleep(2.0)
        site.apply("gateway.yaml", gateway(*FLOATING_IPS))
        site.wait_held(FIRST)
        for pod in pods:
            site.wait_seen(pod, FIRST)
        time.sleep(4.0)
        reports = [stream.report() for stream in streams]
    for report in reports:
        assert report["received"] > 300, report
        assert list(report["sources"]) == [FIRST]


def tenures(site: Site, floating_ip: str) -> list[tuple[str, int]]:
    """Which nodes have had it, and since when."""
    found = tenures_of(site.records())
    return [(tenure.node, tenure.from_ns) for tenure in found if str(tenure.floating_ip) == floating_ip]


def test_a_floating_ip_that_is_a_nodes_own_is_refused_with_a_reason(site: Site) -> None:
    site.apply("gateway.yaml", gateway(*FLOATING_IPS, WORKER1, "192.168.1.255"))
    try:

        def told() -> bool:
            rows = site.status()["floatingIPs"]
            return all(
                rows.get(ip, {}).get("holder", "listed") is None and cause in rows[ip]["reason"]
                for ip, cause in ((WORKER1, "worker1"), ("192.168.1.255", "broadcast"))
            )

        site.wait("the bad addresses to be told with their causes", told)
        assert site.seen("alice/frontend-worker2") == FIRST
    finally:
        site.apply("gateway.yaml", gateway(*FLOATING_IPS))


def test_an_unselected_pod_loses_nothing_when_its_namespace_is_relabelled(site: Site) -> None:
    path = site.lab.manifests / "namespaces.yaml"
    text = path.read_text(encoding="utf-8")
    with site.stream("carol/other-worker1") as stream:
        site.write("namespaces.yaml", text.replace("user: carol", "user: charlotte"))
        site.wait_seen("alice/frontend-worker1", FIRST)
        site.write("namespaces.yaml", text)
        report = stream.report()
    assert report["lost"] == 0
    assert list(report["sources"]) == [WORKER1]


def test_ping_of_the_floating_ip_itself_is_answered_and_no_service_of_the_host_is_on_it(site: Site) -> None:
    """Rule G1: it is nobody's interface address."""
    router = ["nsenter", f"--net=/run/netns/{site.lab.plan.options.name}-router"]
    ping = subprocess.run([*router, "ping", "-c1", "-W2", FIRST], capture_output=True, check=False)
    assert ping.returncode == 0
    dial = [*router, "timeout", "1", "bash", "-c", "exec 3<>/dev/tcp/{}/9642"]
    by_node = subprocess.run([*dial[:-1], dial[-1].format(WORKER1)], capture_output=True, check=False)
    by_floating_ip = subprocess.run([*dial[:-1], dial[-1].format(FIRST)], capture_output=True, check=False)
    assert (by_node.returncode, by_floating_ip.returncode != 0) == (0, True)
    addresses = ["ip", "-n", site.lab.node("worker1").netns, "addr"]
    assert f"{FIRST}/" not in subprocess.run(addresses, capture_output=True, text=True, check=True).stdout


def test_destination_reached_by_the_second_uplink_is_left_alone(site: Site) -> None:
    assert site.seen("alice/frontend-worker1", "8.8.4.4") == "172.30.1.21"


def test_replies_from_where_another_uplink_leads_reach_the_pod(site: Site) -> None:
    """Seen end to end: nodes route 8.8.4.0/24 by eth1, and their strict rp_filter dropped every reply at eth0."""
    site.apply("second.yaml", policy("second", SECOND, user="paul", destinations=("8.8.4.0/24",)))
    try:
        for node in ("control1", "worker1", "worker2"):
            site.wait_seen(f"paul/frontend-{node}", SECOND, "8.8.4.4")
    finally:
        site.delete("second.yaml")


def test_v1_with_the_majority_lost_the_status_files_say_unknown_and_true_again_when_it_is_back(site: Site) -> None:
    """And a policy that is deleted meanwhile leaves nothing behind."""
    site.wait_whole()
    folder, second = StatusFolder(site.lab.manifests), ObjectKey(Kind.POLICY, "", "second")
    site.apply("second.yaml", policy("second", SECOND, user="paul", destinations=("8.8.4.0/24",)))
    site.wait("its status", lambda: second in folder.recorded())

    def said() -> set[str]:
        conditions = [item for found in folder.written() for item in found.status["conditions"]]
        return {item["status"] for item in conditions if item["type"] in ("Ready", "Accepted", "Schedulable")}

    site.wait("all to be well", lambda: said() == {"True"})
    for node in ("worker1", "worker2"):
        site.fault(node, Fault.KILL, only="keeper")
    site.wait("Unknown", lambda: said() == {"Unknown"}, timeout_s=(VALID_NS + 2 * RENEW_NS) / 1e9 + 5)
    validity = folder.validity()
    assert validity is not None
    assert validity.loss is not None
    assert validity.loss.reason == "MajorityLost"
    site.delete("second.yaml")
    site.wait("the policy to be gone", lambda: "second" not in site.status()["policies"])
    for node in ("worker1", "worker2"):
        site.fault(node, Fault.RESTART, only="keeper")
    site.wait("all to be well", lambda: said() == {"True"})
    assert second not in folder.recorded()
    site.wait_seen("alice/frontend-worker1", FIRST)
