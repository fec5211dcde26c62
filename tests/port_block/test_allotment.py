"""Who gets how many blocks, and who is asked to give some back (Q2)."""

from service.model.lease import Stamp
from service.port_block.allotment import Allotment, allot
from service.port_block.block import Row
from service.port_block.leader_table import LeaderTable, Wish

MEMBERS = ("node0", "node1", "node2", "node3")


def table(blocks: int = 16, **have: int) -> LeaderTable:
    one = LeaderTable(blocks=blocks, rest_ns=10, quiet_until_ns=0)
    block = 0
    for name, count in have.items():
        for _ in range(count):
            one.set(block, Row(name, Stamp(1, 1)), 0)
            block += 1
    return one


def look(one: LeaderTable, *, base: int = 2, quota: int = 8) -> Allotment:
    return allot(one, MEMBERS, base=base, quota=quota, now_ns=0)


def gifts(result: Allotment) -> dict[str, int]:
    names = [name for name, _ in result.gifts]
    return {name: names.count(name) for name in names}


def wishing(one: LeaderTable, **wanted: int) -> LeaderTable:
    one.wishes = {name: Wish(count, 1) for name, count in wanted.items()}
    return one


def test_q2_a_node_has_its_base_as_soon_as_it_has_a_selected_pod() -> None:
    one = table(node1=1)
    one.demand = ("node0", "node1")
    assert gifts(look(one)) == {"node0": 2, "node1": 1}


def test_q2_what_the_bases_of_others_will_need_is_given_to_nobody_else() -> None:
    one = wishing(table(node0=8), node0=99)
    one.demand = ("node0",)
    result = look(one, quota=99)
    assert gifts(result) == {"node0": 2}, "16 - 8 - three bases of 2"
    assert result.short == {}


def test_q2_a_node_gets_at_most_as_much_again_and_no_more_than_its_quota() -> None:
    one = wishing(table(blocks=64, node0=3, node1=7), node0=50, node1=50)
    one.demand = ("node0", "node1")
    assert gifts(look(one)) == {"node0": 3, "node1": 1}


def test_q2_who_has_least_is_served_first() -> None:
    one = wishing(table(node0=6, node1=2), node0=8, node1=4)
    one.demand = ("node0", "node1")
    result = look(one)
    assert gifts(result) == {"node1": 2, "node0": 2}
    assert result.gifts[0][0] == "node1"


def test_q2_when_there_are_none_left_blocks_beyond_the_base_are_called_back() -> None:
    one = wishing(table(node0=10, node1=2, node2=4), node1=4)
    one.demand = ("node0", "node1", "node2")
    result = look(one)
    assert result.gifts == []
    assert result.recalls == {"node0": 2, "node2": 2}


def test_q2_a_base_for_which_there_is_nothing_is_counted() -> None:
    one = table(node0=15)
    one.demand = ("node0", "node1")
    result = look(one)
    assert result.short == {"node1": 1}
    assert gifts(result) == {"node1": 1}
    assert result.recalls == {"node0": 1}


def test_a_node_without_selected_pods_is_asked_to_give_all_back() -> None:
    assert look(table(node0=3)).recalls == {"node0": 3}
    assert look(wishing(table(node0=3), node0=4)).recalls == {}
