import pytest

from service.lab.lab import Lab
from service.lab.site import set_port_state
from service.lab.witness import Check, PodStream, check_pod, look, same, wait_for_calls
from service.model.errors import TransientError

pytestmark = pytest.mark.root


def test_a_pod_seen_as_its_node_in_every_protocol_proves_the_claim(site: Lab) -> None:
    pod = site.pod("paul/frontend-worker2")
    assert check_pod(site, pod, "9.9.9.9", "192.168.1.22") == same(
        "paul/frontend-worker2 to 9.9.9.9", "192.168.1.22", "192.168.1.22"
    )


def test_a_pod_seen_as_something_else_disproves_it(site: Lab) -> None:
    check = check_pod(site, site.pod("paul/frontend-worker2"), "9.9.9.9", "192.168.1.100")
    assert check == Check("paul/frontend-worker2 to 9.9.9.9", "192.168.1.100", "192.168.1.22", False)


def test_a_call_that_does_not_arrive_is_told(site: Lab) -> None:
    port = site.node("worker1").port(0)
    set_port_state(site.plan, port, forwarding=False)
    try:
        assert look(site, site.pod("alice/frontend-worker1"), "udp", "8.8.8.8", timeout_s=0.1) == "nothing came"
    finally:
        set_port_state(site.plan, port, forwarding=True)


def test_a_stream_is_seen_while_it_runs_and_measured_at_its_end(site: Lab) -> None:
    stream = PodStream(site, site.pod("alice/frontend-control1"), "tcp", "8.8.8.8", interval_ms=5)
    try:
        wait_for_calls(site, "tcp", "192.168.1.11", 20, timeout_s=10)
        report = stream.report()
    finally:
        stream.close()
    assert report["received"] >= 20
    assert report["sources"] == {"192.168.1.11": report["received"]}


def test_calls_that_do_not_come_are_not_waited_for_for_ever(site: Lab) -> None:
    with pytest.raises(TransientError, match="did not see 1 udp calls"):
        wait_for_calls(site, "udp", "192.0.2.1", 1, timeout_s=0.05)
