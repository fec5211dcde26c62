import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.audit.cursor import BEGIN, Position
from service.audit.journal import Journal
from service.audit.segment import HEAD, frame
from service.audit.segment_reader import SegmentReader, segment_path, unpublished_bytes


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path, segment_bytes=1024, cap_bytes=1 << 20)
    journal.open(node="n", boot_id="b")
    yield journal
    journal.close()


def payloads(count: int, first: int = 0) -> list[bytes]:
    return [b'{"n":%d}' % number for number in range(first, first + count)]


def write(journal: Journal, records: list[bytes]) -> None:
    while records:
        records = records[journal.write(records) :]


def read_all(folder: Path, at: Position = BEGIN, durable: Position | None = None, records_max: int = 7) -> list[bytes]:
    reader = SegmentReader(folder)
    found: list[bytes] = []
    while True:
        chunk = reader.read(at, durable, records_max=records_max)
        if chunk.end == at:
            reader.close()
            return found
        found += chunk.payloads
        at = chunk.end


def test_every_record_is_read_once_and_in_order_over_segments(journal: Journal, tmp_path: Path) -> None:
    write(journal, payloads(200))
    assert len(list(tmp_path.glob("*.audit"))) > 3
    assert read_all(tmp_path) == payloads(200)
    assert read_all(tmp_path, durable=journal.durable) == payloads(200)


def test_reading_goes_on_at_any_position(journal: Journal, tmp_path: Path) -> None:
    write(journal, payloads(100))
    reader = SegmentReader(tmp_path)
    chunk = reader.read(BEGIN, None, records_max=10)
    assert len(chunk.ends) == 10
    for index, end in enumerate(chunk.ends):
        assert read_all(tmp_path, at=end) == payloads(100)[index + 1 :]
    reader.close()


def test_what_the_writer_has_not_synced_is_not_given_out(journal: Journal, tmp_path: Path) -> None:
    write(journal, payloads(3))
    durable = journal.durable
    write(journal, payloads(3, first=3))
    assert read_all(tmp_path, durable=durable) == payloads(3)
    assert read_all(tmp_path, durable=BEGIN) == []


def test_of_another_process_it_syncs_what_it_gives_out(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(journal, payloads(3))
    synced = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    assert read_all(tmp_path, durable=journal.durable) == payloads(3)
    assert synced == []
    assert read_all(tmp_path) == payloads(3)
    assert len(synced) == 1


def test_records_that_are_written_later_are_found_at_the_same_place(journal: Journal, tmp_path: Path) -> None:
    write(journal, payloads(3))
    reader = SegmentReader(tmp_path)
    at = reader.read(BEGIN, None, records_max=10).end
    assert reader.read(at, None, records_max=10).payloads == ()
    write(journal, payloads(2, first=3))
    assert reader.read(at, None, records_max=10).payloads == tuple(payloads(2, first=3))
    reader.close()


def test_damage_is_passed_over_and_counted(journal: Journal, tmp_path: Path) -> None:
    write(journal, payloads(9))
    path = segment_path(tmp_path, 1)
    data = bytearray(path.read_bytes())
    start = len(HEAD) + len(frame(payloads(1)[0])) * 4
    data[start + 14] ^= 1
    path.write_bytes(data)
    for durable in (None, journal.durable):
        reader, at, found, damaged = SegmentReader(tmp_path), BEGIN, [], 0
        while (chunk := reader.read(at, durable, records_max=100)).end != at:
            at = chunk.end
            found += chunk.payloads
            damaged += chunk.damaged
        reader.close()
        assert found == [one for number, one in enumerate(payloads(9)) if number != 4]
        assert damaged == 1


def test_a_zeroed_hole_does_not_hide_what_follows_for_ever(journal: Journal, tmp_path: Path) -> None:
    write(journal, payloads(9))
    path = segment_path(tmp_path, 1)
    data = bytearray(path.read_bytes())
    size = len(frame(payloads(1)[0]))
    data[len(HEAD) + 4 * size : len(HEAD) + 5 * size] = bytes(size)
    path.write_bytes(data)
    reader = SegmentReader(tmp_path)
    at = reader.read(BEGIN, None, records_max=100).end
    for _ in range(100):
        at = (chunk := reader.read(at, None, records_max=100)).end
        if chunk.payloads:
            break
    assert chunk.payloads == tuple(payloads(4, first=5))
    reader.close()


def test_segments_that_are_gone_are_jumped_over(journal: Journal, tmp_path: Path) -> None:
    write(journal, payloads(200))
    reader = SegmentReader(tmp_path)
    at = reader.read(BEGIN, None, records_max=5).end
    for number in (1, 2):
        segment_path(tmp_path, number).unlink()
    chunk = reader.read(at, None, records_max=5)
    assert chunk.has_jumped
    assert chunk.ends[0].segment == 3
    reader.close()


def test_a_position_behind_everything_is_of_a_folder_that_is_no_more(journal: Journal, tmp_path: Path) -> None:
    write(journal, payloads(5))
    assert read_all(tmp_path, at=Position(77, 512)) == payloads(5)


def test_a_folder_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    assert read_all(tmp_path / "later") == []
    assert unpublished_bytes(tmp_path / "later", BEGIN) == 0


def test_unpublished_bytes_are_those_behind_the_position(journal: Journal, tmp_path: Path) -> None:
    write(journal, payloads(200))
    total = sum(path.stat().st_size for path in tmp_path.glob("*.audit"))
    assert unpublished_bytes(tmp_path, BEGIN) == total
    first = segment_path(tmp_path, 1).stat().st_size
    assert unpublished_bytes(tmp_path, Position(1, 100)) == total - 100
    assert unpublished_bytes(tmp_path, Position(2, 0)) == total - first
