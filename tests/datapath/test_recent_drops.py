"""What a floating IP's packets are dropped for is told while it lasts (rules H1, B4, Q4)."""

from ipaddress import IPv4Address

from service.datapath.recent_drops import RecentDrops
from service.model.drop import DropReason

SECOND_NS = 1_000_000_000
ADDRESS, OTHER = IPv4Address("192.168.1.100"), IPv4Address("192.168.1.101")
NO_ROUTE, QUOTA = ("no_route", str(ADDRESS)), ("quota", str(ADDRESS))


def test_what_is_lost_for_want_of_a_route_is_told_for_a_minute_after_the_last_packet() -> None:
    unrouted = RecentDrops(DropReason.NO_ROUTE)
    unrouted.note({}, now_ns=0)
    assert unrouted.addresses(now_ns=0) == ()
    unrouted.note({NO_ROUTE: 1}, now_ns=10 * SECOND_NS)
    assert unrouted.addresses(now_ns=69 * SECOND_NS) == (ADDRESS,)
    assert unrouted.addresses(now_ns=70 * SECOND_NS) == ()
    unrouted.note({NO_ROUTE: 1}, now_ns=70 * SECOND_NS)
    assert unrouted.addresses(now_ns=70 * SECOND_NS) == ()
    unrouted.note({NO_ROUTE: 2}, now_ns=80 * SECOND_NS)
    assert unrouted.addresses(now_ns=80 * SECOND_NS) == (ADDRESS,)


def test_what_was_lost_before_this_agent_and_what_is_lost_for_other_reasons_is_not_told() -> None:
    unrouted = RecentDrops(DropReason.NO_ROUTE)
    unrouted.note({NO_ROUTE: 7}, now_ns=0)
    unrouted.note({NO_ROUTE: 7, ("no_flow", str(OTHER)): 9, ("no_route", ""): 1}, now_ns=SECOND_NS)
    assert unrouted.addresses(now_ns=SECOND_NS) == ()


def test_b4_what_is_over_quota_is_told_of_the_policy_that_had_the_address_then_and_of_no_later_one() -> None:
    policies = {ADDRESS: "web"}
    over_quota = RecentDrops(DropReason.QUOTA, lambda floating_ip: policies.get(floating_ip, ""))
    over_quota.note({}, now_ns=0)
    over_quota.note({QUOTA: 3, ("quota", str(OTHER)): 1}, now_ns=SECOND_NS)
    assert over_quota.addresses(now_ns=SECOND_NS) == (ADDRESS, OTHER)
    policies[ADDRESS] = "next"
    assert over_quota.addresses(now_ns=2 * SECOND_NS) == (OTHER,)
    over_quota.note({QUOTA: 4, ("quota", str(OTHER)): 1}, now_ns=3 * SECOND_NS)
    assert over_quota.addresses(now_ns=3 * SECOND_NS) == (ADDRESS, OTHER)
