"""Which remote's ports run out first, and how fast more is wanted (rule Q2)."""

from ipaddress import IPv4Address

from service.agent.port_demand import Demand, PortDemand
from service.datapath.flow_scan import Remote

FIRST, SECOND = IPv4Address("192.168.1.100"), IPv4Address("192.168.1.101")
S = 1_000_000_000


def remote(number: int, floating_ip: IPv4Address = FIRST) -> Remote:
    return Remote(floating_ip.packed, IPv4Address(number).packed, b"\1\xbb", 6)


def test_a_remote_on_its_way_up_counts_before_the_busiest_one_that_stands_still() -> None:
    demand = PortDemand()
    demand.take({remote(1): 5_000, remote(2): 100}, {}, begun_ns=10 * S)
    demand.take({remote(1): 5_000, remote(2): 4_100}, {}, begun_ns=12 * S)
    assert demand.of(FIRST) == Demand(4_100, 2_000.0)
    demand.take({remote(1): 5_000, remote(2): 4_100}, {}, begun_ns=13 * S)
    assert demand.of(FIRST) == Demand(5_000, 0.0)


def test_each_floating_ip_has_its_own_and_one_without_flows_none() -> None:
    demand = PortDemand()
    demand.take({remote(1): 1, remote(1, SECOND): 7}, {}, begun_ns=S)
    assert (demand.of(FIRST).taken, demand.of(SECOND).taken) == (1, 7)
    demand.take({}, {}, begun_ns=2 * S)
    assert demand.of(SECOND) == Demand()


def test_where_ports_have_run_out_refused_flows_say_how_fast_more_is_wanted() -> None:
    demand = PortDemand()
    demand.take({remote(1): 64}, {FIRST: 1_000}, begun_ns=10 * S)
    demand.take({remote(1): 64}, {FIRST: 1_000}, begun_ns=11 * S)
    assert demand.of(FIRST) == Demand(64, 0.0), "those of long ago do not"
    demand.take({remote(1): 64}, {FIRST: 1_300, SECOND: 40}, begun_ns=13 * S)
    assert (demand.of(FIRST), demand.of(SECOND)) == (Demand(64, 150.0), Demand(0, 20.0))


def test_counters_that_begin_anew_are_no_demand() -> None:
    demand = PortDemand()
    demand.take({}, {FIRST: 1_000}, begun_ns=S)
    demand.take({}, {FIRST: 3}, begun_ns=2 * S)
    assert demand.of(FIRST) == Demand()
