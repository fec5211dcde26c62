"""Neighbouring ports of one floating IP that went, or belong, to one node by one word: how a record says it. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from service.model.lease import Stamp

PORTS_MIN, PORTS_MAX = 1024, 65535
"""What is given to nodes at all."""
_TEXT_BYTES_MAX = 32 * 1024
"""Of one record; a frame of the outbox takes twice as much."""


class PortRun(NamedTuple):
    """`first` and `last` are both in it."""

    first: int
    last: int
    stamp: Stamp
    """Of the word by which it is so: copies of it, by whichever leader, have the same."""
    node: str = ""
    """Empty for nobody."""

    def __str__(self) -> str:
        return f"{self.first}-{self.last} {self.stamp.term}.{self.stamp.version} {self.node}".rstrip()


class Part(NamedTuple):
    """What one record tells of a table: the runs among the ports from `first` to `last`; the others are nobody's."""

    first: int
    last: int
    runs: tuple[PortRun, ...]


def text_of(runs: Iterable[PortRun]) -> str:
    """Such as `1024-5119 7.12 worker1, 6000-6063 7.13 worker2`."""
    return ", ".join(map(str, runs))


def parse_runs(text: str) -> list[PortRun]:
    """What `text_of` wrote. Raises ValueError."""
    return [_parse(one) for one in text.split(", ")] if text else []


def _parse(text: str) -> PortRun:
    ports, stamp, node = [*text.split(" "), ""][:3]
    first, last = parse_span(ports)
    term, version = map(int, stamp.split("."))
    return PortRun(first, last, Stamp(term, version), node)


def parse_span(text: str) -> tuple[int, int]:
    """The first and the last port of `1024-5119`. Raises ValueError."""
    first, last = map(int, text.split("-"))
    return first, last


def parts_of(runs: Sequence[PortRun]) -> Iterator[Part]:
    """A whole table, by port, in as many records as it takes."""
    first, taken, size = PORTS_MIN, list[PortRun](), 0
    for run in runs:
        length = len(str(run)) + 2
        if size + length > _TEXT_BYTES_MAX:
            yield Part(first, taken[-1].last, tuple(taken))
            first, taken, size = taken[-1].last + 1, [], 0
        taken.append(run)
        size += length
    yield Part(first, PORTS_MAX, tuple(taken))
