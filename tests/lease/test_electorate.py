"""Who should be an elector, and which step is next."""

import pytest

from service.lease.electorate import (
    Candidate,
    Known,
    check_successor,
    electorate_fault,
    first_electorate,
    is_in_force,
    reset,
    size_for,
    size_hint,
    step,
    target,
)
from service.lease.electorate_message import decode_electorate_message, encode_electorate_message
from service.model.errors import OperatorError
from service.model.lease import EPOCH_MAX, Elector, Electorate

NAMES = "abcdef"
A, B, C, D, E, F = (Elector(name, f"10.0.0.{index}", index) for index, name in enumerate(NAMES, start=1))
THREE = Electorate(4, (A, B, C), (A, B))


def agents(names: str, *, control: str = "") -> dict[str, Candidate]:
    return {name: Candidate(name, f"10.0.0.{NAMES.index(name) + 1}", name in control) for name in names}


def known(names: str, *, epoch: int = 4, voting: bool = True, settled: bool = True) -> dict[str, Known]:
    return {name: Known(epoch, NAMES.index(name) + 1, voting, settled, True) for name in names}


def follow(
    electorate: Electorate, candidates: dict[str, Candidate], said: dict[str, Known], dead: dict[str, None]
) -> Electorate | None:
    return step(electorate, target(electorate, candidates, said, dead), said)


def members(electorate: Electorate | None) -> str:
    return "".join(member.name for member in electorate.members) if electorate else ""


@pytest.mark.parametrize(("count", "size"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 5), (50, 5)])
def test_m5_as_many_electors_as_there_are_agents_for(count: int, size: int) -> None:
    assert size_for(count) == size


@pytest.mark.parametrize(("count", "is_odd"), [(0, True), (1, True), (2, False), (3, True), (4, False), (8, False)])
def test_an_even_number_of_members_is_for_the_way_only_and_says_so(count: int, is_odd: bool) -> None:
    members_ = tuple(Elector(f"n{index}", f"10.0.0.{index + 1}") for index in range(count))
    assert (size_hint(Electorate(1, members_)) == "") == is_odd


def test_m5_control_plane_nodes_come_first_then_names() -> None:
    assert members(first_electorate(agents("abcd", control="d"), known("abcd"))) == "dab"


def test_m5_the_first_electorate_waits_for_every_agent_to_answer() -> None:
    assert first_electorate(agents("abc"), known("ab")) is None


def test_m3_an_epoch_is_in_force_when_a_majority_has_settled_in_it() -> None:
    assert is_in_force(THREE, known("ab"))
    assert not is_in_force(THREE, known("a") | known("bc", settled=False))
    assert not is_in_force(THREE, known("a") | known("bc", epoch=3))


def test_m3_a_dead_elector_is_replaced_by_adding_and_then_removing() -> None:
    added = follow(THREE, agents("abd"), known("abd"), {"c": None})
    assert members(added) == "abcd"
    assert added is not None
    assert added.previous == THREE.members
    assert members(follow(added, agents("abd"), known("abd", epoch=5), {"c": None})) == "abd"


def test_in_the_middle_of_a_replacement_the_one_that_does_not_answer_goes_also_if_it_is_not_yet_counted_dead() -> None:
    four = Electorate(5, (A, B, C, D), THREE.members)
    assert members(follow(four, agents("abd"), known("abd"), {})) == "abd"


def test_m3_a_newcomer_that_is_still_silent_is_not_added() -> None:
    silent = known("ab") | known("d", voting=False)
    assert follow(THREE, agents("abd"), silent, {"c": None}) is None


def test_a_dead_elector_that_nobody_can_replace_stays_a_member() -> None:
    assert follow(THREE, agents("ab"), known("ab"), {"c": None}) is None


def test_m7_a_member_on_another_disk_is_removed_before_it_comes_again() -> None:
    new = Elector("c", C.host, 99)
    lost = known("ab") | {"c": Known(0, 99, True, True, False)}
    removed = follow(THREE, agents("abc"), lost, {"c": None})
    assert members(removed) == "ab"
    assert removed is not None
    assert follow(removed, agents("abc"), lost, {}) == Electorate(6, (A, B, new), (A, B))


def test_m3_nobody_is_removed_while_those_who_stay_do_not_answer_with_the_disks_that_are_meant() -> None:
    """Seen: c is removed in the moment in which b loses its disk; a and the old b, who is gone, would have to agree."""
    wanted = (A, B)
    assert members(step(THREE, wanted, known("abc"))) == "ab"
    assert step(THREE, wanted, known("ac")) is None, "b does not answer: its disk may be gone"
    other_disk = known("ac") | {"b": Known(0, 99, True, True, False)}
    assert step(THREE, wanted, other_disk) is None
    assert step(THREE, wanted, known("ac") | known("b", voting=False)) is None


def test_m3_of_several_removals_the_one_that_can_begin_is_made() -> None:
    assert members(step(THREE, (A,), known("ac"))) == "ac", "b, who does not answer, goes first"


def test_m3_nobody_is_added_where_the_newcomer_would_be_missed() -> None:
    """Of its kind and not seen: two of four, one added to one, and the others are away."""
    assert members(step(Electorate(4, (A,), (A, B)), (A, B), known("ab"))) == "ab"
    assert step(Electorate(4, (A,), (A, B)), (A, B), known("b")) is None
    assert step(THREE, (A, B, C, D), known("ad")) is None


def test_m3_an_ordinary_replacement_waits_for_nobody() -> None:
    """With one of five dead and another away: who is left is enough, before as after."""
    five = Electorate(4, (A, B, C, D, E))
    said = known("abcf")
    added = follow(five, agents("abcf"), said, {"e": None})
    assert members(added) == "abcdef"
    assert added is not None
    assert len(members(step(added, (A, B, C, D, F), said))) == 5


def test_an_elector_whose_address_changed_gets_it_by_a_step_of_its_own() -> None:
    moved = agents("abc") | {"b": Candidate("b", "10.0.0.99")}
    following = follow(THREE, moved, known("abc"), {})
    assert following is not None
    assert following.members == (A, Elector("b", "10.0.0.99", 2), C)


def test_of_two_agents_both_are_electors_and_neither_is_removed_for_being_away() -> None:
    both = first_electorate(agents("ab"), known("ab"))
    assert members(both) == "ab"
    assert both is not None
    assert follow(both, agents("a"), known("a"), {"b": None}) is None


def test_whom_a_sole_elector_lost_is_added_again_only_when_it_hears_it() -> None:
    alone = Electorate(4, (A,), (A, B))
    lost = known("ab") | {"a": Known(4, A.memory, True, True, True, misses_other=True)}
    assert follow(alone, agents("ab"), lost, {}) is None
    assert members(follow(alone, agents("abc"), known("bc") | {"a": lost["a"]}, {})) == "ac"
    assert members(follow(alone, agents("ab"), known("ab"), {})) == "ab"


def test_one_grows_to_five_by_single_steps() -> None:
    electorate, sizes = Electorate(1, (A,)), []
    while following := follow(electorate, agents("abcde"), known("abcde"), {}):
        electorate = following
        sizes.append(len(electorate.members))
    assert sizes == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("following", "fix"),
    [
        (Electorate(3, (A, B)), "raise it to 5"),
        (Electorate(4, (A, B)), "raise electors.epoch to 5"),
        (Electorate(6, (A, B)), "write 5"),
        (Electorate(5, (A, D, E)), "one member per epoch"),
    ],
)
def test_m2_an_operators_electorate_that_is_no_single_step_is_refused_with_the_fix(
    following: Electorate, fix: str
) -> None:
    with pytest.raises(OperatorError, match=fix):
        check_successor(THREE, following)


def test_m6_a_reset_keeps_members_only_and_asks_nobody_of_before() -> None:
    assert reset(THREE, ("a",)) == Electorate(5, (A,))
    with pytest.raises(OperatorError, match="d is no elector"):
        reset(THREE, ("a", "d"))


def test_m6_an_epoch_that_has_no_successor_is_not_begun_anew() -> None:
    with pytest.raises(OperatorError, match="is not from 1 to"):
        reset(Electorate(EPOCH_MAX, (A, B, C)), ("a",))


@pytest.mark.parametrize(
    ("electorate", "word"),
    [
        (Electorate(1 << 33, (Elector("a", "192.0.2.1"),)), "epoch"),
        (Electorate(0, (Elector("a", "192.0.2.1"),)), "epoch"),
        (Electorate(1, ()), "members: 0"),
        (Electorate(1, tuple(Elector(f"n{number}", "192.0.2.1") for number in range(9))), "members: 9"),
        (Electorate(1, (Elector("a", "192.0.2.1"), Elector("a", "192.0.2.2"))), "twice"),
        (Electorate(1, (Elector("A" * 300, "192.0.2.1"),)), "name of a node"),
        (Electorate(1, (Elector("a", "nowhere"),)), "IPv4"),
        (Electorate(1, (Elector("a", "192.0.2.1", 1 << 64),)), "64 bits"),
        (Electorate(1, (Elector("a", "192.0.2.1"),), (Elector("b", ""),)), "previous"),
        (Electorate(1, (Elector("a", "0.0.0.0"),)), "a: 0.0.0.0 is the address of no node"),
        (Electorate(1, (Elector("a", "224.0.0.1"),)), "address of no node"),
        (Electorate(1, (Elector("a", "192.0.2.1"), Elector("b", "192.0.2.1"))), "two electors have one address"),
    ],
)
def test_an_electorate_that_does_not_fit_wire_or_disk_is_refused_with_the_reason(
    electorate: Electorate, word: str
) -> None:
    assert word in electorate_fault(electorate)


def test_whatever_is_found_sound_can_be_said_and_heard() -> None:
    longest = tuple(Elector("n" + "x" * 61 + str(number), f"192.0.2.{number}", (1 << 64) - 1) for number in range(8))
    for electorate in (Electorate(EPOCH_MAX, longest, longest), Electorate(1, (Elector("a", "192.0.2.1"),))):
        assert electorate_fault(electorate) == ""
        assert decode_electorate_message(encode_electorate_message(electorate)) == electorate
