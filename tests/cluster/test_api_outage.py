"""Nothing in the data path waits for the API server."""

import time
from pathlib import Path

import pytest

from service.lab.cluster.clients import client_name
from service.lab.fault import Fault
from tests.cluster.service_site import NODES, ServiceSite
from tests.e2e.site import FLOATING_IPS, policy

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
FIRST, SECOND = FLOATING_IPS[:2]
OUTAGE_S = 120.0
RIGHT_WITHIN_S = 5.0
KUBECTL_S = 5.0
"""What asking takes on a busy machine: each question starts a kubectl."""


def test_the_api_server_is_killed_and_restarted_under_traffic(service: ServiceSite) -> None:
    service.wait_whole()
    restarts = service.restarts()
    later = policy("later", SECOND, user="carol", role="other", destinations=("9.9.9.0/24",))
    with service.stream(client_name("alice", "worker1")) as stream:
        service.kill_api_server()
        time.sleep(3)
        service.start_api_server()
        report = stream.report()
    service.apply("", later)
    try:
        service.wait(
            "a change to be judged and in force",
            lambda: service.policy_status("later").get("holder"),
            timeout_s=RIGHT_WITHIN_S + KUBECTL_S,
        )
        service.wait_seen(client_name("carol", "worker1"), SECOND, "9.9.9.9")
    finally:
        service.remove(later)
    assert (report["lost"], set(report["sources"])) == (0, {FIRST})
    assert service.restarts() == restarts


def test_a_gateway_dies_while_the_api_server_is_away_for_two_minutes(service: ServiceSite, tmp_path: Path) -> None:
    service.wait_whole()
    holder = service.shown_holder(FIRST)
    assert holder is not None
    witness = next(node for node in NODES if node != holder)
    restarts = service.restarts(without=holder)
    pod, other = client_name("alice", witness), client_name("paul", witness)
    # Known by name from now on: the API server cannot be asked for them meanwhile.
    service.pod(other)
    with service.captured(tmp_path / "capture") as leaks, service.stream(pod) as stream:
        service.kill_api_server()
        stopped_s = time.monotonic()
        try:
            service.fault(holder, Fault.CUT, Fault.KILL)
            service.wait_seen(other, FIRST)
            time.sleep(max(0.0, stopped_s + OUTAGE_S - time.monotonic()))
        finally:
            service.start_api_server()
        returned_s = time.monotonic()
        wait_for_the_story(service, holder)
        right_s = time.monotonic() - returned_s
        report = stream.report()
        service.fault(holder, Fault.HEAL, Fault.RESTART)
    print(f"gap {report['gap_max_ms']} ms; status and Event right {right_s:.1f} s after the API server's return")
    assert set(report["sources"]) == {FIRST}
    assert report["gap_until_ns"] < report["last_sent_ns"]
    assert leaks() == []
    assert right_s < RIGHT_WITHIN_S + KUBECTL_S
    assert service.restarts(without=holder) == restarts
    service.cluster.wait_nodes()
    service.wait_rolled_out()
    service.wait_whole()


def wait_for_the_story(service: ServiceSite, dead: str) -> None:
    service.wait("status to say who holds it", lambda: service.moved_from(dead))
    service.wait("status to say who is down", lambda: service.gateway_status()["nodes"][dead] == "Down")
    events = ("-n", "kube-system", "get", "events.events.k8s.io", "-o", "yaml")
    service.wait("the Event of the move", lambda: service.said(f"{FIRST} moved from {dead}", *events))
