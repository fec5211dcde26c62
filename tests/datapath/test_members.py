"""What follows from who is there: the same object until it is otherwise, so that nothing is made of it in vain."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

from service.datapath.desired import LocalUplink
from service.datapath.members import Members
from service.datapath.topology import SegmentPath, TunnelPath
from service.gateway.transport import Proven
from service.model.gateway_node import GatewayNode, NodeState
from tests.agent.site import FLOATING_IP, node

UPLINKS = (LocalUplink(2, "eth0", b"\2\0\0\0\0\1", IPv4Interface("192.168.1.21/24"), True),)
ONE, TWO = node("worker1", 21), replace(node("worker2", 22), address=IPv4Address("192.168.1.22"), tunnels=True)


def members(*nodes: GatewayNode) -> Members:
    known = Members("worker1", "auto")
    known.nodes = nodes
    return known


def all_of(known: Members) -> list[object]:
    ask: tuple[Callable[[], object], ...] = (known.segments, known.numbers, known.names)
    return [*(one() for one in ask), known.topology(UPLINKS)]


def test_what_a_member_says_that_no_way_depends_on_leaves_all_as_it_was() -> None:
    known = members(ONE, TWO)
    before = all_of(known)
    for other in (replace(TWO, ready=False), replace(TWO, state=NodeState.DOWN), TWO):
        known.nodes = (ONE, other)
        assert all(now is former for now, former in zip(all_of(known), before, strict=True))


def test_what_is_made_anew_in_vain_is_still_the_same_object() -> None:
    known = members(ONE, TWO)
    before = all_of(known)
    known.forget()
    assert all(now is former for now, former in zip(all_of(known), before, strict=True))


def test_x1_a_member_is_reached_as_it_says_and_as_is_proven() -> None:
    known = members(ONE, TWO)
    assert isinstance(known.topology(UPLINKS).out("worker2", FLOATING_IP), TunnelPath)
    known.proven = Proven(out=frozenset({("worker2", FLOATING_IP)}))
    assert isinstance(known.topology(UPLINKS).out("worker2", FLOATING_IP), SegmentPath)
    known.proven = Proven()
    assert isinstance(known.topology(UPLINKS).out("worker2", FLOATING_IP), TunnelPath)
    known.nodes = (ONE, replace(TWO, tunnels=False))
    assert isinstance(known.topology(UPLINKS).out("worker2", FLOATING_IP), SegmentPath)
    known.nodes = (ONE,)
    assert known.topology(UPLINKS).out("worker2", FLOATING_IP) is None
    assert list(known.names().values()) == ["worker1"]


def test_whether_any_member_is_of_a_former_release_and_which_addresses_are_taken_follows_who_is_there() -> None:
    known = members(ONE, TWO)
    assert not known.has_former
    assert IPv4Address("192.168.1.22") in known.faults()
    known.nodes = (ONE, replace(TWO, translates=False, own_addresses=(FLOATING_IP,)))
    assert known.has_former
    assert FLOATING_IP in known.faults()
