"""The leader's grants that may still be acknowledged, so that an answer is understood: it names only a number."""

from dataclasses import dataclass
from ipaddress import IPv4Address

from service.port_block.message import Entry, Receiver

UNANSWERED_MAX = 16_384
"""The oldest is forgotten beyond; its answer comes to nothing, and what it said is sent again."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One Grant: to whom, of what, and in which session."""

    receiver: Receiver
    name: str
    floating_ip: IPv4Address
    session: int
    entries: tuple[Entry, ...]


class Unanswered:
    """Of one leader. Numbers begin at the clock, so that they are not those of an earlier leader at this address."""

    def __init__(self, now_ns: int) -> None:
        self._sequence = now_ns
        self._sent: dict[int, Sent] = {}

    def add(self, sent: Sent) -> int:
        """Note a Grant; returns its number."""
        self._sequence += 1
        self._sent[self._sequence] = sent
        if len(self._sent) > UNANSWERED_MAX:
            del self._sent[next(iter(self._sent))]
        return self._sequence

    def of(self, sequence: int, name: str) -> Sent | None:
        """What this node answers; None where it was sent to another, or forgotten. Answers may come twice."""
        sent = self._sent.get(sequence)
        return sent if sent is not None and sent.name == name else None
