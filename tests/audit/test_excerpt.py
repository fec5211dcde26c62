"""The newest records of a node, bounded."""

from pathlib import Path

import pytest

from service.audit import excerpt
from service.audit.excerpt import newest_records
from service.audit.outbox import Outbox
from tests.audit.log import hold, payloads, write_outbox


def some(outbox: Outbox) -> None:
    for number in range(1, 6):
        hold(outbox, number, from_ms=number, until_ms=number)


def test_all_is_given_as_it_lies_there_where_it_is_little(tmp_path: Path) -> None:
    one, two = write_outbox(tmp_path / "one", some), write_outbox(tmp_path / "two", some, node="worker2")
    found = newest_records([one, two])
    assert (list(found.payloads), found.is_whole) == (payloads(one) + payloads(two), True)


def test_of_more_than_the_bound_the_newest_are_given_and_that_is_said(tmp_path: Path) -> None:
    one, two = write_outbox(tmp_path / "one", some), write_outbox(tmp_path / "two", some, node="worker2")
    of_each = [payloads(one), payloads(two)]
    bound = 2 * max(sum(map(len, some_payloads[-3:])) for some_payloads in of_each)
    found = newest_records([one, two], bytes_max=bound)
    assert (list(found.payloads), found.is_whole) == (of_each[0][-3:] + of_each[1][-3:], False)


def test_it_goes_back_over_segments(tmp_path: Path) -> None:
    folder = write_outbox(tmp_path / "one", some)
    earlier = payloads(folder)
    (segment,) = folder.glob("*.audit")
    (folder / "0000000000000002.audit").write_bytes(segment.read_bytes())
    assert list(newest_records([folder]).payloads) == [*earlier, *earlier]


def test_an_outbox_that_is_not_there_has_none_and_one_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_outbox(tmp_path / "one", some)
    assert newest_records([tmp_path / "none"]) == excerpt.Excerpt((), True)

    def fail(number: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(excerpt, "segment_numbers", fail)
    assert newest_records([folder]) == excerpt.Excerpt((), False)
