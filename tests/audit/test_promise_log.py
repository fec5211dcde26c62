import asyncio
from pathlib import Path
from typing import Any

from service.audit.outbox import read_outbox
from service.audit.promise_log import KEEPER_OUTBOX, Ending, PromiseLog
from service.lease.elector_output import Promised
from service.model.audit_record import DEADLINE, HELD_UNTIL, AuditRecord, RecordKind
from service.model.lease import Token
from service.settings import Settings, load_settings


def settings_of(tmp_path: Path, node: str = "worker1") -> Settings:
    members = [{"name": f"worker{number}", "address": f"192.0.2.{number}"} for number in (1, 2, 3)]
    return load_settings(None, {"node": node, "state_dir": str(tmp_path), "electors": {"members": members}})


def recorded(tmp_path: Path) -> list[AuditRecord]:
    return [record for record in read_outbox(tmp_path / KEEPER_OUTBOX) if isinstance(record, AuditRecord)]


async def test_what_is_noted_is_recorded_with_holder_and_token(tmp_path: Path) -> None:
    async with PromiseLog(settings_of(tmp_path)) as log, asyncio.TaskGroup() as group:
        running = group.create_task(log.run())
        for number in range(100):
            log.note(Promised("192.0.2.100", "worker2", Token(3, 1, number)))
        while log.outbox.state.written < 100:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        running.cancel()
    records = recorded(tmp_path)
    assert [record.token for record in records] == [(3, 1, number) for number in range(100)]
    first = records[0]
    assert (first.kind, first.holder, first.node, first.actor) == (
        RecordKind.PROMISED,
        "worker2",
        "worker1",
        "keeper/worker1",
    )
    assert first.term == 3
    assert first.detail == {"electors": "3"}


async def test_what_was_noted_last_is_recorded_by_the_stop(tmp_path: Path) -> None:
    async with PromiseLog(settings_of(tmp_path)) as log:
        log.note(Promised("192.0.2.100", "worker2", Token(1, 1, 1)))
    assert len(recorded(tmp_path)) == 1


async def test_the_end_of_a_lease_is_recorded_with_until_when_it_was_held(tmp_path: Path) -> None:
    async with PromiseLog(settings_of(tmp_path)) as log:
        log.note_end(Ending("192.0.2.100", Token(3, 1, 1), "expired", held_until_ns=500, deadline_ns=500))
        log.note_end(Ending("192.0.2.100", Token(3, 1, 2), "released", held_until_ns=600, deadline_ns=900))
        log.note_end(Ending("192.0.2.100", Token(3, 1, 3), "refused", held_until_ns=700, deadline_ns=None))
    expired, released, refused = recorded(tmp_path)
    assert (expired.kind, expired.detail) == (RecordKind.EXPIRED, {HELD_UNTIL: "500", DEADLINE: "500"})
    assert (released.kind, released.detail) == (RecordKind.RELEASED, {HELD_UNTIL: "600"})
    assert (refused.kind, refused.reason) == (RecordKind.RELEASED, "displaced by a newer assignment")
    assert {(one.subject, one.holder, one.term) for one in (expired, released, refused)} == {
        ("192.0.2.100", "worker1", 3)
    }


async def written(log: PromiseLog, count: int) -> bool:
    running = asyncio.create_task(log.outbox.run())
    done = await log.outbox.flush(10)
    running.cancel()
    return done and log.outbox.state.written >= count


async def test_what_the_keeper_had_no_time_to_record_is_counted_in_a_gap(tmp_path: Path) -> None:
    async with PromiseLog(settings_of(tmp_path)) as log:
        for number in range(10_003):
            log.note(Promised("192.0.2.100", "worker2", Token(1, 1, number)))
        log.note_end(Ending("192.0.2.100", Token(1, 1, 1), "expired", 500, 500))
        log._record(100)
        assert await written(log, 101)
    records = recorded(tmp_path)
    assert (records[0].kind, records[0].detail) == (RecordKind.GAP, {"records": "4"})
    assert records[-1].kind is RecordKind.EXPIRED


async def test_two_electors_that_promised_one_token_to_two_claimants_do_not_hide_each_other(tmp_path: Path) -> None:
    ids = set()
    for node, holder in (("worker1", "worker2"), ("worker3", "worker1")):
        async with PromiseLog(settings_of(tmp_path / node, node)) as log:
            log.note(Promised("192.0.2.100", holder, Token(1, 1, 1)))
        ids |= {record.id for record in recorded(tmp_path / node)}
    assert len(ids) == 2


async def test_a_disk_that_cannot_be_used_costs_the_elector_nothing(tmp_path: Path) -> None:
    (tmp_path / KEEPER_OUTBOX).write_text("in the way")
    async with PromiseLog(settings_of(tmp_path)) as log, asyncio.TaskGroup() as group:
        running: asyncio.Task[Any] = group.create_task(log.run())
        for number in range(20_000):
            log.note(Promised("192.0.2.100", "worker2", Token(1, 1, number)))
        await asyncio.sleep(0.05)
        assert not log.outbox.state.healthy
        running.cancel()
