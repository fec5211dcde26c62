"""One outbox as the publisher sees it: what comes next, how far it is, and how much is behind."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.audit.cloud_event import format_time
from service.audit.cursor import BEGIN, Position, read_cursor
from service.audit.feed import Feed
from service.audit.journal import Journal

CAP = 1 << 20


@pytest.fixture(autouse=True)
def _always_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.audit.feed._MEASURE_S", 0.0)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path, segment_bytes=1 << 16, cap_bytes=CAP)
    journal.open(node="n1", boot_id="b1")
    yield journal
    journal.close()


def event(number: int, *, subject: str = "192.0.2.1", age_s: float = 0.0) -> bytes:
    at = format_time(time.time_ns() - int(age_s * 1e9))
    return json.dumps({"id": f"e{number}", "subject": subject, "time": at}).encode()


def write(journal: Journal, *payloads: bytes) -> None:
    assert journal.write(payloads) == len(payloads)


def feed_of(folder: Path, *, cap_bytes: int = CAP) -> Feed:
    return Feed(folder, node="n1", cap_bytes=cap_bytes)


def read(feed: Feed, count: int = 100) -> list[str]:
    """The next records, acknowledged at once."""
    events, end = feed.read(count)
    feed.advance(len(events), end)
    return [one.id for one in events]


def test_records_come_in_order_and_not_again_once_acknowledged(journal: Journal, tmp_path: Path) -> None:
    write(journal, *(event(number) for number in range(5)))
    feed = feed_of(tmp_path)
    assert read(feed, 2) == ["e0", "e1"]
    assert [one.id for one in feed.read(2)[0]] == ["e2", "e3"]
    # Not acknowledged: the same again.
    assert read(feed) == ["e2", "e3", "e4"]
    assert read(feed) == []


def test_nothing_beyond_what_the_writer_has_synced_is_given_out(journal: Journal, tmp_path: Path) -> None:
    write(journal, event(0))
    durable = journal.durable
    write(journal, event(1))
    feed = Feed(tmp_path, node="n1", cap_bytes=CAP, durable=lambda: durable)
    assert feed.is_own
    assert read(feed) == ["e0"]
    assert read(feed) == []
    durable = journal.durable
    assert read(feed) == ["e1"]


def test_a_restart_goes_on_at_the_stored_cursor(journal: Journal, tmp_path: Path) -> None:
    write(journal, *(event(number) for number in range(4)))
    feed = feed_of(tmp_path)
    read(feed, 3)
    feed.close()
    assert read_cursor(tmp_path) == feed.position
    assert read(feed_of(tmp_path)) == ["e3"]


def test_the_key_is_what_orders_a_record(journal: Journal, tmp_path: Path) -> None:
    write(journal, event(0), event(1, subject=""), b"no event at all")
    events, _ = feed_of(tmp_path).read(10)
    assert [one.key for one in events] == [b"192.0.2.1", b"n1", b"n1"]
    # What is on record is published, whatever it is.
    assert events[2].payload == b"no event at all"


def test_how_much_is_behind_is_counted_in_records_and_in_age(journal: Journal, tmp_path: Path) -> None:
    write(journal, event(0, age_s=100), event(1, age_s=50))
    feed = feed_of(tmp_path)
    feed.read(1)
    assert feed.lag_records == 2
    assert 99 < feed.lag_seconds < 130
    read(feed, 1)
    feed.read(1)
    assert feed.lag_records == 1
    assert 49 < feed.lag_seconds < 80
    read(feed, 1)
    feed.read(1)
    assert (feed.lag_records, feed.lag_seconds) == (0, 0.0)


def test_an_outbox_that_fills_up_is_said_before_records_are_lost(journal: Journal, tmp_path: Path) -> None:
    write(journal, *(event(number) for number in range(50)))
    small = feed_of(tmp_path, cap_bytes=1 << 16)
    small.read(1)
    assert small.is_nearly_full
    large = feed_of(tmp_path)
    large.read(1)
    assert 0 < large.fill < 0.8
    assert not large.is_nearly_full


def test_damage_is_counted_and_passed_over(journal: Journal, tmp_path: Path) -> None:
    write(journal, event(0), event(1), event(2))
    (segment,) = tmp_path.glob("*.audit")
    data = bytearray(segment.read_bytes())
    data[data.index(b'"e1"') + 1] ^= 1
    segment.write_bytes(data)
    feed = feed_of(tmp_path)
    assert read(feed) == ["e0"]
    assert read(feed) == []
    assert feed.damaged == 1
    assert read(feed) == ["e2"]


def test_what_is_set_aside_is_seen_also_after_a_restart(journal: Journal, tmp_path: Path) -> None:
    write(journal, event(0))
    feed = feed_of(tmp_path)
    (one,), _ = feed.read(1)
    feed.set_aside(one, "too large")
    assert feed.has_set_aside
    again = feed_of(tmp_path)
    again.read(1)
    assert again.has_set_aside
    (line,) = again.set_aside_path.read_text().splitlines()
    assert json.loads(line) == {"reason": "too large", "event": one.payload.decode()}


def test_a_folder_without_records_is_no_trouble(tmp_path: Path) -> None:
    feed = feed_of(tmp_path / "none")
    assert feed.read(10) == ([], BEGIN)
    assert feed.failure == ""


def test_a_cursor_that_cannot_be_written_is_a_state_and_reading_goes_on(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "cursor").mkdir()
    write(journal, event(0))
    feed = feed_of(tmp_path)
    with pytest.raises(IsADirectoryError):
        feed.read(1)
    (tmp_path / "cursor").rmdir()
    assert read(feed) == ["e0"]
    (tmp_path / "cursor").unlink(missing_ok=True)
    (tmp_path / "cursor").mkdir()
    feed.store()
    assert "records are published again" in feed.failure
    (tmp_path / "cursor").rmdir()
    feed.store()
    assert feed.failure == ""
    assert read_cursor(tmp_path) == feed.position > Position(0, 0)
