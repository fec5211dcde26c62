import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from service.audit.cloud_event import decode, encode
from service.audit.consumer import (
    CaughtUp,
    Deduplicator,
    Entry,
    Item,
    OutboxSource,
    Unreadable,
    follow_all,
    read_all,
)
from service.audit.cursor import Cursor, Position
from service.audit.journal import Journal
from service.audit.outbox import Outbox
from service.audit.segment import frame
from service.model.audit_record import AuditRecord, RecordKind
from service.model.errors import OperatorError
from tests.audit.log import Clock, payloads, write_outbox


def some(count: int) -> Callable[[Outbox], None]:
    def act(outbox: Outbox) -> None:
        for _ in range(count):
            outbox.append(RecordKind.NODE_UP, subject="n")

    return act


def sequences(items: list[Any]) -> list[int]:
    return [item.record.sequence for item in items if isinstance(item, Entry)]


async def test_entries_are_the_exact_bytes_in_order(tmp_path: Path) -> None:
    folder = await asyncio.to_thread(write_outbox, tmp_path / "outbox", some(20))
    items = await read_all([OutboxSource(folder)])
    assert [item.payload for item in items if isinstance(item, Entry)] == payloads(folder)
    assert sequences(items) == list(range(1, 21))


async def test_no_folder_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="no such folder"):
        await read_all([OutboxSource(tmp_path / "none")])


async def test_damage_is_told_and_the_rest_read(tmp_path: Path) -> None:
    folder = await asyncio.to_thread(write_outbox, tmp_path / "outbox", some(3))
    (segment,) = folder.glob("*.audit")
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    items = await read_all([OutboxSource(folder)])
    assert [type(item) for item in items] == [Entry, Unreadable, Entry]
    segment.rename(segment.with_name("0000000000000001.audit"))
    (folder / "0000000000000002.audit").write_bytes(frame(encode(AuditRecord(RecordKind.GAP, "n", "b", 9, 0, 0))))
    tail = segment.read_bytes().rstrip(b"\0") + b"\xf5EGW torn"
    segment.write_bytes(tail)
    items = await read_all([OutboxSource(folder)])
    assert [item.reason for item in items if isinstance(item, Unreadable)][1] == "the segment's tail is damaged"


async def test_whether_older_records_went_as_they_should_is_known(tmp_path: Path) -> None:
    folder = await asyncio.to_thread(write_outbox, tmp_path / "outbox", some(3))
    source = OutboxSource(folder)
    await read_all([source])
    assert [(one.is_trimmed, one.is_published) for one in source.extents] == [(False, False)]
    (folder / "0000000000000001.audit").rename(folder / "0000000000000007.audit")
    cursor = Cursor(folder)
    cursor.load()
    cursor.store(Position(7, 100))
    source = OutboxSource(folder)
    await read_all([source])
    assert [(one.is_trimmed, one.is_published) for one in source.extents] == [(True, True)]


async def test_following_gives_what_comes_across_segments(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=1024, cap_bytes=1 << 20)
    journal.open(node="n", boot_id="b")

    def write(first: int, last: int) -> None:
        waiting = [encode(AuditRecord(RecordKind.NODE_UP, "n", "b", number, 0, 0)) for number in range(first, last + 1)]
        while waiting:
            waiting = waiting[journal.write(waiting) :]

    write(1, 5)
    seen: list[int] = []
    async with asyncio.timeout(20), aclosing(OutboxSource(tmp_path).items(follow=True)) as items:  # type: ignore[type-var]
        async for item in items:
            if isinstance(item, CaughtUp):
                assert seen == [1, 2, 3, 4, 5]
                write(6, 30)
            elif isinstance(item, Entry):
                seen.append(item.record.sequence)
                if seen[-1] == 30:
                    break
    assert seen == list(range(1, 31))
    journal.close()


async def test_several_sources_are_followed_at_once_and_caught_up_once(tmp_path: Path) -> None:
    folders = [
        await asyncio.to_thread(write_outbox, tmp_path / node, some(3), node=node, clock=Clock())
        for node in ("worker1", "worker2")
    ]
    seen: list[Item] = []
    done = asyncio.Event()

    def handle(item: Item) -> None:
        seen.append(item)
        if isinstance(item, CaughtUp):
            done.set()

    following = asyncio.ensure_future(follow_all([OutboxSource(folder) for folder in folders], handle))
    async with asyncio.timeout(20):
        await done.wait()
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    assert [type(item) for item in seen] == [Entry] * 6 + [CaughtUp]


def test_copies_are_told_from_other_events() -> None:
    def record(**facts: Any) -> AuditRecord:
        facts = {"kind": RecordKind.NODE_UP, "node": "n", "boot_id": "b", "sequence": 1} | facts
        return AuditRecord(wall_time_ns=0, boot_time_ns=0, **facts)

    deduplicator = Deduplicator()
    known = record(outbox="a")
    assert deduplicator.is_new(known)
    assert not deduplicator.is_new(decode(encode(known)))
    assert deduplicator.is_new(record(outbox="b"))
    assert deduplicator.is_new(record())
    assert deduplicator.is_new(record(kind=RecordKind.NODE_DOWN))
    acquired = record(kind=RecordKind.ACQUIRED, subject="192.0.2.1", token=(1, 1, 1))
    assert deduplicator.is_new(acquired)
    assert not deduplicator.is_new(record(kind=RecordKind.ACQUIRED, subject="192.0.2.1", token=(1, 1, 1), node="other"))


def test_the_memory_of_copies_is_bounded() -> None:
    deduplicator = Deduplicator(remembered_max=10)
    for number in range(100):
        assert deduplicator.is_new(AuditRecord(RecordKind.GAP, "n", "b", number, 0, 0, outbox="a"))
    assert deduplicator.is_new(AuditRecord(RecordKind.GAP, "n", "b", 0, 0, 0, outbox="a"))
    assert not deduplicator.is_new(AuditRecord(RecordKind.GAP, "n", "b", 99, 0, 0, outbox="a"))
