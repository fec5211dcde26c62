"""Counting grants."""

from hypothesis import given
from hypothesis import strategies as st

from service.lease.message import ClaimRole, Detail, Verdict
from service.lease.tenure import Grant, Tenure, counted_until, quorum_deadline
from service.model.lease import Elector, Electorate, Stamp, Token

PAIR = Electorate(1, tuple(Elector(name, "10.0.0.1") for name in ("a", "b", "c")))
T1, T2, T3 = Token(1, 1, 1), Token(1, 1, 2), Token(1, 1, 3)


def tenure(token: Token = T1, *, held: Token | None = None, role: ClaimRole = ClaimRole.HOLDER) -> Tenure:
    return Tenure("192.0.2.100", token, role, Stamp(1, 1), held_token=held)


def test_a_holder_counts_nine_tenths_from_the_sending() -> None:
    assert counted_until(1000, 300) == 1270


@given(st.lists(st.integers(0, 100), max_size=7), st.integers(1, 7), st.integers(0, 101))
def test_until_the_deadline_and_not_beyond_a_majority_is_bound(untils: list[int], size: int, now: int) -> None:
    electorate = Electorate(1, tuple(Elector(str(index), "10.0.0.1") for index in range(size)))
    grants = {str(index): Grant(T1, until) for index, until in enumerate(untils[:size])}
    deadline = quorum_deadline(grants, electorate)
    bound = sum(1 for until in untils[:size] if until > now) >= len(electorate.members) // 2 + 1
    assert bound == (deadline is not None and deadline > now)


def test_grants_of_different_tokens_do_not_make_a_lease() -> None:
    claim = tenure(T1)
    claim.count("a", T1, 100)
    claim.token = T2
    claim.count("b", T2, 100)
    assert claim.deadline(PAIR) is None
    claim.count("a", T2, 90)
    assert claim.deadline(PAIR) == 100


def test_while_held_a_promise_counts_under_either_token_of_the_tenure() -> None:
    claim = tenure(T2, held=T1)
    claim.count("a", T1, 100)
    claim.count("b", T2, 120)
    assert claim.deadline(PAIR) == 100
    assert not claim.moved_token(PAIR)
    claim.count("a", T2, 90)
    assert claim.moved_token(PAIR)


def test_a_grant_of_an_earlier_tenure_is_not_counted() -> None:
    claim = tenure(T3, held=T2)
    claim.count("a", T1, 100)
    assert claim.grants == {}


def test_answers_in_another_order_never_shorten_a_promise() -> None:
    claim = tenure(T1, held=T1)
    claim.count("a", T1, 100)
    claim.count("a", T1, 60)
    assert claim.grants["a"].until_ns == 100


def superseded_by(claim: Tenure, rival: Stamp, electors: int, verdict: Verdict = Verdict.RIVAL_IS_HOLDER) -> bool:
    for index in range(electors):
        claim.verdicts["abc"[index]] = Detail(verdict | Verdict.GRANTED, T1, rival)
    return claim.is_superseded(PAIR, dict.fromkeys("abc", True))


def test_a_holder_gives_way_to_the_holder_of_a_newer_assignment_that_reaches_a_majority() -> None:
    assert superseded_by(tenure(held=T1), Stamp(1, 2), 2)
    assert not superseded_by(tenure(held=T1), Stamp(1, 2), 1)


def test_a_holder_does_not_give_way_to_a_successor_or_to_its_own_assignment() -> None:
    assert not superseded_by(tenure(held=T1), Stamp(1, 2), 2, Verdict.CONTESTED)
    assert not superseded_by(tenure(held=T1), Stamp(1, 1), 2)


def test_a_holder_whose_own_assignment_is_as_new_does_not_give_way() -> None:
    claim = tenure(held=T1)
    claim.stamp = Stamp(1, 3)
    assert not superseded_by(claim, Stamp(1, 2), 2)
    claim.role = ClaimRole.STANDING
    assert superseded_by(claim, Stamp(1, 2), 2)
