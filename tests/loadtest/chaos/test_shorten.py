"""The shortest list of events that still fails, with a stand-in for the lab."""

from collections.abc import Callable

import pytest

from loadtest.chaos.shorten import TRIES_MAX, shorten

EVENTS = tuple("abcdefghij")


def needs(*wanted: str) -> tuple[Callable[[tuple[str, ...]], bool], list[tuple[str, ...]]]:
    asked: list[tuple[str, ...]] = []

    def fails(chosen: tuple[str, ...]) -> bool:
        asked.append(chosen)
        return set(wanted) <= set(chosen)

    return fails, asked


def test_what_the_last_round_does_alone_is_found_with_the_first_question() -> None:
    fails, asked = needs("j")
    found = shorten(EVENTS, fails, first=("j",))
    assert (found.items, found.failed_again, asked) == (("j",), True, [("j",)])


@pytest.mark.parametrize("wanted", ["a", "e", "j", "ai", "dj", "bfj"])
def test_exactly_what_is_needed_is_left_in_its_order(wanted: str) -> None:
    fails, _ = needs(*wanted)
    assert "".join(shorten(EVENTS, fails, first=("j",), tries=200).items) == wanted


def test_no_list_is_tried_twice_and_never_more_than_may_be() -> None:
    fails, asked = needs("b", "f", "j")
    found = shorten(EVENTS, fails, first=("j",))
    assert len(asked) == len(set(asked)) == found.tries <= TRIES_MAX
    assert {"b", "f", "j"} <= set(found.items), "what it gives back fails"


def test_time_that_is_over_ends_the_search_with_what_is_known() -> None:
    fails, asked = needs("b")
    found = shorten(EVENTS, fails, may_go_on=lambda: len(asked) < 2)
    assert len(asked) == 2
    assert found.items == ("a", "b", "c", "d", "e")


def test_what_never_fails_again_is_given_back_whole_and_said() -> None:
    found = shorten(EVENTS, lambda chosen: False)
    assert (found.items, found.failed_again) == (EVENTS, False)


def test_a_single_event_is_tried_once_more() -> None:
    assert shorten(("a",), lambda chosen: True).failed_again
    assert not shorten(("a",), lambda chosen: False).failed_again
