"""A floating IP without a route of its own is told while packets are lost for it (rule H1)."""

from service.datapath.unrouted import Unrouted

SECOND_NS = 1_000_000_000
NO_ROUTE = ("no_route", "192.168.1.100")


def test_what_is_lost_for_want_of_a_route_is_told_for_a_minute_after_the_last_packet() -> None:
    unrouted = Unrouted()
    unrouted.note({}, now_ns=0)
    assert unrouted.troubles(now_ns=0) == []
    unrouted.note({NO_ROUTE: 1}, now_ns=10 * SECOND_NS)
    (line,) = unrouted.troubles(now_ns=69 * SECOND_NS)
    assert line.startswith("192.168.1.100: ")
    unrouted.note({NO_ROUTE: 1}, now_ns=70 * SECOND_NS)
    assert unrouted.troubles(now_ns=70 * SECOND_NS) == []
    unrouted.note({NO_ROUTE: 2}, now_ns=80 * SECOND_NS)
    assert len(unrouted.troubles(now_ns=80 * SECOND_NS)) == 1


def test_what_was_lost_before_this_agent_and_what_is_lost_for_other_reasons_is_not_told() -> None:
    unrouted = Unrouted()
    unrouted.note({NO_ROUTE: 7}, now_ns=0)
    unrouted.note({NO_ROUTE: 7, ("no_flow", "192.168.1.101"): 9}, now_ns=SECOND_NS)
    assert unrouted.troubles(now_ns=SECOND_NS) == []
