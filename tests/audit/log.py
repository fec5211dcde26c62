"""Audit logs as tests write them: through a real outbox, or forged record by record."""

import asyncio
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

from service.audit.journal import Journal
from service.audit.outbox import Origin, Outbox
from service.audit.segment import Frame, scan
from service.model.audit_record import DEADLINE, HELD_AT, HELD_UNTIL, RecordKind

IP = "192.0.2.100"
SECOND = 1_000_000_000
WALL = 1_790_000_000 * SECOND
BOOT = 5_000 * SECOND


class Clock:
    """Ticks by a millisecond at each look; wall and boot time of one machine."""

    def __init__(self, *, wall_offset_ns: int = 0) -> None:
        self._ticks = itertools.count(1)
        self._offset_ns = wall_offset_ns

    def __call__(self) -> tuple[int, int]:
        tick = next(self._ticks) * 1_000_000
        return WALL + self._offset_ns + tick, BOOT + tick


async def _write(folder: Path, node: str, boot_id: str, clock: Clock, act: Callable[[Outbox], None]) -> None:
    outbox = Outbox(folder, Origin(node, boot_id, component="agent"), clock=clock)
    async with outbox, asyncio.TaskGroup() as group:
        writer = group.create_task(outbox.run())
        act(outbox)
        assert await outbox.flush(10)
        writer.cancel()


def write_outbox(
    folder: Path,
    act: Callable[[Outbox], None],
    *,
    node: str = "worker1",
    boot_id: str = "boot-1",
    clock: Clock | None = None,
) -> Path:
    """Let `act` append to a real outbox, and close it as a process does."""
    asyncio.run(_write(folder, node, boot_id, clock or Clock(), act))
    return folder


def hold(outbox: Outbox, token: int, *, node: str = "worker1", from_ms: int, until_ms: int | None) -> None:
    """Record a tenure with its instants, as an agent does."""
    outbox.append(
        RecordKind.ACQUIRED,
        subject=IP,
        token=(1, 1, token),
        holder=node,
        detail={HELD_AT: str(BOOT + from_ms * 1_000_000)},
    )
    if until_ms is not None:
        instant = str(BOOT + until_ms * 1_000_000)
        outbox.append(
            RecordKind.EXPIRED,
            subject=IP,
            token=(1, 1, token),
            holder=node,
            detail={HELD_UNTIL: instant, DEADLINE: instant},
        )


def payloads(folder: Path) -> list[bytes]:
    """Every record of a closed outbox, as its bytes."""
    found = []
    for path in sorted(folder.glob("*.audit")):
        found += [item.payload for item in scan(path.read_bytes()).items if isinstance(item, Frame)]
    return found


def rewrite(folder: Path, records: Iterable[bytes]) -> None:
    """Put other records into an outbox, in sound frames: what somebody does who knows the format."""
    for path in folder.glob("*.audit"):
        path.unlink()
    journal = Journal(folder, segment_bytes=1 << 20, cap_bytes=1 << 24)
    journal.open(node="any", boot_id="any")
    waiting = list(records)
    while waiting:
        waiting = waiting[journal.write(waiting) :]
    journal.close()
