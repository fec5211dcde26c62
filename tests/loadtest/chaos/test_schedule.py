"""Rounds are a function of seed and number."""

import pytest

from loadtest.chaos.events import CATALOGUE
from loadtest.chaos.schedule import HOLD_S, make_round, only, parse_rounds, rounds_text

NAMES = ("a", "b", "c", "d")


def test_a_round_is_the_same_each_time_and_another_for_another_seed_or_number() -> None:
    assert make_round(NAMES, 7, 9) == make_round(tuple(reversed(NAMES)), 7, 9)
    assert len({make_round(NAMES, seed, number).acts for seed in (1, 2) for number in (9, 10)}) == 4


def test_each_event_is_alone_once_before_any_two_meet() -> None:
    first = [make_round(NAMES, 3, number).acts for number in range(1, 5)]
    assert sorted(act.event for acts in first for act in acts) == sorted(NAMES)
    later = [make_round(NAMES, 3, number).acts for number in range(5, 60)]
    assert {len(acts) for acts in later} == {1, 2}
    assert all(acts[0].event != acts[-1].event for acts in later if len(acts) == 2)


def test_events_last_as_long_as_they_may() -> None:
    held = [act.hold_s for number in range(1, 300) for act in make_round(NAMES, 5, number).acts]
    assert HOLD_S[0] <= min(held) < 0.5
    assert 4 < max(held) <= HOLD_S[1]


def test_one_event_of_a_round_is_played_alone_with_the_same_choices() -> None:
    pair = next(made for number in range(5, 60) if len((made := make_round(NAMES, 3, number)).acts) == 2)
    assert only(pair, pair.acts[1].event).acts == (pair.acts[1],)
    assert only(pair, "") == pair
    with pytest.raises(ValueError, match="has no z"):
        only(pair, "z")


def test_rounds_are_named_by_number_and_event() -> None:
    assert parse_rounds("7, 9:mtu") == ((7, ""), (9, "mtu"))
    for bad in ("", "x", "0", "7:a,"):
        with pytest.raises(ValueError, match="number of a round"):
            parse_rounds(bad)


def test_events_are_written_as_they_are_read() -> None:
    rounds = [make_round(NAMES, 3, number) for number in range(1, 12)]
    pair = next(played for played in rounds if len(played.acts) == 2)
    alone = rounds[0]
    choices = [(alone.number, alone.acts[0].event), (pair.number, pair.acts[1].event)]
    text = rounds_text(choices, rounds)
    assert text == f"{alone.number},{pair.number}:{pair.acts[1].event}"
    assert [only(make_round(NAMES, 3, number), event).acts for number, event in parse_rounds(text)] == [
        alone.acts,
        (pair.acts[1],),
    ]
    whole = [(pair.number, act.event) for act in pair.acts]
    assert rounds_text(whole, rounds) == str(pair.number)


def test_every_event_of_the_catalogue_says_what_it_is() -> None:
    assert len(CATALOGUE) >= 47
    assert all(name == event.name and event.__doc__ for name, event in CATALOGUE.items())
