import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.audit.chain import Chain, Origin
from service.audit.cloud_event import decode, encode
from service.audit.consumer import Entry, Extent, OutboxSource, Unreadable, read_all
from service.audit.outbox import Outbox
from service.audit.verification import Fault, Verdict, Verification
from service.model.audit_record import HELD_AT, HELD_UNTIL, RecordKind
from tests.audit.log import BOOT, IP, SECOND, Clock, hold, payloads, rewrite, write_outbox

GOOD = "nothing lost, nothing doubled, no overlap"
ERROR_NS = SECOND // 2
MS = 1_000_000


def verdict_of(*folders: Path, clock_error_ns: int = ERROR_NS) -> Verdict:
    sources = [OutboxSource(folder) for folder in folders]
    items = asyncio.run(read_all(sources))
    return judged(items, [one for source in sources for one in source.extents], clock_error_ns=clock_error_ns)


def judged(items: Iterable[Entry | Unreadable], extents: Sequence[Extent], *, clock_error_ns: int) -> Verdict:
    """The verdict over logs that were read whole."""
    verification = Verification(clock_error_ns=clock_error_ns)
    for item in items:
        verification.take(item)
    return verification.verdict(extents)


def faults(verdict: Verdict) -> list[Fault]:
    return [finding.fault for finding in verdict.findings]


def ten(outbox: Outbox) -> None:
    for number in range(5):
        hold(outbox, 2 * number + 1, from_ms=100 * number, until_ms=100 * number + 50)


def three(outbox: Outbox) -> None:
    for _ in range(3):
        outbox.append(RecordKind.NODE_UP, subject="n")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write_outbox(tmp_path / "outbox", ten)


# --- good logs


def test_a_good_log_is_good(log: Path) -> None:
    verdict = verdict_of(log)
    assert verdict.is_good, verdict.findings
    assert verdict.summary() == GOOD
    assert (verdict.records, verdict.events, verdict.copies, verdict.chains, verdict.tenures) == (10, 10, 0, 1, 5)


def test_restarts_and_reboots_keep_the_chain(tmp_path: Path) -> None:
    folder = tmp_path / "outbox"
    for boot_id in ("boot-1", "boot-1", "boot-2", "boot-3"):
        write_outbox(folder, three, boot_id=boot_id)
    verdict = verdict_of(folder)
    assert verdict.is_good, verdict.findings
    assert (verdict.records, verdict.chains) == (12, 3)
    records = [decode(one) for one in payloads(folder)]
    assert [record.sequence for record in records] == [1, 2, 3, 4, 5, 6, 1, 2, 3, 1, 2, 3]
    assert len({record.outbox for record in records}) == 1


def test_the_last_record_of_an_earlier_boot_is_missed(tmp_path: Path) -> None:
    folder = tmp_path / "outbox"
    for boot_id in ("boot-1", "boot-2"):
        write_outbox(folder, three, boot_id=boot_id)
    rewrite(folder, [one for index, one in enumerate(payloads(folder)) if index != 2])
    assert faults(verdict_of(folder)) == [Fault.MISSING]


def test_a_wiped_disk_begins_another_chain(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    write_outbox(first, ten)
    write_outbox(second, three)
    verdict = verdict_of(first, second)  # same node, boot and sequences
    assert verdict.is_good, verdict.findings
    assert (verdict.events, verdict.chains) == (13, 2)


# --- removed, doubled, altered


@pytest.mark.parametrize("index", range(9))
def test_a_removed_record_is_missed(log: Path, index: int) -> None:
    records = payloads(log)
    rewrite(log, records[:index] + records[index + 1 :])
    verdict = verdict_of(log)
    assert faults(verdict) == [Fault.MISSING]
    assert f"sequence {index + 1}" in verdict.findings[0].message
    assert "records are missing" in verdict.summary()


@pytest.mark.parametrize("index", range(10))
@pytest.mark.parametrize("place", [0, 5, 10])
def test_a_doubled_record_is_noticed_wherever_it_is_put(log: Path, index: int, place: int) -> None:
    records = payloads(log)
    rewrite(log, [*records[:place], records[index], *records[place:]])
    assert faults(verdict_of(log)) == [Fault.DOUBLED]


def change_holder(event: dict[str, Any]) -> None:
    event["data"]["holder"] = "worker9"


def change_time(event: dict[str, Any]) -> None:
    event["time"] = "2026-01-01T00:00:00.000000000Z"


def change_chain(event: dict[str, Any]) -> None:
    event["data"]["prev"] = "0" * 32


@pytest.mark.parametrize("index", range(9))
@pytest.mark.parametrize("change", [change_holder, change_time, change_chain])
def test_an_altered_record_is_noticed(log: Path, index: int, change: Callable[[dict[str, Any]], None]) -> None:
    records = payloads(log)
    event = json.loads(records[index])
    change(event)
    records[index] = json.dumps(event).encode()
    rewrite(log, records)
    found = [finding for finding in verdict_of(log).findings if finding.fault is Fault.ALTERED]
    assert found
    assert any(f"sequence {index + 1}" in finding.message for finding in found)


def test_the_altered_record_is_named_where_its_successor_is_vouched_for(log: Path) -> None:
    records = payloads(log)
    event = json.loads(records[4])
    change_holder(event)
    records[4] = json.dumps(event).encode()
    rewrite(log, records)
    (found,) = [one for one in verdict_of(log).findings if one.fault is Fault.ALTERED]
    assert " or " not in found.message


def test_flipped_bits_are_unreadable_and_missing(log: Path) -> None:
    (segment,) = log.glob("*.audit")
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    assert set(faults(verdict_of(log))) == {Fault.UNREADABLE, Fault.MISSING}


def test_a_copy_in_another_log_vouches_for_the_newest_record(log: Path, tmp_path: Path) -> None:
    copy = tmp_path / "backup"
    copy.mkdir()
    rewrite(copy, payloads(log))
    assert verdict_of(log, copy).is_good
    records = payloads(log)
    event = json.loads(records[-1])
    change_holder(event)
    rewrite(log, [*records[:-1], json.dumps(event).encode()])
    assert Fault.ALTERED in faults(verdict_of(log, copy))


@pytest.mark.parametrize("sequence", [0, -3])
def test_a_record_without_a_place_in_its_outbox_was_put_there_and_is_no_evidence(log: Path, sequence: int) -> None:
    """No chain vouches for it: neither that it is missing would show, nor that it was changed."""
    records = payloads(log)
    forged = replace(decode(records[0]), sequence=sequence, prev="", holder="worker9", token=(1, 1, 1))
    rewrite(log, [*records, encode(forged)])
    verdict = verdict_of(log)
    (finding,) = verdict.findings
    assert (finding.fault, finding.subject) == (Fault.ALTERED, "worker1")
    assert f"sequence {sequence}" in finding.message
    assert (verdict.events, verdict.tenures) == (10, 5)


def test_later_versions_whose_sequences_cannot_be_read_here_are_noted_and_not_taken_for_each_other(log: Path) -> None:
    records = payloads(log)
    later = []
    for number in (1, 2):
        event = json.loads(records[0]) | {"dataschema": "urn:egressgw:audit:record:v2", "id": f"later-{number}"}
        event["data"]["sequence"] = {"outbox": number}
        later.append(json.dumps(event).encode())
    rewrite(log, [*records, *later])
    verdict = verdict_of(log)
    assert verdict.is_good, verdict.findings
    assert verdict.events == 12
    assert verdict.notes == ("2 records are of a later schema version and only their chains were checked",)


def test_two_writers_that_went_on_from_one_record_are_noticed(log: Path, tmp_path: Path) -> None:
    """No lock reaches from one machine to its clone."""
    clone = tmp_path / "clone"
    clone.mkdir()
    rewrite(clone, payloads(log))
    for folder, subject in ((log, "x"), (clone, "y")):
        write_outbox(folder, lambda outbox, subject=subject: outbox.append(RecordKind.NODE_UP, subject=subject))
        assert verdict_of(folder).is_good
    (finding,) = verdict_of(log, clone).findings
    assert finding.fault is Fault.ALTERED
    assert "sequence 11" in finding.message
    assert "are different records" in finding.message


def nameless(*sequences: int) -> list[bytes]:
    """Records as the first outboxes wrote them, before there were names and chains."""
    chain = Chain(Origin("n1", "b1"), "", clock=Clock(), context=lambda: (0, 0))
    made = [chain.next(RecordKind.NODE_UP, {"subject": "n"})[0] for _ in range(max(sequences))]
    return [encode(replace(made[number - 1], prev="")) for number in sequences]


def test_of_records_from_before_there_were_chains_the_sequences_are_checked() -> None:
    topic = Topic()
    topic.publish(*nameless(1, 2, 3))
    assert topic.verdict().is_good
    for left in ((2, 3), (1, 3)):
        topic = Topic()
        topic.publish(*nameless(*left))
        assert faults(topic.verdict()) == [Fault.MISSING]


def test_an_outbox_whose_old_records_could_not_be_read_begins_where_it_likes() -> None:
    chain = Chain(Origin("n1", "b1"), "o2", clock=Clock(), context=lambda: (0, 0))
    chain.begin_unread()
    made = [chain.next(RecordKind.NODE_UP, {"subject": "n"}) for _ in range(3)]
    assert made[0][0].sequence > 1_000_000
    topic = Topic()
    topic.publish(*(payload for _, payload in made))
    assert topic.verdict().is_good
    topic = Topic()
    topic.publish(*(payload for _, payload in made[1:]))
    assert faults(topic.verdict()) == [Fault.MISSING]


# --- gaps


def test_the_size_cap_leaves_a_note_and_no_finding_where_nothing_is_published(tmp_path: Path) -> None:
    async def fill() -> None:
        clock = Clock()
        async with (
            Outbox(tmp_path, Origin("n1", "b1"), clock=clock, segment_bytes=4096, cap_bytes=3 * 4096) as outbox,
            asyncio.TaskGroup() as group,
        ):
            writer = group.create_task(outbox.run())
            for _ in range(40):
                for _ in range(5):
                    outbox.append(RecordKind.NODE_UP, subject="n")
                assert await outbox.flush(5)
            writer.cancel()
        assert outbox.state.removed > 0

    asyncio.run(fill())
    verdict = verdict_of(tmp_path)
    assert verdict.is_good, verdict.findings
    assert any("removed by the size cap" in note for note in verdict.notes)
    # Anything beyond what the gap records say is missed all the same.
    kept = payloads(tmp_path)
    rewrite(tmp_path, kept[:5] + kept[6:])
    assert Fault.MISSING in faults(verdict_of(tmp_path))


def test_records_lost_to_a_full_queue_are_counted_as_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    async def lose() -> None:
        async with (
            Outbox(tmp_path, Origin("n1", "b1"), clock=Clock(), queue_records=5) as outbox,
            asyncio.TaskGroup() as group,
        ):
            writer = group.create_task(outbox.run())
            with monkeypatch.context() as patch:
                patch.setattr(os, "fdatasync", fail)
                outbox.append(RecordKind.NODE_UP, subject="n")
                async with asyncio.timeout(10):
                    while outbox.state.healthy:  # noqa: ASYNC110
                        await asyncio.sleep(0.005)
                for _ in range(8):
                    outbox.append(RecordKind.NODE_UP, subject="n")
            assert await outbox.flush(10)
            writer.cancel()

    asyncio.run(lose())
    (found,) = verdict_of(tmp_path).findings
    assert (found.fault, found.records) == (Fault.LOST, 3)


def test_of_a_range_with_losses_only_as_many_are_lost_as_were_counted() -> None:
    chain = Chain(Origin("n1", "b1"), "o1", clock=Clock(), context=lambda: (0, 0))
    made = [chain.next(RecordKind.NODE_UP, {"subject": "n"})[1] for _ in range(6)]
    detail = {"records": "2", "firstSequence": "2", "lastSequence": "5"}
    made.append(chain.next(RecordKind.GAP, {"detail": detail})[1])
    topic = Topic()
    topic.publish(*(made[number] for number in (0, 5, 6)))
    found = {one.fault: one.records for one in topic.verdict().findings}
    assert found == {Fault.LOST: 2, Fault.MISSING: 2}


# --- one holder


def two_nodes(
    tmp_path: Path,
    first: tuple[int, int, int | None],
    second: tuple[int, int, int | None],
    *,
    skew_ns: int = 0,
    boots: tuple[str, str] = ("boot-1", "boot-2"),
) -> Verdict:
    """Tenures of worker1 and worker2 as (token, from, until) in milliseconds of their own clocks."""
    folders = []
    for node, boot_id, (token, from_ms, until_ms), offset in (
        ("worker1", boots[0], first, 0),
        ("worker2", boots[1], second, skew_ns),
    ):

        def act(outbox: Outbox, node: str = node, token: int = token, span: Any = (from_ms, until_ms)) -> None:
            hold(outbox, token, node=node, from_ms=span[0], until_ms=span[1])

        folders.append(
            write_outbox(tmp_path / node, act, node=node, boot_id=boot_id, clock=Clock(wall_offset_ns=offset))
        )
    return verdict_of(*folders)


def test_two_holders_at_once_are_an_overlap(tmp_path: Path) -> None:
    verdict = two_nodes(tmp_path, (1, 0, 5000), (2, 2000, 7000))
    assert faults(verdict) == [Fault.OVERLAP]
    assert "worker1" in verdict.findings[0].message
    assert "two holders at once" in verdict.summary()


def test_one_after_the_other_is_no_overlap(tmp_path: Path) -> None:
    assert two_nodes(tmp_path, (1, 0, 2000), (2, 2300, None)).is_good


def test_a_crashed_holder_without_an_end_is_no_overlap(tmp_path: Path) -> None:
    assert two_nodes(tmp_path, (1, 0, None), (2, 2000, 7000)).is_good


def test_wall_clocks_may_be_apart_by_the_clock_error(tmp_path: Path) -> None:
    # worker2's clock is 400 ms behind: by its word it began before worker1 had ended.
    assert two_nodes(tmp_path, (1, 0, 2000), (2, 2300, None), skew_ns=-SECOND * 2 // 5).is_good


def test_within_one_boot_the_boot_clock_decides_to_the_nanosecond(tmp_path: Path) -> None:
    boots = ("boot-1", "boot-1")
    assert two_nodes(tmp_path / "a", (1, 0, 2000), (2, 2001, None), boots=boots, skew_ns=-90 * SECOND).is_good
    assert faults(two_nodes(tmp_path / "b", (1, 0, 2000), (2, 1999, None), boots=boots)) == [Fault.OVERLAP]


def test_a_holder_that_is_adopted_again_after_the_next_one_began_is_an_overlap(tmp_path: Path) -> None:
    def act(outbox: Outbox) -> None:
        hold(outbox, 1, from_ms=0, until_ms=None)
        hold(outbox, 1, from_ms=9000, until_ms=None)  # after a restart of the agent: it does hold it

    first = write_outbox(tmp_path / "w1", act)
    second = write_outbox(
        tmp_path / "w2",
        lambda outbox: hold(outbox, 2, node="worker2", from_ms=5000, until_ms=6000),
        node="worker2",
        boot_id="boot-2",
    )
    assert faults(verdict_of(first, second)) == [Fault.OVERLAP]


def test_a_lower_token_in_use_after_a_higher_one_is_stale(tmp_path: Path) -> None:
    assert faults(two_nodes(tmp_path, (1, 5000, 6000), (2, 0, 1000))) == [Fault.STALE_TOKEN]


def test_one_token_with_two_holders_is_an_overlap_whenever_it_was(tmp_path: Path) -> None:
    assert faults(two_nodes(tmp_path, (1, 0, 10), (1, 50_000, 60_000))) == [Fault.OVERLAP]


def test_ends_that_do_not_say_until_when_are_given_a_margin(tmp_path: Path) -> None:
    def tenure(node: str, token: int) -> Callable[[Outbox], None]:
        def act(outbox: Outbox) -> None:
            for kind in (RecordKind.ACQUIRED, RecordKind.RELEASED):
                outbox.append(kind, subject=IP, token=(1, 1, token), holder=node)

        return act

    class Slow(Clock):
        def __init__(self, *seconds: float) -> None:
            self._instants = [int(second * SECOND) for second in seconds]

        def __call__(self) -> tuple[int, int]:
            instant = self._instants.pop(0) if len(self._instants) > 1 else self._instants[0]
            return 1_790_000_000 * SECOND + instant, BOOT + instant

    def both(name: str, until: float, since: float) -> Verdict:
        # The first look of an outbox at its clock is its opening, others belong to its writer; records take the rest.
        first = write_outbox(tmp_path / name / "a", tenure("worker1", 1), clock=Slow(0, 0, until))
        second = write_outbox(
            tmp_path / name / "b", tenure("worker2", 2), node="worker2", boot_id="boot-2", clock=Slow(0, since, 99)
        )
        return verdict_of(first, second)

    assert both("late report", 10.0, 9.8).is_good
    assert faults(both("overlap", 10.0, 5.0)) == [Fault.OVERLAP]


# --- the topic, as entries


class Topic:
    """What a consumer reads: partitions by subject, in the order of their offsets."""

    def __init__(self, *, begins: int = 0) -> None:
        self.entries: list[Entry | Unreadable] = []
        self._begins = begins

    def publish(self, *records: bytes, partition: int | None = None) -> None:
        for payload in records:
            record = decode(payload)
            number = partition if partition is not None else sum(record.subject.encode()) % 2
            log = f"topic[{number}]"
            self.entries.append(Entry(log, f"{log}@{len(self.entries)}", 0, payload, record))

    def verdict(self, *more: Entry | Unreadable, extents: tuple[Extent, ...] = ()) -> Verdict:
        own = [Extent(f"topic[{number}]", True, self._begins > 0) for number in range(2)]
        return judged([*more, *self.entries], [*own, *extents], clock_error_ns=ERROR_NS)


@pytest.fixture
def records(tmp_path: Path) -> list[bytes]:
    def act(outbox: Outbox) -> None:
        for number in range(30):
            outbox.append(RecordKind.NODE_UP, subject=f"192.0.2.{number % 3}")

    return payloads(write_outbox(tmp_path / "outbox", act))


def test_a_topic_without_copies_is_good(records: list[bytes]) -> None:
    topic = Topic()
    topic.publish(*records)
    assert topic.verdict().summary() == GOOD


@pytest.mark.parametrize("start", [0, 7, 29])
def test_a_publishers_replay_is_no_doubling(records: list[bytes], start: int) -> None:
    topic = Topic()
    topic.publish(*records[:20])
    topic.publish(*records[min(start, 19) : 20])
    topic.publish(*records[12:18])  # and one that was itself cut off, and begun again
    topic.publish(*records[12:])
    verdict = topic.verdict()
    assert verdict.is_good, verdict.findings
    assert verdict.events == 30
    assert verdict.copies > 0


def test_a_record_doubled_in_the_topic_is_noticed(records: list[bytes]) -> None:
    for before in (30, 20):
        topic = Topic()
        topic.publish(*records[:before])
        topic.publish(records[4])
        topic.publish(*records[before:])
        verdict = topic.verdict()
        assert faults(verdict) == [Fault.DOUBLED]
        assert verdict.events == 30


def test_a_record_removed_from_the_topic_is_noticed(records: list[bytes]) -> None:
    topic = Topic()
    topic.publish(*records[:11], *records[12:])
    assert faults(topic.verdict()) == [Fault.MISSING]


def test_a_record_altered_in_the_topic_is_noticed(records: list[bytes]) -> None:
    topic = Topic()
    altered = encode(replace(decode(records[11]), holder="worker9"))
    topic.publish(*records[:11], altered, *records[12:])
    assert faults(topic.verdict()) == [Fault.ALTERED]
    topic.publish(records[11])
    assert Fault.ALTERED in faults(topic.verdict())


def test_records_of_one_address_out_of_order_are_noticed(records: list[bytes]) -> None:
    topic = Topic()
    topic.publish(*records[:3], records[6], *records[3:6], *records[7:])  # 3 and 6 are of one address
    assert faults(topic.verdict()) == [Fault.DISORDER]
    other = Topic()
    other.publish(*records[:4], records[5], records[4], *records[6:])
    assert other.verdict().is_good


def test_what_the_topics_retention_took_is_noted(records: list[bytes]) -> None:
    topic = Topic(begins=1)
    topic.publish(*records[10:])
    verdict = topic.verdict()
    assert verdict.is_good, verdict.findings
    assert "10 oldest records are no longer in the logs given" in verdict.notes[0]
    topic = Topic(begins=0)
    topic.publish(*records[10:])
    assert faults(topic.verdict()) == [Fault.MISSING]


def test_what_the_topics_retention_took_is_missed_neither_by_the_next_boot_nor_beside_the_outbox(
    tmp_path: Path,
) -> None:
    for boot_id in ("boot-1", "boot-2"):
        write_outbox(tmp_path / "outbox", three, boot_id=boot_id)
    source = OutboxSource(tmp_path / "outbox")
    written, outbox = payloads(source.folder), asyncio.run(read_all([source]))
    for kept, more in ((written[3:], []), (written[1:], outbox)):
        for begins, fault in ((1, []), (0, [Fault.MISSING])):
            topic = Topic(begins=begins)
            topic.publish(*kept)
            assert faults(topic.verdict(*more, extents=tuple(source.extents))) == fault


def test_what_is_not_there_may_have_been_in_a_partition_of_which_retention_took_everything(
    records: list[bytes],
) -> None:
    topic = Topic()
    topic.publish(*records[2:], partition=0)
    for is_trimmed, fault in ((True, []), (False, [Fault.MISSING])):
        extents = [Extent("topic[0]", True, False), Extent("topic[1]", True, is_trimmed)]
        assert faults(judged(topic.entries, extents, clock_error_ns=ERROR_NS)) == fault


def test_what_the_outbox_has_and_the_topic_passed_over_is_missing(records: list[bytes], tmp_path: Path) -> None:
    source = OutboxSource(tmp_path / "outbox")
    outbox = asyncio.run(read_all([source]))
    topic = Topic()
    topic.publish(*records[:25])  # the rest is on its way
    assert topic.verdict(*outbox, extents=tuple(source.extents)).is_good
    topic = Topic()
    topic.publish(*records[:11], *records[12:25])
    verdict = topic.verdict(*outbox, extents=tuple(source.extents))
    assert faults(verdict) == [Fault.MISSING]
    assert "not in the topic: sequence 12" in verdict.findings[0].message


def test_what_the_size_cap_took_before_it_was_published_is_lost(tmp_path: Path) -> None:
    def act(outbox: Outbox) -> None:
        three(outbox)
        three(outbox)
        detail = {"records": "2", "ranges": "boot-1:4-5"}
        outbox.append(RecordKind.GAP, reason="size cap: oldest segments removed", detail=detail)

    written = payloads(write_outbox(tmp_path / "outbox", act))
    topic = Topic()
    topic.publish(*written[:3], *written[5:])
    (found,) = topic.verdict().findings
    assert (found.fault, found.records) == (Fault.LOST, 2)
    topic = Topic()
    topic.publish(*written[:2], *written[5:])  # more than the gap record says
    assert set(faults(topic.verdict())) == {Fault.LOST, Fault.MISSING}


def test_a_gap_that_outbox_and_topic_both_tell_of_is_one_gap(tmp_path: Path) -> None:
    def act(outbox: Outbox) -> None:
        outbox.append(RecordKind.GAP, reason="no time to record", detail={"records": "4"})

    source = OutboxSource(write_outbox(tmp_path / "outbox", act))
    topic = Topic()
    topic.publish(*payloads(tmp_path / "outbox"))
    outbox = asyncio.run(read_all([source]))
    assert faults(topic.verdict(*outbox, extents=tuple(source.extents))) == [Fault.LOST]


@pytest.mark.parametrize("detail", [{"firstSequence": "2"}, {"ranges": "boot-1:two-3"}, {"ranges": "boot-1"}])
def test_a_gap_record_that_does_not_say_what_is_gone_is_told(tmp_path: Path, detail: dict[str, str]) -> None:
    def act(outbox: Outbox) -> None:
        outbox.append(RecordKind.GAP, reason="size cap", detail={"records": "2"} | detail)

    verdict = verdict_of(write_outbox(tmp_path / "outbox", act))
    (finding,) = verdict.findings
    assert finding.fault is Fault.UNREADABLE
    assert "does not say what is gone" in finding.message


def test_after_the_size_cap_took_a_whole_boot_the_next_one_does_not_miss_its_last_record(tmp_path: Path) -> None:
    folder = tmp_path / "outbox"
    write_outbox(folder, three)

    def act(outbox: Outbox) -> None:
        outbox.append(RecordKind.GAP, reason="size cap", detail={"records": "3", "ranges": "boot-1:1-3"})

    write_outbox(folder, act, boot_id="boot-2")
    rewrite(folder, payloads(folder)[3:])
    verdict = verdict_of(folder)
    assert verdict.is_good, verdict.findings


def test_what_is_of_no_address_may_come_in_any_order() -> None:
    chain = Chain(Origin("n1", "b1"), "o1", clock=Clock(), context=lambda: (0, 0))
    made = [chain.next(RecordKind.AGENT_STARTED, {})[1] for _ in range(3)]
    topic = Topic()
    topic.publish(made[0], made[2], made[1])
    assert topic.verdict().is_good


def test_strangers_in_the_topic_are_told(records: list[bytes]) -> None:
    topic = Topic()
    topic.publish(*records)
    topic.entries.append(Unreadable("topic[0]", "topic[0]@99", "not an audit event"))
    assert faults(topic.verdict()) == [Fault.UNREADABLE]


def test_a_later_schema_version_is_noted_and_its_chain_checked(records: list[bytes]) -> None:
    topic = Topic()
    # Its sequence and chain can be read: it is known to be there. Changed afterwards, it is known to be changed.
    event = json.loads(records[-1]) | {"dataschema": "urn:egressgw:audit:record:v2"}
    event["data"]["kind"] = "levitated"
    topic.publish(*records[:-1], json.dumps(event).encode())
    verdict = topic.verdict()
    assert verdict.is_good, verdict.findings
    assert any("later schema version" in note for note in verdict.notes)


def test_hostile_sequences_take_no_time(records: list[bytes]) -> None:
    topic = Topic()
    forged = encode(replace(decode(records[-1]), sequence=10**15))
    topic.publish(*records, forged)
    assert Fault.MISSING in faults(topic.verdict())


def test_instants_are_named_as_the_recorder_writes_them() -> None:
    assert {HELD_AT, HELD_UNTIL} == {"heldAtBootTimeNs", "heldUntilBootTimeNs"}


def test_records_lost_before_they_had_a_sequence_are_lost_all_the_same(tmp_path: Path) -> None:
    def act(outbox: Outbox) -> None:
        outbox.append(RecordKind.GAP, reason="the lease keeper had no time to record", detail={"records": "4"})
        outbox.append(RecordKind.AGENT_STOPPED, subject="worker1")

    verdict = verdict_of(write_outbox(tmp_path / "outbox", act))
    (finding,) = verdict.findings
    assert (finding.fault, finding.message) == (Fault.LOST, "4 records: the lease keeper had no time to record")
