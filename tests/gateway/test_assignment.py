"""Assignment by the letter of the design, and its properties (hypothesis)."""

from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.gateway.assignment import assign
from service.model.assignment import Assignment
from service.model.gateway_node import GatewayNode, Hearing, NodeRole
from service.model.lease import Stamp
from tests.gateway.nodes import node

Table = dict[IPv4Address, Assignment]
CONTROL1 = node("control1", "192.168.1.10/24", role=NodeRole.CONTROL_PLANE)
WORKERS = [node(f"worker{number}", f"192.168.1.{10 + number}/24") for number in range(1, 6)]
THREE = [CONTROL1, *WORKERS[:2]]


def ips(*last: int) -> list[IPv4Address]:
    return [IPv4Address(f"192.168.1.{number}") for number in last]


def deaf(one: GatewayNode) -> GatewayNode:
    """Nobody answers it on its segments, though others are answered there (S5)."""
    return replace(one, segments=tuple(replace(segment, hearing=Hearing.DEAF) for segment in one.segments))


def place(
    addresses: list[IPv4Address],
    nodes: list[GatewayNode],
    previous: Table | None = None,
    holders: dict[IPv4Address, str] | None = None,
    *,
    term: int = 1,
    version: int = 1,
    ordered: dict[IPv4Address, str] | None = None,
    noticed: dict[IPv4Address, str] | None = None,
) -> Table:
    plan = assign(
        addresses, nodes, holders or {}, previous or {}, stamp=Stamp(term, version), ordered=ordered, noticed=noticed
    )
    rows = plan.rows
    assert [row.floating_ip for row in rows] == list(dict.fromkeys(addresses))
    return {row.floating_ip: row for row in rows}


def held_by(table: Table) -> list[str | None]:
    return [row.holder for row in table.values()]


def test_the_users_example_comes_out_as_written() -> None:
    table = place(ips(100, 101, 102), THREE)
    assert held_by(table) == ["worker1", "worker2", "worker1"]
    assert [row.successor for row in table.values()] == ["worker2", "worker1", "worker2"]
    assert {row.stamp for row in table.values()} == {Stamp(1, 1)}


def test_the_order_in_which_nodes_are_named_does_not_matter() -> None:
    assert place(ips(100, 101, 102), THREE) == place(ips(100, 101, 102), THREE[::-1])


def test_the_present_holder_stays_though_others_are_idle() -> None:
    holders = dict.fromkeys(ips(100, 101), "worker2")
    assert held_by(place(ips(100, 101), THREE, holders=holders)) == ["worker2", "worker2"]


def test_a_control_plane_node_that_holds_keeps_it() -> None:
    assert held_by(place(ips(100), THREE, holders={ips(100)[0]: "control1"})) == ["control1"]


def test_control_plane_nodes_serve_when_no_worker_can() -> None:
    table = place(ips(100), [CONTROL1, node("worker1", "192.168.1.11/24", up=False)])
    assert held_by(table) == ["control1"]


@pytest.mark.parametrize("lost", [{"up": False}, {"ready": False}])
def test_a_node_that_no_longer_qualifies_gives_way_to_its_successor(lost: dict[str, bool]) -> None:
    before = place(ips(100, 101, 102, 103), [*WORKERS[:3]])
    nodes = [node("worker1", "192.168.1.11/24", **lost), *WORKERS[1:3]]
    # A lease ends with its node.
    holders = {ip: row.holder for ip, row in before.items() if row.holder != "worker1"}
    after = place(ips(100, 101, 102, 103), nodes, before, holders, version=2)
    for ip, row in before.items():
        assert after[ip].holder == (row.successor if row.holder == "worker1" else row.holder)


@pytest.mark.parametrize("lost", [{"up": False}, {"ready": False}])
def test_a_live_lease_is_not_revoked_because_its_agent_is_away(lost: dict[str, bool]) -> None:
    """Rule S2; seen end to end: an agent that restarted slowly lost its address by a planned move."""
    before = place(ips(100), WORKERS[:3])
    nodes = [node("worker1", "192.168.1.11/24", **lost), *WORKERS[1:3]]
    after = place(ips(100), nodes, before, {ips(100)[0]: "worker1"}, version=2)
    assert after == before


@pytest.mark.parametrize("leaves", [{"schedulable": False}, {"selected": False}])
def test_o1_who_shall_give_up_does_so_to_the_successor_that_has_had_notice(leaves: dict[str, bool]) -> None:
    before = place(ips(100, 101, 102, 103), [*WORKERS[:3]])
    nodes = [replace(WORKERS[0], **leaves), *WORKERS[1:3]]  # type: ignore[arg-type]
    holders = {ip: row.holder for ip, row in before.items() if row.holder is not None}
    waiting = place(ips(100, 101, 102, 103), nodes, before, holders, version=2)
    assert held_by(waiting) == held_by(before)
    heirs = {ip: row.successor for ip, row in waiting.items() if row.holder == "worker1" and row.successor}
    assert heirs == {ip: row.successor for ip, row in before.items() if row.holder == "worker1"}
    after = place(ips(100, 101, 102, 103), nodes, waiting, holders, version=3, noticed=heirs)
    assert [row.holder for row in after.values()] == [heirs.get(ip, row.holder) for ip, row in before.items()]
    assert "worker1" not in [row.successor for row in after.values()]


def test_o1_notice_that_another_node_had_is_none() -> None:
    before = place(ips(100), WORKERS[:3])
    nodes = [replace(WORKERS[0], schedulable=False), *WORKERS[1:3]]
    after = place(ips(100), nodes, before, {ips(100)[0]: "worker1"}, noticed={ips(100)[0]: "worker3"})
    assert held_by(after) == ["worker1"]


@pytest.mark.parametrize("lone", [{"schedulable": False}, {"selected": False}, {"schedulable": False, "drained": True}])
def test_o1_what_nobody_else_can_take_stays_where_it_is_and_says_why(lone: dict[str, bool]) -> None:
    nodes = [replace(WORKERS[0], **lone), replace(WORKERS[1], ready=False)]  # type: ignore[arg-type]
    (row,) = place(ips(100), nodes, holders={ips(100)[0]: "worker1"}).values()
    assert (row.holder, row.successor) == ("worker1", None)
    assert row.reason.endswith("and no other node can take 192.168.1.100: 1 not ready")


@pytest.mark.parametrize("others", [1, 2])
def test_o1_a_move_that_the_row_has_made_is_not_taken_back(others: int) -> None:
    """Electors' word is late: the heir may have the address, and would lose it to whom it came from."""
    (ip,) = ips(100)
    before = {ip: Assignment(ip, "worker2", None, Stamp(1, 3))}
    nodes = [replace(one, selected=False) for one in WORKERS[:2]] + WORKERS[2 : 1 + others]
    waiting = place([ip], nodes, before, {ip: "worker1"}, version=4, noticed={ip: "worker2"})
    assert waiting[ip].holder == "worker2"
    # One that is dead has not taken it.
    dead = [nodes[0], replace(nodes[1], ready=False), *nodes[2:]]
    assert place([ip], dead, before, {ip: "worker1"}, version=4, noticed={ip: "worker2"})[ip].holder == "worker1"


def test_o1_an_address_whose_holder_is_not_seen_for_a_moment_stays_too_where_nobody_else_can_take_it() -> None:
    (ip,) = ips(100)
    before = {ip: Assignment(ip, "worker1", "worker2", Stamp(1, 3))}
    nodes = [replace(one, schedulable=False) for one in WORKERS[:2]]
    (row,) = place([ip], nodes, before, version=4).values()
    assert (row.holder, row.successor) == ("worker1", None)
    assert "no other node can take" in row.reason
    assert held_by(place([ip], nodes[1:], before, version=4)) == [None]


def test_o2_an_address_for_which_the_selector_leaves_no_node_says_so() -> None:
    nodes = [replace(one, selected=False) for one in WORKERS[:2]]
    (row,) = place(ips(100), nodes).values()
    assert row.holder is None
    assert row.reason.endswith("can hold it: 2 not selected by spec.nodeSelector")


def test_o4_an_ordered_address_goes_to_the_node_that_was_named_and_stays_there() -> None:
    before = place(ips(100), WORKERS[:4])
    (ip,) = ips(100)
    ordered = {ip: "worker4"}
    waiting = place(ips(100), WORKERS[:4], before, {ip: "worker1"}, version=2, ordered=ordered)
    assert (waiting[ip].holder, waiting[ip].successor) == ("worker1", "worker4")
    after = place(ips(100), WORKERS[:4], waiting, {ip: "worker1"}, version=3, ordered=ordered, noticed=ordered)
    assert after[ip].holder == "worker4"
    assert place(ips(100), WORKERS[:4], after, {ip: "worker4"}, version=4, ordered=ordered)[ip].holder == "worker4"
    assert place(ips(100), WORKERS[:4], after, {ip: "worker4"}, version=4)[ip].holder == "worker4"


def test_a_returning_node_gets_nothing_back() -> None:
    before = place(ips(100, 101), [CONTROL1, node("worker1", "192.168.1.11/24", up=False), WORKERS[1]])
    after = place(ips(100, 101), THREE, before, {ip: row.holder for ip, row in before.items()}, version=2)
    assert held_by(after) == ["worker2", "worker2"]
    # It is of use again as successor, before the control plane.
    assert {row.successor for row in after.values()} == {"worker1"}


def test_the_successor_that_took_over_by_itself_is_the_holder() -> None:
    before = place(ips(100), THREE)
    after = place(ips(100), THREE, before, {ips(100)[0]: "worker2"}, version=2)
    assert held_by(after) == ["worker2"]
    assert after[ips(100)[0]].stamp == Stamp(1, 2)


def test_unchanged_rows_keep_their_stamp_under_a_new_leader() -> None:
    before = place(ips(100, 101), THREE)
    after = place(ips(100, 101, 102), THREE, before, term=7, version=9)
    assert [row.stamp for row in after.values()] == [Stamp(1, 1), Stamp(1, 1), Stamp(7, 9)]


def test_one_nodes_death_spreads() -> None:
    addresses = ips(*range(100, 112))
    table = place(addresses, [CONTROL1, *WORKERS[:4]])
    for name in ("worker1", "worker2", "worker3", "worker4"):
        heirs = Counter(row.successor for row in table.values() if row.holder == name)
        assert set(heirs.values()) == {1}
        assert len(heirs) == 3


def test_a_new_node_takes_over_standing_claims_only_for_balance() -> None:
    addresses = ips(*range(100, 106))
    two = place(addresses, WORKERS[:2])
    three = place(addresses, WORKERS[:3], two, version=2)
    assert held_by(three) == held_by(two)
    moved = [ip for ip in addresses if three[ip].successor != two[ip].successor]
    assert moved
    assert len(moved) < len(addresses)


def test_a_lone_node_has_no_successor() -> None:
    (row,) = place(ips(100), WORKERS[:1]).values()
    assert (row.holder, row.successor, row.reason) == ("worker1", None, "")


@pytest.mark.parametrize(
    ("address", "nodes", "words"),
    [
        ("10.9.9.9", THREE, "no node has an interface in a subnet that contains 10.9.9.9"),
        ("192.168.1.100", [], "no node has an interface"),
        ("192.168.1.11", THREE, "own address of node worker1"),
        ("192.168.1.0", THREE, "network address"),
        ("192.168.1.255", THREE, "broadcast address"),
        (
            "192.168.1.100",
            [
                node("a", "192.168.1.1/24", up=False),
                node("b", "192.168.1.2/24", ready=False),
                node("c", "192.168.1.3/24", schedulable=False),
                node("d", "192.168.1.4/24", schedulable=False),
                node("controller", "192.168.1.5/24", role=NodeRole.CONTROLLER),
                deaf(node("e", "192.168.1.6/24")),
            ],
            "1 down, 1 not ready, 1 deaf on the segment, 2 cordoned or draining",
        ),
    ],
)
def test_an_address_nobody_can_hold_says_why(address: str, nodes: list[GatewayNode], words: str) -> None:
    (row,) = place([IPv4Address(address)], nodes).values()
    assert (row.holder, row.successor) == (None, None)
    assert words in row.reason


def test_s5_a_deaf_node_holds_nothing_on_the_segment_and_succeeds_nobody() -> None:
    before = place(ips(100), WORKERS[:2])
    after = place(ips(100), [deaf(WORKERS[0]), WORKERS[1]], before, {ips(100)[0]: "worker1"}, version=2)
    assert [(row.holder, row.successor) for row in after.values()] == [("worker2", None)]
    two_links = replace(WORKERS[0], segments=(*deaf(WORKERS[0]).segments, *WORKERS[0].segments))
    assert held_by(place(ips(100), [two_links], before)) == ["worker1"], "by its other link it is reached"


def test_only_nodes_on_the_segment_qualify() -> None:
    table = place(
        [IPv4Address("10.0.0.50"), IPv4Address("192.168.1.100")],
        [node("a", "10.0.0.1/24"), node("b", "192.168.1.1/24", "10.0.0.2/24"), node("c", "172.16.0.1/24")],
    )
    assert [(row.holder, row.successor) for row in table.values()] == [("a", "b"), ("b", None)]


NODES = st.lists(
    st.builds(
        lambda number, nets, role, up, ready, schedulable: node(
            f"n{number}",
            *(f"10.0.{net}.{number + 1}/24" for net in nets),
            role=role,
            up=up,
            ready=ready,
            schedulable=schedulable,
        ),
        st.integers(0, 7),
        st.sets(st.integers(0, 1), min_size=1).map(sorted),
        st.sampled_from([NodeRole.WORKER, NodeRole.WORKER, NodeRole.CONTROL_PLANE, NodeRole.CONTROLLER]),
        *(st.sampled_from([True, True, True, False]) for _ in range(3)),
    ),
    max_size=8,
    unique_by=lambda item: item.name,
)
ADDRESSES = st.lists(
    st.builds(lambda net, last: IPv4Address(f"10.0.{net}.{last}"), st.integers(0, 2), st.integers(0, 30)),
    max_size=12,
    unique=True,
)
HOLDERS = st.dictionaries(
    ADDRESSES.filter(bool).map(lambda found: found[0]), st.sampled_from([f"n{i}" for i in range(8)])
)


def qualifies(name: str | None, ip: IPv4Address, nodes: list[GatewayNode]) -> bool:
    for item in nodes:
        if item.name == name:
            usable = item.role is not NodeRole.CONTROLLER and item.state == "Up" and item.ready and item.schedulable
            return usable and any(ip in part.network for part in item.segments)
    return False


def may_keep(item: GatewayNode, ip: IPv4Address) -> bool:
    """Whether a node with a live lease keeps it, up or not."""
    on_segment = any(ip in part.network for part in item.segments)
    return item.role is not NodeRole.CONTROLLER and on_segment


def is_forbidden(ip: IPv4Address, nodes: list[GatewayNode]) -> bool:
    return any(ip in (part.address, part.network[0], part.network[-1]) for item in nodes for part in item.segments)


@settings(max_examples=300, deadline=None)
@given(ADDRESSES, NODES, HOLDERS)
def test_rows_are_sound(
    addresses: list[IPv4Address], nodes: list[GatewayNode], holders: dict[IPv4Address, str]
) -> None:
    table = place(addresses, nodes, holders=holders)
    for ip, row in table.items():
        fit = [item for item in nodes if qualifies(item.name, ip, nodes) and not is_forbidden(ip, nodes)]
        present = holders.get(ip)
        is_kept = any(item.name == present and may_keep(item, ip) for item in nodes) and not is_forbidden(ip, nodes)
        is_asked_to_go = any(item.name == present and not item.schedulable for item in nodes)
        if is_kept:
            # Who shall give it up has it until the successor has had notice, and where there is none.
            assert row.holder == present
            assert bool(row.reason) == (is_asked_to_go and row.successor is None)
        else:
            assert row.holder is None or any(item.name == row.holder for item in fit)
            assert (row.holder is None) == (not fit)
            assert (row.holder is None) == bool(row.reason)
        others = [item for item in fit if item.name != row.holder]
        assert (row.successor is None) == (row.holder is None or not others)
        assert row.successor is None or any(item.name == row.successor for item in others)


@settings(max_examples=300, deadline=None)
@given(ADDRESSES, NODES, HOLDERS, st.booleans())
def test_o3_a_node_that_is_to_be_emptied_is_given_nothing(
    addresses: list[IPv4Address], nodes: list[GatewayNode], holders: dict[IPv4Address, str], has_notice: bool
) -> None:
    first = place(addresses, nodes, holders=holders)
    heirs = {ip: row.successor for ip, row in first.items() if row.successor} if has_notice else {}
    table = place(addresses, nodes, first, holders, version=2, noticed=heirs)
    leaving = {item.name for item in nodes if not item.schedulable}
    for ip, row in table.items():
        assert row.successor not in leaving
        assert row.holder not in leaving or row.holder == holders.get(ip)
        if row.holder in leaving and has_notice:
            # Only what nobody else can take is left there.
            assert row.successor is None
            assert row.reason


@settings(max_examples=300, deadline=None)
@given(ADDRESSES, NODES, HOLDERS, NODES)
def test_it_is_stable_under_re_run(
    addresses: list[IPv4Address], nodes: list[GatewayNode], holders: dict[IPv4Address, str], later: list[GatewayNode]
) -> None:
    first = place(addresses, nodes, holders=holders)
    assert place(addresses, nodes, first, holders, version=2) == first
    moved = {ip: row.holder for ip, row in first.items() if row.holder}
    assert place(addresses, nodes, first, moved, version=2) == first
    second = place(addresses, later, first, moved, version=2)
    assert place(addresses, later, second, moved, version=3) == second


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.integers(2, 6))
def test_load_is_even_and_stays_even_when_any_node_dies(count: int, size: int) -> None:
    nodes = [node(f"n{number}", f"10.0.0.{200 + number}/24") for number in range(size)]
    table = place([IPv4Address(f"10.0.0.{number}") for number in range(1, count + 1)], nodes)
    held = Counter(row.holder for row in table.values())
    assert max(held.values()) - min(held[item.name] for item in nodes) <= 1
    for dead in (item.name for item in nodes):
        after = Counter(row.successor if row.holder == dead else row.holder for row in table.values())
        loads = [after[item.name] for item in nodes if item.name != dead]
        assert max(loads) - min(loads) <= 1
