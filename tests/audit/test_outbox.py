import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.audit.journal import Journal
from service.audit.outbox import Origin, Outbox, read_outbox
from service.model.audit_record import AuditRecord, RecordKind

KIND = RecordKind.ACQUIRED


def ticking() -> Iterator[tuple[int, int]]:
    for number in itertools.count(1):
        yield (1_700_000_000_000_000_000 + number, 5_000_000_000 + number)


@contextlib.asynccontextmanager
async def running(folder: Path, **options: Any) -> AsyncIterator[Outbox]:
    """An outbox with its writer, both stopped at the end as a process does it."""
    clock = ticking()
    origin = Origin(options.pop("node", "n1"), options.pop("boot_id", "b1"))
    options = {"clock": lambda: next(clock), "segment_bytes": 4096} | options
    async with Outbox(folder, origin, **options) as outbox, asyncio.TaskGroup() as group:
        writer = group.create_task(outbox.run())
        yield outbox
        writer.cancel()


def recorded(folder: Path) -> list[AuditRecord]:
    return [record for record in read_outbox(folder) if isinstance(record, AuditRecord)]


def sizes(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.glob("*.audit")]


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_an_appended_record_is_durable_after_flush(tmp_path: Path) -> None:
    async with running(tmp_path) as outbox:
        record = outbox.append(KIND, subject="192.0.2.1", token=(1, 2, 3), holder="n1", detail={"a": "b"})
        assert await outbox.flush(5)
        assert recorded(tmp_path) == [record]
        assert outbox.state.healthy
        assert outbox.state.written == 1


async def test_flush_of_an_idle_outbox_returns_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as outbox:
        assert await outbox.flush(0)


async def test_the_sequence_has_no_gap_over_restarts(tmp_path: Path) -> None:
    for _ in range(3):
        async with running(tmp_path) as outbox:
            for _ in range(30):
                outbox.append(KIND)
    assert [record.sequence for record in recorded(tmp_path)] == list(range(1, 91))


async def test_what_was_appended_before_the_stop_is_written_by_the_stop(tmp_path: Path) -> None:
    async with running(tmp_path) as outbox:
        records = [outbox.append(KIND, subject=str(number)) for number in range(1000)]
    assert recorded(tmp_path) == records


async def test_the_stop_waits_for_a_write_that_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    write = Journal.write

    def slow_write(self: Journal, payloads: list[bytes]) -> int:
        loop.call_soon_threadsafe(begun.set)
        return write(self, payloads)

    monkeypatch.setattr(Journal, "write", slow_write)
    async with running(tmp_path) as outbox:
        outbox.append(KIND, subject="first")
        await begun.wait()
        outbox.append(KIND, subject="second")
    assert [record.subject for record in recorded(tmp_path)] == ["first", "second"]


async def test_appending_waits_for_nothing_and_many_records_share_one_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = []
    write = Journal.write

    def counted(self: Journal, payloads: list[bytes]) -> int:
        groups.append(count := write(self, payloads))
        return count

    monkeypatch.setattr(Journal, "write", counted)
    async with running(tmp_path, segment_bytes=1 << 20) as outbox:
        for _ in range(500):
            outbox.append(KIND)
        assert outbox.state.pending == 500  # append neither wrote nor yielded
        assert await outbox.flush(5)
    assert groups == [500]


async def test_the_cap_removes_the_oldest_and_leaves_a_counted_gap(tmp_path: Path) -> None:
    async with running(tmp_path, segment_bytes=4096, cap_bytes=3 * 4096) as outbox:
        for _ in range(20):
            for _ in range(10):
                outbox.append(KIND)
            assert await outbox.flush(5)
        await until(lambda: outbox.state.removed > 0 and outbox.state.pending == 0)
    kept = recorded(tmp_path)
    assert sum(sizes(tmp_path)) <= 3 * 4096
    gaps = [record for record in kept if record.kind is RecordKind.GAP]
    assert gaps
    assert all("size cap" in gap.reason and int(gap.detail["records"]) > 0 for gap in gaps)
    assert len(kept) + outbox.state.removed == max(record.sequence for record in kept)


async def test_a_full_disk_is_told_and_records_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(self: Journal, fd: int) -> None:
        raise OSError(28, "No space left on device")

    async with running(tmp_path) as outbox:
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "_preallocate", no_space)
            outbox.append(KIND, subject="one")
            await until(lambda: not outbox.state.healthy)
            outbox.append(KIND, subject="two")
            assert outbox.reason == "No space left on device"
            assert outbox.state.pending == 2
            assert not await outbox.flush(0.01)
            assert sizes(tmp_path) == []
        assert await outbox.flush(10)
        assert outbox.state.healthy
    assert [record.subject for record in recorded(tmp_path)] == ["one", "two"]


async def test_a_failed_sync_costs_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as outbox:
        outbox.append(KIND, subject="one")
        assert await outbox.flush(5)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail_with_eio)
            outbox.append(KIND, subject="two")
            await until(lambda: not outbox.state.healthy)
        assert await outbox.flush(10)
    assert [record.subject for record in recorded(tmp_path)] == ["one", "two"]
    assert len(sizes(tmp_path)) >= 2  # never again into the segment whose sync failed


def fail_with_eio(fd: int) -> None:
    raise OSError(5, "Input/output error")


async def test_records_lost_to_a_full_queue_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, queue_records=5) as outbox:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail_with_eio)
            outbox.append(KIND, subject="0")
            await until(lambda: not outbox.state.healthy)
            for number in range(1, 9):
                outbox.append(KIND, subject=str(number))
            assert outbox.state.lost == 3
        assert await outbox.flush(10)
        assert outbox.state.healthy
    records = recorded(tmp_path)
    assert [record.subject for record in records if record.kind is KIND] == ["0", "4", "5", "6", "7", "8"]
    (gap,) = [record for record in records if record.kind is RecordKind.GAP]
    assert gap.detail == {"records": "3", "firstSequence": "2", "lastSequence": "4"}


async def test_flush_says_no_when_some_of_it_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fdatasync", fail_with_eio)
    async with running(tmp_path, queue_records=2) as outbox:
        outbox.append(KIND)
        await until(lambda: not outbox.state.healthy)
        monkeypatch.undo()
        flushing = asyncio.ensure_future(outbox.flush(10))
        await asyncio.sleep(0)
        for _ in range(5):
            outbox.append(KIND)
        assert await flushing is False


async def test_a_folder_that_cannot_be_made_is_a_state_and_not_a_crash(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    async with running(blocked / "audit") as outbox:
        assert not outbox.state.healthy
        assert "Not a directory" in outbox.reason
        record = outbox.append(KIND)
        assert record.sequence > 1000  # above anything that the unreadable outbox may hold
        blocked.unlink()
        assert await outbox.flush(10)
        assert outbox.state.healthy
    assert recorded(blocked / "audit") == [record]


async def test_an_outbox_in_use_is_taken_when_it_is_free(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as old, contextlib.AsyncExitStack() as new:
        first = await old.enter_async_context(running(tmp_path))
        first.append(KIND, subject="old process")
        second = await new.enter_async_context(running(tmp_path))
        second.append(KIND, subject="new process")
        assert "another process" in second.reason
        await old.aclose()
        assert await second.flush(10)
        assert second.state.healthy
    assert [record.subject for record in recorded(tmp_path)] == ["old process", "new process"]


async def test_a_disk_that_hangs_makes_it_unhealthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    now = [0]
    release = threading.Event()
    write = Journal.write

    def hang(self: Journal, payloads: list[bytes]) -> int:
        assert release.wait(30)
        return write(self, payloads)

    monkeypatch.setattr(Journal, "write", hang)
    async with running(tmp_path, clock=lambda: (now[0], now[0])) as outbox:
        outbox.append(KIND)
        await asyncio.sleep(0)
        await until(lambda: outbox._writing is not None)
        assert outbox.state.healthy
        now[0] += 7_000_000_000
        assert outbox.reason == "the disk has not answered for 7 s"
        release.set()
        assert await outbox.flush(5)
        assert outbox.state.healthy


async def test_hostile_text_is_recorded_in_a_readable_form(tmp_path: Path) -> None:
    async with running(tmp_path, segment_bytes=1 << 20, cap_bytes=4 << 20) as outbox:
        outbox.append(KIND, reason="file \udcff name", detail={"x": "\ud800"})
        outbox.append(KIND, reason="long", detail={"x": "y" * 200_000})
        assert await outbox.flush(5)
    strange, long = recorded(tmp_path)
    assert "udcff" in strange.reason
    assert int(long.detail["truncatedBytes"]) > 200_000


CRASHING = """
import asyncio, sys
from pathlib import Path
from service.audit.outbox import Origin, Outbox
from service.model.audit_record import RecordKind
from service.host.clock import boot_ns, wall_ns

async def main():
    clock = lambda: (wall_ns(), boot_ns())
    outbox = Outbox(Path(sys.argv[1]), Origin("n1", "b1"), clock=clock, segment_bytes=4096)
    async with outbox, asyncio.TaskGroup() as group:
        group.create_task(outbox.run())
        while True:
            record = outbox.append(RecordKind.ACQUIRED)
            if await outbox.flush(5):
                print(record.sequence, flush=True)

asyncio.run(main())
"""


def test_what_was_flushed_survives_kill_9(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CRASHING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 40:
                process.send_signal(signal.SIGKILL)
                break
        durable = [int(line), *map(int, process.stdout.read().split())][-1]
    sequences = [record.sequence for record in recorded(tmp_path)]
    assert durable >= 40
    assert sequences[:durable] == list(range(1, durable + 1))
    assert asyncio.run(next_sequence(tmp_path)) == len(sequences) + 1


async def next_sequence(folder: Path) -> int:
    async with running(folder) as outbox:
        return outbox.append(KIND).sequence
