"""K2: who holds the lease `leader` leads."""

from service.controller.leadership import Leadership
from service.lease.holder import CloseFence, OpenFence
from service.model.lease import LEADER_KEY, Token


class Office:
    """What is done at the beginning and end of a term, with the term that was set meanwhile."""

    def __init__(self) -> None:
        self.done: list[tuple[str, int | None]] = []
        self.leadership = Leadership(began=self._begin, ended=self._end)

    def _begin(self, token: Token) -> None:
        self.done.append((f"begin {token.term}", self.leadership.term))

    def _end(self, token: Token, reason: str) -> None:
        self.done.append((f"end {token.term}: {reason}", self.leadership.term))

    def open(self, term: int, *, is_first: bool = True) -> bool:
        return self.leadership.opened(OpenFence(LEADER_KEY, Token(term, 0, 1), 1000, is_first))

    def close(self, term: int) -> None:
        self.leadership.closed(CloseFence(LEADER_KEY, Token(term, 0, 1), "expired"))


def test_nobody_leads_before_the_lease_is_granted() -> None:
    assert not Office().leadership.is_held


def test_k2_who_is_granted_the_lease_leads_in_the_term_of_its_token() -> None:
    office = Office()
    assert office.open(7)
    assert office.leadership.is_held
    assert office.done == [("begin 7", 7)]


def test_a_renewal_is_no_news() -> None:
    office = Office()
    office.open(7)
    assert not office.open(7, is_first=False)
    assert office.done == [("begin 7", 7)]


def test_k2_who_loses_the_lease_leads_no_longer_and_its_last_record_is_of_its_term() -> None:
    office = Office()
    office.open(7)
    office.close(7)
    assert not office.leadership.is_held
    assert office.done[1:] == [("end 7: expired", 7)]


def test_a_lease_that_was_never_held_ends_without_a_word() -> None:
    office = Office()
    office.close(7)
    assert office.done == []


def test_a_lease_that_is_granted_anew_begins_a_new_term() -> None:
    office = Office()
    office.open(7)
    office.close(7)
    office.open(9)
    assert office.leadership.term == 9
    assert office.done[-1] == ("begin 9", 9)
