"""What a keeper itself puts on record, beside what agents say: an outbox of its own, which the agent publishes.

As an elector it records what it promised: a holder that loses power before its own record is durable held the address
all the same. As a holder it records the ends of its leases, which its agent, being away, would never hear of. It only
notes them; encoding and writing come after the answers have gone out.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from service.audit.outbox import Origin, Outbox
from service.host import clock, identity
from service.lease.elector_output import Promised
from service.lease.holder import CloseReason
from service.model.audit_record import DEADLINE, HELD_UNTIL, RecordKind
from service.model.lease import Electorate, Token
from service.settings import Settings

KEEPER_OUTBOX = "keeper-outbox"
"""Folder in the state directory; the agent's publisher reads it."""
_WAITING_MAX = 10_000
_DROPPED = "the lease keeper had no time to record"
_END_REASONS: dict[CloseReason, str] = {
    "released": "given up by the lease keeper",
    "expired": "not renewed by a majority of electors before its deadline",
    "refused": "displaced by a newer assignment",
}
_SLICE = 16
"""Encoded in one go: less than a tenth of the shortest renewal interval."""


@dataclass(frozen=True, slots=True)
class Ending:
    """One lease of this node that is over. Instants are of CLOCK_BOOTTIME."""

    key: str
    token: Token
    reason: CloseReason
    held_until_ns: int
    """The last instant at which the fence is known to have been open: not after its deadline."""
    deadline_ns: int | None
    """None where it is not known."""


class PromiseLog:
    """Enter it, then keep `run()` in a task group. `note` and `note_end` cost an append to a bounded queue.

    Of more than 10 000 that wait the oldest are dropped; a `gap` record counts them.
    """

    def __init__(self, settings: Settings, electorate: Callable[[], Electorate] | None = None) -> None:
        """`electorate`: the one in force at any time; the configured one if not given."""
        self._electorate = electorate or (lambda: settings.electorate)
        self.outbox = Outbox(
            Path(settings.state_dir) / KEEPER_OUTBOX,
            Origin(settings.node, identity.boot_id(), settings.cluster, "keeper"),
            clock=lambda: (clock.wall_ns(), clock.boot_ns()),
            context=lambda: (self._term, self._electorate().epoch),
            segment_bytes=1 << 20,
            cap_bytes=max(8 << 20, (settings.audit.cap_mib << 20) // 4),
        )
        self._node = settings.node
        self._term = 0
        self._waiting: deque[Promised | Ending] = deque()
        self._dropped = 0
        """What no gap record counts yet."""
        self._due = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.outbox.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._record(_WAITING_MAX)
        await self.outbox.__aexit__(kind, error, trace)

    def note(self, promised: Promised) -> None:
        """Remember a promise for the record."""
        self._wait(promised)

    def note_end(self, ending: Ending) -> None:
        """Remember the end of a lease of this node for the record."""
        self._wait(ending)

    def _wait(self, fact: Promised | Ending) -> None:
        if len(self._waiting) >= _WAITING_MAX:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append(fact)
        self._due.set()

    async def run(self) -> None:
        """Record until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.outbox.run(), name="outbox")
            while True:
                await self._due.wait()
                self._due.clear()
                while self._waiting:
                    self._record(_SLICE)
                    await asyncio.sleep(0.001)  # datagrams first

    def _record(self, count: int) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self.outbox.append(RecordKind.GAP, reason=_DROPPED, detail={"records": str(dropped)})
        for _ in range(min(count, len(self._waiting))):
            fact = self._waiting.popleft()
            self._term = max(self._term, fact.token.term)
            if isinstance(fact, Ending):
                self._record_end(fact)
            else:
                self._record_promise(fact)

    def _record_promise(self, promised: Promised) -> None:
        self.outbox.append(
            RecordKind.PROMISED,
            subject=promised.key,
            token=promised.token,
            holder=promised.node,
            detail={"electors": str(len(self._electorate().members))},
        )

    def _record_end(self, ending: Ending) -> None:
        is_over = ending.reason == "expired"
        detail = {HELD_UNTIL: str(ending.held_until_ns)}
        if is_over and ending.deadline_ns is not None:
            detail[DEADLINE] = str(ending.deadline_ns)
        self.outbox.append(
            RecordKind.EXPIRED if is_over else RecordKind.RELEASED,
            subject=ending.key,
            token=ending.token,
            holder=self._node,
            reason=_END_REASONS[ending.reason],
            detail=detail,
        )
