import pytest

from service.model.audit_record import AuditRecord, RecordKind


def record(kind: RecordKind | str = RecordKind.ACQUIRED, node: str = "worker1", **fields: object) -> AuditRecord:
    known: dict[str, object] = {"boot_id": "b", "sequence": 7, "wall_time_ns": 5_000, "boot_time_ns": 2_000}
    return AuditRecord(kind, node, **(known | fields))  # type: ignore[arg-type]


def assignment(kind: RecordKind, node: str, token: tuple[int, int, int] = (4, 9, 2)) -> AuditRecord:
    return record(kind, node, subject="192.168.1.100", token=token)


def test_copies_of_one_assignment_have_one_id_whoever_recorded_it() -> None:
    assert assignment(RecordKind.GRANTED, "worker1").id == assignment(RecordKind.GRANTED, "worker2").id
    others = [assignment(RecordKind.ACQUIRED, "worker1"), assignment(RecordKind.GRANTED, "worker1", (4, 9, 3))]
    assert len({other.id for other in (*others, assignment(RecordKind.GRANTED, "worker1"))}) == 3


def test_what_each_elector_promised_counts_for_itself() -> None:
    assert assignment(RecordKind.PROMISED, "worker1").id != assignment(RecordKind.PROMISED, "worker2").id


def test_a_record_without_a_token_is_named_by_its_place_in_its_outbox() -> None:
    one = record(RecordKind.NODE_UP, outbox="o1")
    assert one.id == record(RecordKind.NODE_UP, outbox="o1").id
    others = [
        record(RecordKind.NODE_UP, outbox="o2"),
        record(RecordKind.NODE_UP, outbox="o1", sequence=8),
        record(RecordKind.NODE_UP, outbox="o1", boot_id="c"),
        record(RecordKind.NODE_UP, "worker2", outbox="o1"),
        record(RecordKind.NODE_UP),
    ]
    assert len({one.id, *(other.id for other in others)}) == 6


def test_the_id_of_a_later_version_stands() -> None:
    assert record("later", token=(1, 1, 1), foreign_id="x/1").id == "x/1"


@pytest.mark.parametrize(("text", "instant"), [("17", 17), ("", None), ("-3", None), ("1e9", None), ("١٧", None)])
def test_an_instant_is_read_only_where_it_is_a_plain_number(text: str, instant: int | None) -> None:
    assert record(detail={"at": text}).instant("at") == instant
    assert record().instant("at") is None


def test_an_instant_of_the_boot_clock_has_a_wall_time_by_the_clocks_of_the_record() -> None:
    assert record().wall_of(1_500) == 4_500
