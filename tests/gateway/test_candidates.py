"""The best candidate is the one that a look at every node would find."""

from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Address

from hypothesis import given, settings
from hypothesis import strategies as st

from service.gateway.assignment import assign, candidates, role_rank
from service.gateway.candidates import Candidates
from service.model.gateway_node import GatewayNode
from service.model.lease import Stamp
from tests.gateway.test_assignment import ADDRESSES, HOLDERS, NODES, node

IP = IPv4Address("192.168.1.100")


@settings(max_examples=300, deadline=None)
@given(ADDRESSES, NODES, HOLDERS, st.sets(st.sampled_from([f"n{i}" for i in range(8)])))
def test_holders_and_successors_are_those_that_a_look_at_every_node_would_find(
    addresses: list[IPv4Address], nodes: list[GatewayNode], holders: dict[IPv4Address, str], doubtful: set[str]
) -> None:
    rows = assign(addresses, nodes, holders, {}, stamp=Stamp(1, 1), doubtful=doubtful).rows
    by_name = {one.name: one for one in nodes}

    def order(one: GatewayNode) -> tuple[int, bool]:
        return role_rank(one), one.name in doubtful

    kept = {row.floating_ip for row in rows if row.holder is not None and row.holder == holders.get(row.floating_ip)}
    held = Counter(row.holder for row in rows if row.floating_ip in kept)
    for row in rows:
        if row.holder is not None and row.floating_ip not in kept:
            fit = candidates(row.floating_ip, nodes)
            assert row.holder == min(fit, key=lambda one: (order(one), held[one.name], one.name)).name
            held[row.holder] += 1
    inherits, standby = Counter[tuple[str, str]](), Counter[str]()
    for row in rows:
        holder = row.holder
        others = [one for one in candidates(row.floating_ip, nodes) if holder is not None and one.name != holder]
        if holder is None or not others:
            continue

        def rank(one: GatewayNode, holder: str = holder) -> tuple[tuple[int, bool], int, int, str]:
            return order(one), held[one.name] + inherits[holder, one.name], standby[one.name], one.name

        # An heir of a planned move is chosen otherwise.
        assert row.successor is not None
        if by_name[holder].schedulable:
            assert row.successor == min(others, key=rank).name
        inherits[holder, row.successor] += 1
        standby[row.successor] += 1


def test_addresses_of_one_segment_share_their_candidates_and_others_have_their_own() -> None:
    found = Candidates([node("a", "192.168.1.1/24"), node("b", "10.0.0.1/24", "192.168.1.2/24")])
    assert found.of(IP) is found.of(IP + 1)
    assert [one.name for one in found.of(IP)] == ["a", "b"]
    assert [one.name for one in found.of(IPv4Address("10.0.0.9"))] == ["b"]
    assert list(found.of(IPv4Address("172.16.0.1"))) == []


def test_the_best_is_found_again_when_ranks_have_grown_and_without_some() -> None:
    nodes = [node(name, f"192.168.1.{last}/24") for last, name in enumerate("abc", start=1)]
    pool, load = Candidates(nodes).of(IP), Counter[str]()

    def rank(one: GatewayNode) -> tuple[int | str, ...]:
        return load[one.name], one.name

    taken = []
    for _ in range(7):
        best = pool.best(rank)
        assert best is not None
        taken.append(best.name)
        load[best.name] += 1
    assert taken == ["a", "b", "c", "a", "b", "c", "a"]
    without = pool.best(rank, {"b"})
    assert without is not None
    assert without.name == "c"
    assert pool.best(rank, {"a", "b", "c"}) is None


def test_who_is_not_available_is_no_candidate() -> None:
    fit = node("a", "192.168.1.1/24")
    lost = [replace(fit, **{field: False}) for field in ("ready", "schedulable", "selected")]
    assert [list(Candidates([one]).of(IP)) for one in lost] == [[], [], []]
