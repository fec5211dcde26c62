"""Whether a node can be reached on a segment although its link is up: asked by ARP, judged with the others' word. Pure.

One machine for each uplink. The peers on the segment and its default gateway are asked again and again; an answer
proves both directions. A node that nobody answers is *silent*, which may be the segment's fault: then all are, and
nobody gives anything up. It is *deaf* when it stays silent while another says that it is answered there (rule S5).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from itertools import islice

from service.model.gateway_node import Hearing

CONFIRM_NS = 1_000_000_000
"""So long a silent node waits for the word of the others: where the segment itself has failed, they fall silent too."""
FEW_TARGETS = 3
"""Asked at a time: ARP to all of hundreds of peers would be a load, and switches that inspect ARP shut a port that
sends more than 15 packets in a second."""
TARGETS_MAX = 16
"""Asked in turn while none answers: peers may have died together."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask."""

    address: IPv4Address
    mac: bytes = b""
    """Where it was last known to be; empty: everybody is asked."""


@dataclass(slots=True)
class SegmentHearing:
    """Times are nanoseconds of a clock that never goes backwards. `deaf_after_ns` 0: nothing is asked or concluded."""

    probe_gap_ns: int
    deaf_after_ns: int
    state: Hearing = Hearing.UNKNOWN
    _targets: tuple[Target, ...] = ()
    _do_others_hear: bool = False
    _answered_ns: int = 0
    """When an answer came last, or asking began."""
    _silent_ns: int = 0
    """Since when it is silent while others hear: who heals with the others' word before an answer is not deaf."""
    _advanced_ns: int = 0
    """When conclusions were drawn last."""
    _returning_ns: int | None = None
    """Since when a deaf node is answered again."""
    _probe_ns: int = 0
    _first: int = 0
    """Among the targets: whom to ask first."""
    _outputs: list[Target] = field(default_factory=list)

    def update(self, targets: Iterable[Target], *, do_others_hear: bool, now_ns: int) -> None:
        """Whom to ask, best first, and whether another living node says that it is answered on the segment."""
        wanted = tuple(islice(targets, TARGETS_MAX)) if self.deaf_after_ns else ()
        if wanted and not self._targets:
            self._answered_ns = self._probe_ns = self._advanced_ns = now_ns
        if not wanted:
            self.state, self._returning_ns = Hearing.UNKNOWN, None
        if do_others_hear and not self._do_others_hear:
            self._silent_ns = now_ns
        self._targets, self._do_others_hear = wanted, do_others_hear

    def answer(self, *, now_ns: int) -> None:
        """Somebody answered this node."""
        if not self._targets:
            return
        if self.state is Hearing.DEAF:
            is_gap = self._returning_ns is None or now_ns - self._answered_ns > self.deaf_after_ns // 2
            self._returning_ns = now_ns if is_gap else self._returning_ns
        else:
            self.state = Hearing.HEARS
        self._answered_ns = now_ns

    def advance(self, *, now_ns: int) -> None:
        """Conclude what can be concluded, and ask when it is due."""
        if not self._targets:
            return
        self._forgive(now_ns)
        self._conclude(now_ns)
        if self._probe_ns <= now_ns:
            is_answered = now_ns - self._answered_ns <= self.probe_gap_ns
            self._first = 0 if is_answered else (self._first + FEW_TARGETS) % len(self._targets)
            self._outputs += (*self._targets[self._first :], *self._targets[: self._first])[:FEW_TARGETS]
            self._probe_ns = now_ns + self.probe_gap_ns

    def _forgive(self, now_ns: int) -> None:
        """A process that stood still has asked nobody, and has not read what was answered: that time does not count."""
        lost_ns = now_ns - self._advanced_ns - self.probe_gap_ns
        if lost_ns > self.probe_gap_ns:
            self._answered_ns = min(now_ns, self._answered_ns + lost_ns)
            self._silent_ns = min(now_ns, self._silent_ns + lost_ns)
        self._advanced_ns = now_ns

    def _conclude(self, now_ns: int) -> None:
        is_quiet = now_ns - self._answered_ns >= self.deaf_after_ns
        if self.state in (Hearing.HEARS, Hearing.UNKNOWN) and is_quiet:
            self.state, self._silent_ns = Hearing.SILENT, now_ns
        elif self.state is Hearing.SILENT and self._do_others_hear and now_ns - self._silent_ns >= CONFIRM_NS:
            self.state, self._returning_ns = Hearing.DEAF, None
        elif self.state is Hearing.DEAF:
            if self._returning_ns is not None and self._answered_ns - self._returning_ns >= self.deaf_after_ns:
                self.state = Hearing.HEARS
            elif not self._do_others_hear:
                # Whoever heard is gone: this node is of as much use as any.
                self.state, self._silent_ns = Hearing.SILENT, now_ns

    def deadline_ns(self) -> int | None:
        """When to advance next; None where nobody is asked."""
        if not self._targets:
            return None
        due = self._probe_ns
        if self.state in (Hearing.HEARS, Hearing.UNKNOWN):
            due = min(due, self._answered_ns + self.deaf_after_ns)
        elif self.state is Hearing.SILENT and self._do_others_hear:
            due = min(due, self._silent_ns + CONFIRM_NS)
        return due

    def drain(self) -> list[Target]:
        """Return whom to ask since the last call."""
        outputs, self._outputs = self._outputs, []
        return outputs
