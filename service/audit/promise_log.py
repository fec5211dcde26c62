"""What an elector promised, on record beside what holders say: an outbox of the lease keeper.

A holder that loses power before its own record is durable held the address all the same; the electors that promised it
know. The keeper only notes a promise; encoding and writing come after the answers have gone out. The agent publishes.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from service.audit.outbox import Origin, Outbox
from service.host import clock, identity
from service.lease.elector_output import Promised
from service.model.audit_record import RecordKind
from service.model.lease import Electorate
from service.settings import Settings

KEEPER_OUTBOX = "keeper-outbox"
"""Folder in the state directory; the agent's publisher reads it."""
_WAITING_MAX = 10_000
_SLICE = 16
"""Encoded in one go: less than a tenth of the shortest renewal interval."""


class PromiseLog:
    """Enter it, then keep `run()` in a task group. `note` costs the elector an append to a bounded queue."""

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
        self._term = 0
        self._waiting: deque[Promised] = deque(maxlen=_WAITING_MAX)
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
        """Remember a promise for the record; costs an append. Of more than 10 000 that wait the oldest are dropped."""
        self._waiting.append(promised)
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
        for _ in range(min(count, len(self._waiting))):
            promised = self._waiting.popleft()
            self._term = max(self._term, promised.token.term)
            self.outbox.append(
                RecordKind.PROMISED,
                subject=promised.key,
                token=promised.token,
                holder=promised.node,
                detail={"electors": str(len(self._electorate().members))},
            )
