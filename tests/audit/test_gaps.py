import pytest

from service.audit.gaps import Gaps
from service.model.audit_record import AuditRecord, RecordKind


def gap(*, boot_id: str = "b1", **detail: str) -> AuditRecord:
    return AuditRecord(RecordKind.GAP, "n1", boot_id, 9, 0, 0, detail=detail)


def noted(*records: AuditRecord) -> Gaps:
    gaps = Gaps()
    for record in records:
        gaps.note(record)
    return gaps


def test_of_a_queues_range_only_the_count_is_lost() -> None:
    gaps = noted(gap(firstSequence="3", lastSequence="8", records="2"))
    assert [sequence for sequence in range(1, 11) if gaps.may_be_lost("b1", sequence)] == [3, 4, 5, 6, 7, 8]
    assert gaps.lost_count("b1") == 2
    assert not gaps.is_removed("b1", 3)
    assert not gaps.has_removed


def test_counts_of_one_boot_add_up_and_are_of_no_other() -> None:
    gaps = noted(
        gap(firstSequence="1", lastSequence="1", records="1"),
        gap(firstSequence="5", lastSequence="9", records="4"),
        gap(boot_id="b2", firstSequence="1", lastSequence="9", records="7"),
    )
    assert (gaps.lost_count("b1"), gaps.lost_count("b2"), gaps.lost_count("b3")) == (5, 7, 0)
    assert not gaps.may_be_lost("b1", 2)
    assert gaps.may_be_lost("b2", 2)


def test_what_the_cap_removed_is_gone_whole_and_may_be_of_earlier_boots() -> None:
    gaps = noted(gap(boot_id="b3", ranges="b1:4-6,b2:1-2", records="5"))
    assert [sequence for sequence in range(1, 9) if gaps.is_removed("b1", sequence)] == [4, 5, 6]
    assert [sequence for sequence in range(1, 9) if gaps.is_removed("b2", sequence)] == [1, 2]
    assert (gaps.removed_up_to("b1"), gaps.removed_up_to("b2"), gaps.removed_up_to("b3")) == (6, 2, 0)
    assert gaps.has_removed
    assert gaps.lost_count("b3") == 0


@pytest.mark.parametrize(
    "detail",
    [
        {"firstSequence": "1"},
        {"firstSequence": "1", "lastSequence": "2"},
        {"firstSequence": "one", "lastSequence": "2", "records": "1"},
        {"ranges": "b1"},
        {"ranges": "b1:4"},
        {"ranges": "b1:4-x"},
    ],
)
def test_a_gap_record_that_does_not_say_what_is_gone_is_refused(detail: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        noted(gap(**detail))


def test_a_gap_record_of_published_segments_says_nothing_is_gone() -> None:
    gaps = noted(gap(records="0", ranges=""))
    assert not gaps.has_removed
