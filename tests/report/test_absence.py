"""Why a floating IP is on no node, in one sentence."""

from ipaddress import IPv4Address

import pytest

from service.model.gateway_node import NodeState
from service.report.absence import Absence, find_absence
from service.report.facts import Sightings
from tests.report.facts import FIRST, Site, node, two_held

A = IPv4Address(FIRST)


def found(site: Site, address: IPv4Address = A) -> Absence:
    absence = find_absence(address, site.sightings(), site.conflicts)
    assert absence is not None
    return absence


def dark() -> Site:
    site = two_held()
    del site.held[FIRST]
    return site


def test_an_address_that_is_held_lacks_nothing() -> None:
    site = two_held()
    assert find_absence(A, site.sightings(), {A: b"\2\0\0\0\0\1"}) is None


def test_the_leaders_reason_is_given_where_no_node_can_hold_it() -> None:
    site = dark()
    site.place(FIRST, None, "no node has an interface in its subnet")
    assert found(site) == Absence("NoEligibleNode", "no node has an interface in its subnet")


@pytest.mark.parametrize(
    ("worker", "end"),
    [
        (node("worker1", 1), "has not"),
        (node("worker1", 1, state=NodeState.DOWN), "has not: it is down"),
        (node("worker1", 1, ready=False), "has not: it is not ready"),
        (None, "has not: it is not known"),
    ],
)
def test_who_is_to_take_it_is_named_with_what_is_wrong_there(worker: object, end: str) -> None:
    site = dark()
    site.nodes = tuple(one for one in (worker, node("worker2", 2)) if one is not None)  # type: ignore[assignment]
    assert found(site).message == f"node worker1 is to take {FIRST}, and {end}"
    assert found(site).reason == "NotHeld"


def test_a_stranger_and_a_nodes_own_address_come_before_what_the_leader_says() -> None:
    site = dark()
    site.conflicts = {A: b"\2\0\0\0\0\x63"}
    assert found(site).reason == "FloatingIPConflict"
    assert "02:00:00:00:00:63 answers" in found(site).message
    own = IPv4Address("192.168.1.2")
    site.conflicts = {own: b"\2\0\0\0\0\x63"}
    assert found(site, own).reason == "InvalidFloatingIP"
    assert "the own address of node worker2" in found(site, own).message


def test_before_any_leader_has_placed_it_that_is_what_is_said() -> None:
    assert find_absence(A, Sightings(), {}) == Absence("NotAssigned", f"no leader has assigned {FIRST} to a node yet")
