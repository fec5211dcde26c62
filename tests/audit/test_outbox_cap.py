"""The size cap, and disks that are really full or read-only: states, counted gaps, never a crash or a wait."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.audit.cursor import BEGIN, Cursor, Position
from service.audit.feed import Feed
from service.audit.outbox import Outbox
from service.model.audit_record import RecordKind
from tests.audit.test_outbox import KIND, recorded, running, sizes, until

SEGMENT = 4096
CAP = 3 * SEGMENT


async def fill(outbox: Outbox, rounds: int = 20) -> None:
    for _ in range(rounds):
        for _ in range(10):
            outbox.append(KIND)
        assert await outbox.flush(5)


def publish_up_to(folder: Path, position: Position) -> None:
    cursor = Cursor(folder)
    cursor.load()
    cursor.store(position)


async def test_published_segments_go_first_and_leave_no_gap(tmp_path: Path) -> None:
    async with running(tmp_path, segment_bytes=SEGMENT, cap_bytes=CAP) as outbox:
        for _ in range(20):
            await fill(outbox, 1)
            assert outbox.durable is not None
            publish_up_to(tmp_path, outbox.durable)
        assert outbox.state.removed == 0
        assert sum(sizes(tmp_path)) <= CAP + SEGMENT
    assert not any(record.kind is RecordKind.GAP for record in recorded(tmp_path))


async def test_records_that_were_not_published_leave_a_gap_that_counts_only_them(tmp_path: Path) -> None:
    async with running(tmp_path, segment_bytes=SEGMENT, cap_bytes=CAP) as outbox:
        await fill(outbox, 1)
        assert outbox.durable is not None
        publish_up_to(tmp_path, outbox.durable)
        await fill(outbox)
        await until(lambda: outbox.state.removed > 0 and outbox.state.pending == 0)
    kept = recorded(tmp_path)
    assert any(record.kind is RecordKind.GAP and "size cap" in record.reason for record in kept)
    newest = max(record.sequence for record in kept)
    assert len(kept) + outbox.state.removed + 10 == newest  # ten were published before they went


async def test_the_publisher_says_loudly_that_the_outbox_fills_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, segment_bytes=SEGMENT, cap_bytes=CAP) as outbox:
        await fill(outbox)
        feed = Feed(tmp_path, node="n1", cap_bytes=CAP, durable=lambda: outbox.durable)
        feed.read(1)
        assert feed.is_nearly_full
        assert feed.lag_records > 10
        feed.close()
    assert "is not published yet" in caplog.text


async def test_what_the_cap_took_no_longer_counts_as_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.audit.feed._MEASURE_S", 0.0)
    async with running(tmp_path, segment_bytes=SEGMENT, cap_bytes=CAP) as outbox:
        feed = Feed(tmp_path, node="n1", cap_bytes=CAP, durable=lambda: outbox.durable)
        await fill(outbox, 2)
        events, end = feed.read(5)
        feed.advance(len(events), end)
        await fill(outbox)

        def is_all_read() -> bool:
            # The cap may take the segment that is just opened: a look that finds nothing is not yet the end.
            events, end = feed.read(500)
            feed.advance(len(events), end)
            return not events and end == outbox.durable

        await until(is_all_read)
        assert feed.lag_records == 0
        assert feed.lag_seconds == 0
        feed.close()


async def test_a_cut_behind_the_cursor_is_not_written_over(tmp_path: Path) -> None:
    async with running(tmp_path, segment_bytes=SEGMENT, cap_bytes=CAP) as outbox:
        await fill(outbox, 1)
    publish_up_to(tmp_path, Position(1, SEGMENT))
    async with running(tmp_path, segment_bytes=SEGMENT, cap_bytes=CAP) as outbox:
        await fill(outbox, 1)
        assert outbox.durable is not None
        assert outbox.durable.segment == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "egwt-disk", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def take_all_room(folder: Path) -> Path:
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(SEGMENT))
    return ballast


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


@pytest.mark.root
async def test_on_a_full_disk_records_wait_and_are_written_when_there_is_room(small_disk: Path) -> None:
    async with running(small_disk / "outbox", segment_bytes=SEGMENT, cap_bytes=1 << 20) as outbox:
        await fill(outbox, 1)
        ballast = take_all_room(small_disk)
        for _ in range(50):
            outbox.append(KIND)
        await until(lambda: not outbox.state.healthy)
        assert "No space left on device" in outbox.reason
        feed = Feed(small_disk / "outbox", node="n1", cap_bytes=1 << 20, durable=lambda: outbox.durable)
        events, end = feed.read(500)
        assert events  # what is on disk is published all the same
        feed.advance(len(events), end)
        ballast.unlink()
        assert await outbox.flush(10)
        assert outbox.state.healthy
        feed.close()
    assert len(recorded(small_disk / "outbox")) == 60


@pytest.mark.root
async def test_a_read_only_disk_is_a_state_and_publishing_goes_on_without_a_cursor(small_disk: Path) -> None:
    folder = small_disk / "outbox"
    async with running(folder, segment_bytes=SEGMENT, cap_bytes=1 << 20) as outbox:
        await fill(outbox, 1)
    remount(small_disk, "ro")
    async with running(folder, segment_bytes=SEGMENT, cap_bytes=1 << 20) as outbox:
        assert "Read-only" in outbox.reason
        record = outbox.append(KIND)
        feed = Feed(folder, node="n1", cap_bytes=1 << 20, durable=lambda: outbox.durable)
        events, end = feed.read(500)
        assert len(events) == 10
        feed.advance(len(events), end)
        feed.read(1)
        assert "the cursor cannot be written" in feed.failure
        remount(small_disk, "rw")
        assert await outbox.flush(10)
        feed.store()
        assert feed.failure == ""
        feed.close()
    assert recorded(folder)[-1] == record


@contextlib.contextmanager
def without_root() -> Iterator[None]:
    """Root may read everything, so be nobody meanwhile; all threads of the process are."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


async def test_a_folder_that_may_not_be_read_is_a_state(tmp_path: Path) -> None:
    (tmp_path / "outbox").mkdir(mode=0)
    with without_root():
        async with running(tmp_path / "outbox") as outbox:
            assert "Permission denied" in outbox.reason


def test_a_record_set_aside_is_kept_with_its_reason(tmp_path: Path) -> None:
    feed = Feed(tmp_path, node="n1", cap_bytes=CAP)
    assert feed.position == BEGIN
    event = feed._event(b'{"id":"a/1","subject":"10.0.0.1"}')
    feed.set_aside(event, "too large")
    assert feed.unpublishable == 1
    assert '"reason": "too large"' in feed.set_aside_path.read_text()
    assert Feed(tmp_path, node="n1", cap_bytes=CAP).read(1)[0] == []
