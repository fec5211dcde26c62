"""Which events happen in which round, and when. A pure function of seed and number."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

DELAY_S_MAX = 1.0
HOLD_S = (0.3, 5.0)
PAIRS = 0.6
"""Once each event has been alone, so many rounds in one have two."""


@dataclass(frozen=True, slots=True)
class Act:
    """One event of a round."""

    event: str
    seed: int
    """Of the event's own choices: which node, which pod."""
    delay_s: float
    """After the begin of the round."""
    hold_s: float
    """From applied to undone."""

    def __str__(self) -> str:
        return f"{self.event} (after {self.delay_s:.1f} s, for {self.hold_s:.1f} s)"


@dataclass(frozen=True, slots=True)
class Round:
    """What happens between two times of calm."""

    number: int
    acts: tuple[Act, ...]

    def __str__(self) -> str:
        return f"round {self.number}: {' and '.join(map(str, self.acts))}"


def make_round(names: Sequence[str], seed: int, number: int) -> Round:
    """The round of that number, from 1. The first len(names) have each event alone once, in a seeded order."""
    chance = random.Random(f"{seed}/{number}")
    ordered = sorted(names)
    if number <= len(ordered):
        chosen = random.Random(seed).sample(ordered, len(ordered))[number - 1 : number]
    else:
        chosen = chance.sample(ordered, 2 if len(ordered) > 1 and chance.random() < PAIRS else 1)
    return Round(number, tuple(_act(name, chance) for name in chosen))


def _act(name: str, chance: random.Random) -> Act:
    # Short faults are the more frequent ones, and find other things than long ones.
    hold_s = HOLD_S[0] * (HOLD_S[1] / HOLD_S[0]) ** chance.random()
    return Act(name, chance.getrandbits(32), chance.uniform(0, DELAY_S_MAX), hold_s)


def parse_rounds(text: str) -> tuple[tuple[int, str], ...]:
    """`7,9:conntrack-flush` -> ((7, ""), (9, "conntrack-flush")): rounds, or one event of a round.

    Raises ValueError naming the part that is neither.
    """
    found = []
    for part in text.split(","):
        number, _, event = part.strip().partition(":")
        if not number.isdigit() or int(number) < 1:
            raise ValueError(f"{part!r}: write the number of a round, or NUMBER:EVENT")
        found.append((int(number), event))
    return tuple(found)


Choice = tuple[int, str]
"""One event of one round: (number, event)."""


def rounds_text(choices: Sequence[Choice], rounds: Sequence[Round]) -> str:
    """What `parse_rounds` reads as these events: a round by its number where all of it is meant."""
    parts = []
    for played in rounds:
        wanted = [event for number, event in choices if number == played.number]
        if len(wanted) == len(played.acts):
            parts.append(str(played.number))
        else:
            parts += [f"{played.number}:{event}" for event in wanted]
    return ",".join(parts)


def only(chosen: Round, event: str) -> Round:
    """The round with that event alone, or whole where none is named. Raises ValueError where it has none such."""
    acts = tuple(act for act in chosen.acts if not event or act.event == event)
    if not acts:
        raise ValueError(f"{chosen} has no {event}")
    return Round(chosen.number, acts)
