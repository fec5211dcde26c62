from pathlib import Path

import pytest

from service.audit.cloud_event import encode
from service.audit.journal import CorruptRecord, Journal, read_outbox
from service.audit.segment import HEAD, frame
from service.model.audit_record import AuditRecord, RecordKind
from service.model.errors import OperatorError

SEGMENT_BYTES = 2048


def payload(sequence: int, *, node: str = "n1", boot_id: str = "b1", size: int = 0) -> bytes:
    record = AuditRecord(RecordKind.NODE_UP, node, boot_id, sequence, 10**18 + sequence, sequence, reason="x" * size)
    return encode(record)


def open_journal(folder: Path, *, boot_id: str = "b1", cap_bytes: int = 1 << 20) -> tuple[Journal, int]:
    journal = Journal(folder, segment_bytes=SEGMENT_BYTES, cap_bytes=cap_bytes)
    return journal, journal.open(node="n1", boot_id=boot_id).last_sequence


def write_all(journal: Journal, payloads: list[bytes]) -> None:
    while payloads:
        payloads = payloads[journal.write(payloads) :]


def sequences(folder: Path) -> list[int]:
    return [record.sequence for record in read_outbox(folder) if isinstance(record, AuditRecord)]


def test_records_come_back_in_order_over_many_segments(tmp_path: Path) -> None:
    journal, _ = open_journal(tmp_path)
    write_all(journal, [payload(number) for number in range(1, 51)])
    journal.close()
    assert sequences(tmp_path) == list(range(1, 51))
    assert len(list(tmp_path.glob("*.audit"))) > 3


def test_a_reader_sees_what_a_live_writer_has_made_durable(tmp_path: Path) -> None:
    journal, _ = open_journal(tmp_path)
    write_all(journal, [payload(1), payload(2)])
    assert sequences(tmp_path) == [1, 2]
    write_all(journal, [payload(3)])
    assert sequences(tmp_path) == [1, 2, 3]
    journal.close()


def test_the_sequence_goes_on_after_a_restart_and_begins_anew_after_a_reboot(tmp_path: Path) -> None:
    for first in (1, 21, 41):
        journal, last = open_journal(tmp_path)
        assert last == first - 1
        write_all(journal, [payload(number) for number in range(first, first + 20)])
        journal.close()
    journal, last = open_journal(tmp_path, boot_id="b2")
    journal.close()
    assert last == 0


def test_a_torn_tail_is_cut_at_the_start_and_writing_goes_on_there(tmp_path: Path) -> None:
    journal, _ = open_journal(tmp_path)
    write_all(journal, [payload(1), payload(2)])
    journal.close()
    (segment,) = tmp_path.glob("*.audit")
    segment.write_bytes(segment.read_bytes() + frame(payload(3))[:-5])

    assert [type(item) for item in read_outbox(tmp_path)] == [AuditRecord, AuditRecord]
    journal = Journal(tmp_path, segment_bytes=SEGMENT_BYTES, cap_bytes=1 << 20)
    recovery = journal.open(node="n1", boot_id="b1")
    assert (recovery.last_sequence, recovery.torn_bytes) == (2, len(frame(payload(3))) - 5)
    write_all(journal, [payload(3)])
    journal.close()
    assert list(tmp_path.glob("*.audit")) == [segment]
    assert sequences(tmp_path) == [1, 2, 3]


def test_a_crash_that_leaves_a_preallocated_segment_loses_nothing(tmp_path: Path) -> None:
    journal, _ = open_journal(tmp_path)
    write_all(journal, [payload(1)])
    image = {path.name: path.read_bytes() for path in tmp_path.glob("*.audit")}  # as a power cut would leave it
    journal.close()
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for name, data in image.items():
        assert len(data) == SEGMENT_BYTES
        (crashed / name).write_bytes(data)
    (crashed / "0000000000000002.audit").write_bytes(bytes(SEGMENT_BYTES))
    journal, last = open_journal(crashed)
    assert last == 1
    write_all(journal, [payload(2)])
    journal.close()
    assert sequences(crashed) == [1, 2]


def test_a_corrupt_record_is_isolated_and_reported(tmp_path: Path) -> None:
    journal, _ = open_journal(tmp_path)
    write_all(journal, [payload(number) for number in (1, 2, 3)])
    journal.close()
    (segment,) = tmp_path.glob("*.audit")
    data = bytearray(segment.read_bytes())
    start = len(HEAD) + len(frame(payload(1)))
    data[start + 40] ^= 0xFF
    segment.write_bytes(data)

    found = list(read_outbox(tmp_path))
    assert sequences(tmp_path) == [1, 3]
    assert [item for item in found if isinstance(item, CorruptRecord)] == [
        CorruptRecord(segment, start, len(frame(payload(2))), "checksum or length is wrong")
    ]
    journal = Journal(tmp_path, segment_bytes=SEGMENT_BYTES, cap_bytes=1 << 20)
    recovery = journal.open(node="n1", boot_id="b1")
    assert (recovery.damaged, recovery.last_sequence) == (1, 3)
    write_all(journal, [payload(4)])
    journal.close()
    assert sequences(tmp_path) == [1, 3, 4]


def test_a_sound_frame_that_is_no_event_is_reported(tmp_path: Path) -> None:
    journal, _ = open_journal(tmp_path)
    write_all(journal, [payload(1), b'{"from":"a later version"}', payload(2)])
    journal.close()
    assert [type(item) for item in read_outbox(tmp_path)] == [AuditRecord, CorruptRecord, AuditRecord]


def test_a_segment_of_another_layout_is_left_as_it_is(tmp_path: Path) -> None:
    foreign = tmp_path / "0000000000000005.audit"
    content = b"EGWAUDIT\x00\x00\x00\x02\x00\x00\x00\x00 whatever"
    foreign.write_bytes(content)
    journal, _ = open_journal(tmp_path)
    write_all(journal, [payload(1)])
    journal.close()
    assert foreign.read_bytes() == content
    assert [type(item) for item in read_outbox(tmp_path)] == [CorruptRecord, AuditRecord]


def test_the_oldest_segments_are_over_the_cap_first(tmp_path: Path) -> None:
    journal, _ = open_journal(tmp_path, cap_bytes=3 * SEGMENT_BYTES)
    write_all(journal, [payload(number) for number in range(1, 41)])
    paths = sorted(tmp_path.glob("*.audit"))
    excess = journal.excess()
    assert [one.path for one in excess] == paths[: len(excess)]
    assert len(excess) >= 1
    journal.remove([one.path for one in excess])
    assert journal.excess() == ()
    assert sum(path.stat().st_size for path in tmp_path.glob("*.audit")) <= 3 * SEGMENT_BYTES
    first = sum(one.records for one in excess) + 1
    assert sequences(tmp_path) == list(range(first, 41))
    journal.close()


def test_a_record_larger_than_a_segment_gets_one_of_its_own(tmp_path: Path) -> None:
    journal, _ = open_journal(tmp_path)
    write_all(journal, [payload(1), payload(2, size=3 * SEGMENT_BYTES), payload(3)])
    journal.close()
    assert sequences(tmp_path) == [1, 2, 3]


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    journal, _ = open_journal(tmp_path)
    with pytest.raises(OSError, match="another process"):
        open_journal(tmp_path)
    journal.close()
    open_journal(tmp_path)[0].close()


def test_reading_where_there_is_no_outbox_is_an_operator_error(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="nowhere"):
        list(read_outbox(tmp_path / "nowhere"))
