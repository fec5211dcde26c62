"""What a rebalance moves: nothing that is even, as few as can be, and never to a node that could not hold it."""

from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Address
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from service.gateway.assignment import candidates, role_rank
from service.gateway.rebalance import rebalance
from service.model.gateway_node import GatewayNode, NodeRole
from tests.gateway.nodes import node

Placement = dict[IPv4Address, str]
WORKERS = [node(f"worker{number}", f"10.0.0.{200 + number}/24") for number in range(1, 5)]
CONTROL1 = node("control1", "10.0.0.199/24", role=NodeRole.CONTROL_PLANE)


def ips(count: int) -> list[IPv4Address]:
    return [IPv4Address(f"10.0.0.{number}") for number in range(1, count + 1)]


def after(nodes: list[GatewayNode], holders: Placement) -> Placement:
    moves = rebalance(list(holders), nodes, holders)
    assert all(holders[move.floating_ip] == move.source != move.target for move in moves)
    return holders | {move.floating_ip: move.target for move in moves}


def test_an_even_load_moves_nothing() -> None:
    holders = dict(zip(ips(5), ["worker1", "worker2", "worker1", "worker2", "worker1"], strict=True))
    assert rebalance(ips(5), WORKERS[:2], holders) == ()


def test_a_node_that_came_back_gets_its_share_and_no_more_moves_than_that() -> None:
    holders = dict.fromkeys(ips(6), "worker1")
    moves = rebalance(ips(6), WORKERS[:3], holders)
    assert Counter(move.target for move in moves) == {"worker2": 2, "worker3": 2}


def test_control_plane_nodes_are_emptied_where_a_worker_can_take_it() -> None:
    holders = dict.fromkeys(ips(3), "control1")
    assert Counter(after([CONTROL1, *WORKERS[:2]], holders).values()) == {"worker1": 2, "worker2": 1}


def test_a_drained_node_is_given_nothing_and_what_it_still_has_is_not_counted() -> None:
    nodes = [WORKERS[0], replace(WORKERS[1], schedulable=False), WORKERS[2]]
    holders = dict(zip(ips(5), ["worker1", "worker1", "worker1", "worker2", "worker2"], strict=True))
    found = after(nodes, holders)
    assert list(found.values()).count("worker2") == 2, "they move because it is drained"
    assert Counter(found.values()) == {"worker1": 2, "worker2": 2, "worker3": 1}


def test_a_chain_over_a_node_that_is_full_is_found() -> None:
    """worker1 can only give to worker2, and worker2 only to worker3: each gives one on."""
    nodes = [
        node("worker1", "10.0.1.1/24"),
        node("worker2", "10.0.1.2/24", "10.0.2.2/24"),
        node("worker3", "10.0.2.3/24"),
    ]
    holders = {IPv4Address(f"10.0.1.{number}"): "worker1" for number in (11, 12)}
    holders |= {IPv4Address("10.0.2.21"): "worker2"}
    assert Counter(after(nodes, holders).values()) == {"worker1": 1, "worker2": 1, "worker3": 1}


def test_o4_no_address_makes_room_for_another_where_one_move_will_do() -> None:
    one, two, three = ips(3)
    holders = {one: "worker1", two: "worker2", three: "worker2"}
    (move,) = rebalance(list(holders), WORKERS[:3], holders)
    assert (move.source, move.target) == ("worker2", "worker3")


NODES = st.lists(
    st.builds(
        lambda number, nets, role, flags: node(
            f"n{number}",
            *(f"10.0.{net}.{number + 201}/24" for net in nets),
            role=role,
            ready=flags[0],
            schedulable=flags[1],
        ),
        st.integers(0, 3),
        st.sets(st.integers(0, 2), min_size=1).map(sorted),
        st.sampled_from([NodeRole.WORKER, NodeRole.WORKER, NodeRole.CONTROL_PLANE]),
        st.tuples(st.sampled_from([True, True, False]), st.sampled_from([True, True, False])),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda item: item.name,
)
HOLDERS = st.dictionaries(
    st.builds(lambda net, last: IPv4Address(f"10.0.{net}.{last}"), st.integers(0, 2), st.integers(1, 9)),
    st.sampled_from([f"n{number}" for number in range(4)]),
    max_size=6,
)


def cost(placement: Placement, origin: Placement, nodes: list[GatewayNode]) -> tuple[int, int, int]:
    ranks = {item.name: role_rank(item) for item in nodes}
    moved = sum(placement[ip] != origin[ip] for ip in origin)
    return (
        sum(ranks[name] for name in placement.values()),
        sum(load * load for load in Counter(placement.values()).values()),
        moved,
    )


@settings(max_examples=400, deadline=None)
@given(NODES, HOLDERS)
def test_it_is_as_even_as_can_be_with_as_few_moves_as_can_be(nodes: list[GatewayNode], holders: Placement) -> None:
    """Against every placement there is."""
    fit = {ip: [item.name for item in candidates(ip, nodes)] for ip in holders}
    moved = {move.floating_ip: move.target for move in rebalance(list(holders), nodes, holders)}
    assert all(target in fit[ip] for ip, target in moved.items())
    counted = {ip: name for ip, name in holders.items() if name in fit[ip]}
    assert moved.keys() <= counted.keys()
    best = min(
        (
            cost(dict(zip(counted, names, strict=True)), counted, nodes)
            for names in product(*(fit[ip] for ip in counted))
        ),
    )
    assert cost(counted | moved, counted, nodes) == best


@settings(max_examples=100, deadline=None)
@given(NODES, HOLDERS)
def test_a_second_rebalance_moves_nothing(nodes: list[GatewayNode], holders: Placement) -> None:
    assert rebalance(list(holders), nodes, after(nodes, holders)) == ()
