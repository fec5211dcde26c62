"""When to tell gateways which blocks are this node's, and what the question was that an answer belongs to."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from service.model.lease import Stamp
from service.port_block.block import Times
from service.port_block.holding import Holding

QUESTIONS_MAX = 8192
"""Pushes that may still be answered; the oldest is forgotten, and its blocks are pushed again."""


@dataclass(frozen=True, slots=True)
class Question:
    """One Push: what it said to whom, and when."""

    gateway: str
    floating_ip: IPv4Address
    blocks: tuple[tuple[int, Stamp], ...]
    sent_ns: int


class Pushes:
    """Of one owner, for all floating IPs."""

    def __init__(self, times: Times, *, now_ns: int) -> None:
        self._times = times
        self._sequence = now_ns
        self._questions: dict[int, Question] = {}
        self._due_ns: dict[IPv4Address, int] = {}
        self._wait_ns: dict[IPv4Address, int] = {}

    def wake(self, floating_ip: IPv4Address, now_ns: int) -> None:
        """Something is new: push at once, and patience begins anew."""
        self._due_ns[floating_ip] = now_ns
        self._wait_ns[floating_ip] = self._times.push_ns

    def forget(self, floating_ip: IPv4Address) -> None:
        """No more of this address."""
        self._due_ns.pop(floating_ip, None)
        self._wait_ns.pop(floating_ip, None)

    def due(self, now_ns: int) -> list[IPv4Address]:
        """What has to be looked at now."""
        return [floating_ip for floating_ip, due_ns in self._due_ns.items() if due_ns <= now_ns]

    def deadline_ns(self) -> int | None:
        """When something is due next."""
        return min(self._due_ns.values(), default=None)

    def open(self, holding: Holding, gateway: str, now_ns: int) -> list[int]:
        """The blocks that this gateway has to be told of: it has not answered, or not for long."""
        return [
            block
            for block, one in sorted(holding.blocks.items())
            if gateway not in one.acknowledged_by
            or (gateway == holding.holder and self._is_stale(one.contact_ns, holding, now_ns))
        ]

    def _is_stale(self, contact_ns: int | None, holding: Holding, now_ns: int) -> bool:
        if contact_ns is None or contact_ns < holding.way_ns:
            return True
        return now_ns - contact_ns >= self._times.confirm_ns

    def again(self, floating_ip: IPv4Address, holding: Holding, *, is_open: bool, now_ns: int) -> None:
        """Set the time of the next look."""
        wait_ns = self._wait_ns.get(floating_ip, self._times.push_ns)
        self._wait_ns[floating_ip] = min(2 * wait_ns, self._times.resend_ns_max) if is_open else self._times.push_ns
        due_ns = now_ns + (wait_ns if is_open else self._times.confirm_ns // 4)
        # A block may become usable by time alone (Q3).
        settled = [one.since_ns + self._times.settle_ns for one in holding.blocks.values()]
        self._due_ns[floating_ip] = min([due_ns, *(ns for ns in settled if ns > now_ns)])

    def ask(self, question: Question) -> int:
        """Note a Push; returns its number."""
        self._sequence += 1
        self._questions[self._sequence] = question
        if len(self._questions) > QUESTIONS_MAX:
            del self._questions[next(iter(self._questions))]
        return self._sequence

    def answered(
        self, sequence: int, gateway: str, taken: tuple[bool, ...]
    ) -> Iterator[tuple[Question, int, Stamp, bool]]:
        """What an answer says of each block. One from somebody else, or of another length, is none."""
        question = self._questions.get(sequence)
        if question is None or question.gateway != gateway or len(taken) != len(question.blocks):
            return
        for (block, stamp), is_taken in zip(question.blocks, taken, strict=True):
            yield question, block, stamp, is_taken
