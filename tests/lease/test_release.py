"""Releases under way: confirmed by every elector, or over by time."""

from service.lease.release import Releases
from service.model.lease import Token
from tests.lease.site import IP

T1, T2 = Token(1, 1, 1), Token(1, 1, 2)


def releases(*electors: str) -> Releases:
    made = Releases()
    made.begin(IP, T1, until_ns=600, electors=electors)
    return made


def test_a_release_is_over_when_the_last_elector_knows_it() -> None:
    made = releases("a", "b")
    assert not made.confirm("a", IP, T1)
    assert not made.confirm("a", IP, T1)
    assert len(made) == 1
    assert made.confirm("b", IP, T1)
    assert len(made) == 0


def test_the_confirmation_of_an_earlier_release_of_the_key_is_none_of_this_one() -> None:
    made = releases("a")
    made.begin(IP, T2, until_ns=700, electors=["a"])
    assert not made.confirm("a", IP, T1)
    assert made.confirm("a", IP, T2)


def test_a_release_that_nobody_confirms_is_over_by_time() -> None:
    made = releases("a")
    assert made.ends_ns() == [600]
    assert made.expire(599) == []
    assert made.expire(600) == [IP]
    assert len(made) == 0


def test_m4_in_a_new_epoch_every_elector_is_asked_again() -> None:
    made = releases("a", "b")
    made.confirm("a", IP, T1)
    made.ask_all(["a", "c"])
    assert not made.confirm("c", IP, T1)
    assert made.confirm("a", IP, T1)


def test_who_has_no_say_any_more_is_not_waited_for() -> None:
    made = releases("a", "b")
    made.keep(["a"])
    assert made.confirm("a", IP, T1)


def test_a_key_that_is_claimed_anew_is_not_being_released() -> None:
    made = releases("a")
    made.abandon(IP)
    assert not made.confirm("a", IP, T1)
    assert len(made) == 0
