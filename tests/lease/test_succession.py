"""What a process takes of what the object says: a step from what it knows, and no more (M8)."""

import pytest

from service.lease.succession import is_for_keepers_to_say, object_fault, rewritten, succession_fault
from service.model.lease import NO_ELECTORATE, Elector, Electorate

A, B, C, D, E = (Elector(name, f"10.0.0.{index}", index) for index, name in enumerate("abcde", start=1))
KNOWN = Electorate(4, (A, B, C), (A, B))
STEPS = {
    "added": Electorate(5, (A, B, C, D), KNOWN.members),
    "removed": Electorate(5, (A, B), KNOWN.members),
    "another address": Electorate(5, (A, B, Elector("c", "10.0.0.99", 3)), KNOWN.members),
    "the members before in another order": Electorate(5, (A, B), (C, B, A)),
    "written anew": Electorate(1004, KNOWN.members, KNOWN.members),
}
FAULTS = {
    "all members swapped": (Electorate(5, (D, E), KNOWN.members), "changes a, b, c, d, e at once; add or remove one"),
    "one replaced": (Electorate(5, (A, B, D), KNOWN.members), "changes c, d at once"),
    "other members before": (Electorate(5, (A, D), (A, B)), "`previous` of epoch 5 are not the members of 4"),
    "nobody before": (Electorate(5, (A, B)), "`previous` of epoch 5"),
    "a jump": (Electorate(6, (A, B), KNOWN.members), "epoch 6 does not follow 4"),
    "a jump that would be sound": (Electorate(6, (D, E), (D,)), "epoch 6 does not follow 4"),
    "written anew, it seems": (Electorate(1004, (A, B), KNOWN.members), "does not follow 4"),
    "written anew by others": (Electorate(1004, (D, E), (D, E)), "`previous` of epoch 1004"),
    "no number of the disk": (Electorate(5, (A, B, Elector("c", C.host)), KNOWN.members), "c without `memory`"),
    "an epoch beyond the wire": (Electorate(1 << 33, KNOWN.members, KNOWN.members), "is not from 1 to"),
}


@pytest.mark.parametrize("offered", STEPS.values(), ids=STEPS)
def test_one_step_from_what_is_known_is_taken(offered: Electorate) -> None:
    assert object_fault(KNOWN, offered, begun_anew=False) == ""
    assert succession_fault(KNOWN, offered) == ""


@pytest.mark.parametrize(("offered", "fault"), FAULTS.values(), ids=FAULTS)
def test_anything_else_is_refused_and_says_what_to_do(offered: Electorate, fault: str) -> None:
    assert fault in object_fault(KNOWN, offered, begun_anew=False)


def test_m6_what_an_operator_began_anew_follows_whatever_is_known() -> None:
    anew = Electorate(9, (D,))
    for known in (NO_ELECTORATE, KNOWN, Electorate(8, (A,))):
        assert object_fault(known, anew, begun_anew=True) == ""
        assert not is_for_keepers_to_say(known, anew, begun_anew=True)
    assert "names some" in object_fault(KNOWN, Electorate(9, (D,), KNOWN.members), begun_anew=True)


def test_who_knows_nothing_takes_the_first_from_the_object_and_everything_else_from_a_keeper() -> None:
    assert object_fault(NO_ELECTORATE, Electorate(1, (A, B, C)), begun_anew=False) == ""
    assert not is_for_keepers_to_say(NO_ELECTORATE, Electorate(1, (A, B, C)), begun_anew=False)
    assert is_for_keepers_to_say(NO_ELECTORATE, KNOWN, begun_anew=False)
    assert is_for_keepers_to_say(NO_ELECTORATE, Electorate(1, (A,), (B,)), begun_anew=False)


def test_what_was_written_anew_is_not_entered_from_an_epoch_that_followed_the_same_one() -> None:
    """Whoever went on from there would be counted among those who show that nobody did."""
    anew = rewritten(KNOWN)
    assert succession_fault(Electorate(3, (A, B)), anew) == ""
    assert "written anew after 4, but 5 is known" in succession_fault(STEPS["removed"], anew)
    following = Electorate(1005, (A, B), KNOWN.members)
    assert succession_fault(STEPS["removed"], following) == "", "that it was in force shows that 5 never was"


def test_the_epoch_before_one_that_was_written_anew_is_over_when_a_majority_has_left_it() -> None:
    """Of two, both; elsewhere one is enough, of whose vote the other has need."""
    anew = rewritten(Electorate(4, (A, B)))
    assert not anew.is_closed_by(("b",))
    assert anew.is_closed_by(("a", "b"))
    assert Electorate(5, (A,), (A, B)).is_closed_by(("a",))
