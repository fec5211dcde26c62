"""The pool that drives maps: what callers wish for is what the kernel gets, newest wish first, whatever happens."""

import asyncio
import contextlib
import errno
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from service.datapath import worker_pool
from service.datapath.bpf_map import BpfMap, MapInfo, create_map
from service.datapath.worker_pool import FULL, WorkerPool
from service.model.errors import InvariantError

A, B, C = b"aaaa", b"bbbb", b"cccc"
ONE, TWO, THREE = b"1", b"2", b"3"

Write = tuple[str, Mapping[bytes, bytes] | Sequence[bytes]]


@dataclass(slots=True)
class FakeMap:
    """A map that remembers its calls, and fails or waits when told to."""

    content: dict[bytes, bytes] = field(default_factory=dict)
    room: int = 1000
    calls: list[Write] = field(default_factory=list)
    failures: list[OSError] = field(default_factory=list)
    """Raised by the next writes, one each."""
    broken: set[bytes] = field(default_factory=set)
    """Keys that cannot be written."""
    gate: threading.Event = field(default_factory=threading.Event)
    """A write waits until it is set."""
    entered: threading.Event = field(default_factory=threading.Event)
    """A write has begun."""

    @property
    def info(self) -> MapInfo:
        return MapInfo(type=1, key_size=0, value_size=0, max_entries=self.room, flags=0, name="fake")

    def __post_init__(self) -> None:
        self.gate.set()

    def update_many(self, items: Sequence[tuple[bytes, bytes]]) -> int:
        self.entered.set()
        assert self.gate.wait(timeout=10)
        if self.failures:
            raise self.failures.pop(0)
        if any(key in self.broken for key, _ in items):
            raise OSError(errno.EIO, "broken")
        done = 0
        for key, value in items:
            if key not in self.content and len(self.content) >= self.room:
                break
            self.content[key] = value
            done += 1
        self.calls.append(("update", dict(items[:done])))
        return done

    def update(self, key: bytes, value: bytes) -> None:
        if self.failures:
            raise self.failures.pop(0)
        if key in self.broken:
            raise OSError(errno.EIO, "broken")
        if key not in self.content and len(self.content) >= self.room:
            raise OSError(errno.E2BIG, "full")
        self.content[key] = value
        self.calls.append(("update", {key: value}))

    def delete(self, key: bytes) -> bool:
        self.entered.set()
        assert self.gate.wait(timeout=10)
        self.calls.append(("delete", [key]))
        return self.content.pop(key, None) is not None

    def lookup(self, key: bytes) -> bytes | None:
        return self.content.get(key)

    def keys(self, *, after: bytes | None = None, count: int | None = None) -> list[bytes]:
        known = list(self.content)
        start = known.index(after) + 1 if after in known else 0
        return known[start:][:count]

    def items(self) -> dict[bytes, bytes]:
        return dict(self.content)


@pytest.fixture(autouse=True)
def no_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "_RETRY_FIRST_S", 0.0)
    monkeypatch.setattr(worker_pool, "_RETRY_LAST_S", 0.0)


@pytest.fixture
def target() -> FakeMap:
    return FakeMap()


@pytest.fixture
def pool(target: FakeMap) -> WorkerPool:
    return WorkerPool({"map": target, "other": FakeMap()})  # type: ignore[dict-item]


@contextlib.asynccontextmanager
async def serving(pool: WorkerPool) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(pool.run())
        try:
            yield
        finally:
            task.cancel()


async def settle(pool: WorkerPool) -> None:
    """Until all that is wished for is in the maps."""
    async with asyncio.timeout(10):
        await until(lambda: pool.pending() == 0 and all(map(pool.is_settled, pool._lanes)))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is counted has no event
        await asyncio.sleep(0)


async def until_writing(target: FakeMap) -> None:
    """Wait until a worker thread is inside the map."""
    await asyncio.to_thread(target.entered.wait, 10)
    target.entered.clear()


async def test_a_wish_reaches_the_map(pool: WorkerPool, target: FakeMap) -> None:
    async with serving(pool):
        pool.upsert("map", A, ONE)
        await settle(pool)
    assert target.content == {A: ONE}


async def test_callers_never_wait_for_the_kernel(pool: WorkerPool, target: FakeMap) -> None:
    pool.upsert("map", A, ONE)
    assert pool.pending() == 1
    assert target.calls == []


async def test_wishes_for_one_key_coalesce_to_the_newest(pool: WorkerPool, target: FakeMap) -> None:
    for value in (ONE, TWO, THREE):
        pool.upsert("map", A, value)
    async with serving(pool):
        await settle(pool)
    assert target.calls == [("update", {A: THREE})]
    assert pool.counters.coalesced == 2


async def test_wishes_for_many_keys_are_one_batch(pool: WorkerPool, target: FakeMap) -> None:
    wishes = {bytes((index, 0, 0, 0)): ONE for index in range(100)}
    for key, value in wishes.items():
        pool.upsert("map", key, value)
    async with serving(pool):
        await settle(pool)
    assert target.calls == [("update", wishes)]
    assert pool.counters.written == 100


async def test_a_change_of_some_keys_leaves_all_others_as_they_are(pool: WorkerPool, target: FakeMap) -> None:
    async with serving(pool):
        pool.replace("map", {A: ONE, B: ONE})
        await settle(pool)
        pool.change("map", {A: None, C: TWO})
        await settle(pool)
    assert target.content == {B: ONE, C: TWO} == pool.wanted("map")


async def test_of_what_a_former_process_left_all_goes_that_nobody_wishes_for(pool: WorkerPool, target: FakeMap) -> None:
    target.content = {A: ONE, B: ONE}
    pool.adopt("map")
    async with serving(pool):
        pool.change("map", {A: ONE, C: ONE})
        pool.drop_others("map")
        await settle(pool)
    assert target.content == {A: ONE, C: ONE}
    assert [kind for kind, _ in target.calls] == ["update", "delete"]


async def test_the_same_table_is_not_looked_through_again_unless_single_keys_were_wished_for_since(
    pool: WorkerPool, target: FakeMap
) -> None:
    table = {A: ONE, B: ONE}
    async with serving(pool):
        pool.replace("map", table)
        pool.replace("map", table)
        await settle(pool)
        pool.change("map", {A: None})
        await settle(pool)
        pool.replace("map", table)
        await settle(pool)
    assert target.content == table


async def test_it_is_told_which_keys_have_come_into_the_kernel_left_it_or_were_refused(
    pool: WorkerPool, target: FakeMap
) -> None:
    assert pool.take_news("map") is None, "anything may have changed"
    target.broken = {C}
    async with serving(pool):
        pool.change("map", {A: ONE, B: ONE, C: ONE})
        await until(lambda: bool(pool.waiting()) and pool.is_settled("map"))
        assert set(pool.take_news("map") or ()) == {A, B, C}
        pool.change("map", {A: None, C: None})
        await settle(pool)
        assert A in (pool.take_news("map") or ())
        assert set(pool.take_news("map") or ()) == set()


async def test_i2_what_others_changed_is_told_too(
    pool: WorkerPool, target: FakeMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule set that counts as whole in the kernel is looked at again."""
    monkeypatch.setattr(worker_pool, "_COMPARE_S", 0.001)
    pool.take_news("map")
    async with serving(pool):
        pool.change("map", {A: ONE})
        await settle(pool)
        pool.take_news("map")
        target.content[A] = TWO
        await until(lambda: pool.counters.repaired == 1)
        assert A in (pool.take_news("map") or ())


async def test_a_long_list_is_cut_into_batches(
    pool: WorkerPool, target: FakeMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "_BATCH", 4)
    for index in range(10):
        pool.upsert("map", bytes((index, 0, 0, 0)), ONE)
    async with serving(pool):
        await settle(pool)
    assert [len(written) for _, written in target.calls] == [4, 4, 2]


async def test_upserts_go_before_deletes_so_that_an_update_has_no_gap(pool: WorkerPool, target: FakeMap) -> None:
    async with serving(pool):
        pool.upsert("map", A, ONE)
        await settle(pool)
        pool.delete("map", A)
        pool.upsert("map", B, ONE)
        await settle(pool)
    assert target.calls[1:] == [("update", {B: ONE}), ("delete", [A])]


async def test_wishes_are_written_in_the_order_they_were_made(pool: WorkerPool, target: FakeMap) -> None:
    for key in (C, A, B):
        pool.upsert("map", key, ONE)
    async with serving(pool):
        await settle(pool)
    assert list(target.content) == [C, A, B]


async def test_what_is_already_there_is_not_written_again(pool: WorkerPool, target: FakeMap) -> None:
    async with serving(pool):
        pool.upsert("map", A, ONE)
        await settle(pool)
        pool.upsert("map", A, ONE)
        pool.delete("map", B)
        assert pool.pending() == 0
    assert len(target.calls) == 1


async def test_an_old_value_wished_for_while_a_new_one_is_written_wins(pool: WorkerPool, target: FakeMap) -> None:
    async with serving(pool):
        pool.upsert("map", A, ONE)
        await settle(pool)
        target.gate.clear()
        target.entered.clear()
        pool.upsert("map", A, TWO)
        await until_writing(target)
        pool.upsert("map", A, ONE)
        target.gate.set()
        await settle(pool)
    assert target.content == {A: ONE}


async def test_a_delete_wished_for_while_the_key_is_written_wins(pool: WorkerPool, target: FakeMap) -> None:
    target.gate.clear()
    async with serving(pool):
        pool.upsert("map", A, ONE)
        await until_writing(target)
        pool.delete("map", A)
        target.gate.set()
        await settle(pool)
    assert target.content == {}


async def test_replacing_while_a_key_is_written_removes_it_too(pool: WorkerPool, target: FakeMap) -> None:
    target.gate.clear()
    async with serving(pool):
        pool.upsert("map", A, ONE)
        await until_writing(target)
        pool.replace("map", {B: TWO})
        target.gate.set()
        await settle(pool)
    assert target.content == {B: TWO}


async def test_replace_writes_the_difference_only(pool: WorkerPool, target: FakeMap) -> None:
    async with serving(pool):
        pool.replace("map", {A: ONE, B: ONE})
        await settle(pool)
        pool.replace("map", {B: ONE, C: TWO})
        await settle(pool)
    assert target.calls[1:] == [("update", {C: TWO}), ("delete", [A])]
    assert target.content == {B: ONE, C: TWO}


async def test_what_a_former_agent_left_is_the_base_of_the_difference(pool: WorkerPool, target: FakeMap) -> None:
    target.content = {A: ONE, B: ONE}
    pool.adopt("map")
    async with serving(pool):
        pool.replace("map", {B: ONE, C: ONE})
        await settle(pool)
    assert target.calls == [("update", {C: ONE}), ("delete", [A])]


async def test_a_failed_write_is_tried_again(pool: WorkerPool, target: FakeMap) -> None:
    # Together, alone, and so once more.
    target.failures = [OSError(errno.EBUSY, "busy") for _ in range(4)]
    pool.upsert("map", A, ONE)
    async with serving(pool):
        await settle(pool)
    assert target.content == {A: ONE}
    assert pool.counters.retries == 2


async def test_a_newer_wish_is_not_undone_by_a_retry_of_an_older_one(pool: WorkerPool, target: FakeMap) -> None:
    target.failures = [OSError(errno.EBUSY, "busy")]
    target.gate.clear()
    async with serving(pool):
        pool.upsert("map", A, ONE)
        pool.upsert("map", B, ONE)
        await until_writing(target)
        pool.upsert("map", A, TWO)
        target.gate.set()
        await settle(pool)
    assert target.content == {A: TWO, B: ONE}


async def test_a_full_map_takes_what_fits_and_the_rest_as_soon_as_there_is_room(
    pool: WorkerPool, target: FakeMap
) -> None:
    target.room = 2
    for key in (A, B, C):
        pool.upsert("map", key, ONE)
    async with serving(pool):
        await until(lambda: pool.counters.full > 0)
        assert target.content == {A: ONE, B: ONE}
        pool.delete("map", A)
        await settle(pool)
    assert target.content == {B: ONE, C: ONE}
    assert pool.counters.deleted == 1


async def test_i1_in_a_full_map_present_keys_go_on_being_changed(pool: WorkerPool, target: FakeMap) -> None:
    target.room = 2
    async with serving(pool):
        pool.replace("map", {A: ONE, B: ONE})
        await settle(pool)
        pool.replace("map", {C: ONE, A: TWO, B: THREE})
        await until(lambda: bool(pool.waiting()))
        assert target.content == {A: TWO, B: THREE}
        assert pool.waiting() == {"map": {C: FULL}}
        assert pool.contains("map", {A: TWO, B: THREE})
        assert not pool.contains("map", {A: TWO, C: ONE})
        assert (pool.has("map", A), pool.has("map", C)) == (True, False)
        assert pool.is_settled("map"), "what waits for room is not under way"


async def test_i1_a_key_that_cannot_be_written_holds_up_no_other(pool: WorkerPool, target: FakeMap) -> None:
    target.broken = {B}
    async with serving(pool):
        pool.replace("map", {A: ONE, B: ONE, C: ONE})
        await until(lambda: bool(pool.waiting()))
        assert target.content == {A: ONE, C: ONE}
        (reason,) = pool.waiting()["map"].values()
        assert "broken" in reason
        pool.upsert("map", C, TWO)
        await until(lambda: target.content[C] == TWO)
        target.broken = set()
        await settle(pool)
    assert target.content == {A: ONE, B: ONE, C: TWO}


async def test_i1_a_wish_that_waits_for_room_can_be_taken_back(pool: WorkerPool, target: FakeMap) -> None:
    target.room = 1
    async with serving(pool):
        pool.replace("map", {A: ONE, B: ONE})
        await until(lambda: bool(pool.waiting()))
        pool.replace("map", {A: ONE})
        assert pool.waiting() == {}
        pool.delete("map", A)
        await settle(pool)
    assert target.content == {}


async def test_i1_room_that_others_made_is_found(pool: WorkerPool, target: FakeMap) -> None:
    target.room = 1
    async with serving(pool):
        pool.replace("map", {A: ONE, B: ONE})
        await until(lambda: bool(pool.waiting()))
        target.room = 2
        await settle(pool)
    assert target.content == {A: ONE, B: ONE}


async def test_how_full_a_map_is_is_told_by_what_the_kernel_has(pool: WorkerPool, target: FakeMap) -> None:
    target.room = 2
    pool.replace("map", {A: ONE, B: ONE, C: ONE})
    assert pool.fill() == {"map": (0, 2), "other": (0, 1000)}
    async with serving(pool):
        await until(lambda: bool(pool.waiting()))
        assert pool.fill()["map"] == (2, 2)


async def test_a_full_map_is_told_once_and_again_when_it_is_over(
    pool: WorkerPool, target: FakeMap, caplog: pytest.LogCaptureFixture
) -> None:
    target.room = 1
    with caplog.at_level(logging.INFO):
        async with serving(pool):
            pool.replace("map", {A: ONE, B: ONE})
            await until(lambda: pool.counters.retries > 3)
            target.room = 2
            await settle(pool)
    assert [record.getMessage() for record in caplog.records] == [
        "map map: 1 entries wait: no room",
        "map map: nothing waits any more",
    ]


async def test_whoever_waits_for_rows_learns_that_some_were_written_and_of_no_others(target: FakeMap) -> None:
    pool = WorkerPool({"map": target, "other": FakeMap()}, awaited=["map"])  # type: ignore[dict-item]
    async with serving(pool):
        pool.upsert("other", A, ONE)
        await settle(pool)
        assert not pool.written.is_set()
        pool.upsert("map", A, ONE)
        assert not pool.contains("map", {A: ONE})
        async with asyncio.timeout(5):
            await pool.written.wait()
        assert pool.contains("map", {A: ONE})


@pytest.mark.parametrize("damage", [{}, {A: TWO}, {A: ONE, B: ONE}], ids=["deleted", "changed", "added"])
async def test_i2_what_others_did_to_a_map_is_put_right(
    pool: WorkerPool, target: FakeMap, damage: dict[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "_COMPARE_S", 0.0)
    async with serving(pool):
        pool.replace("map", {A: ONE})
        await settle(pool)
        target.content = dict(damage)
        async with asyncio.timeout(5):
            await until(lambda: target.content == {A: ONE})
    assert pool.counters.repaired == 1


class LateMap(FakeMap):
    """What a worker thread reads was there before the last write."""

    looks = 0

    def lookup(self, key: bytes) -> bytes | None:
        if threading.current_thread() is threading.main_thread():
            return super().lookup(key)
        self.looks += 1
        return None


async def test_i2_what_is_written_while_the_kernel_is_looked_at_is_not_wrong(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_pool, "_COMPARE_S", 0.0)
    target = LateMap()
    pool = WorkerPool({"map": target})  # type: ignore[dict-item]
    async with serving(pool):
        pool.replace("map", {A: ONE})
        await settle(pool)
        await until(lambda: target.looks > 4)
        assert pool.contains("map", {A: ONE})
    assert pool.counters.repaired == 0
    assert caplog.records == []


async def test_i2_a_large_map_is_compared_in_pieces(
    pool: WorkerPool, target: FakeMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "_COMPARE_S", 0.0)
    monkeypatch.setattr(worker_pool, "_COMPARED_KEYS", 2)
    rows = {bytes((index, 0, 0, 0)): ONE for index in range(9)}
    async with serving(pool):
        pool.replace("map", rows)
        await settle(pool)
        target.content = dict.fromkeys(rows, TWO)
        async with asyncio.timeout(5):
            await until(lambda: target.content == rows)


async def test_what_fitted_into_a_full_map_is_remembered(pool: WorkerPool, target: FakeMap) -> None:
    """Else its delete would be taken for a wish that is met already."""
    target.room = 2
    for key in (A, B, C):
        pool.upsert("map", key, ONE)
    async with serving(pool):
        await until(lambda: pool.counters.full > 0)
        pool.replace("map", {})
        await settle(pool)
    assert target.content == {}


async def test_deletes_make_room_for_the_upserts_of_the_same_batch(pool: WorkerPool, target: FakeMap) -> None:
    target.room = 1
    async with serving(pool):
        pool.upsert("map", A, ONE)
        await settle(pool)
        pool.replace("map", {B: ONE})
        await settle(pool)
    assert target.content == {B: ONE}


async def test_a_stuck_map_does_not_hold_up_another(target: FakeMap) -> None:
    free = FakeMap()
    pool = WorkerPool({"map": target, "other": free}, workers=2)  # type: ignore[dict-item]
    target.gate.clear()
    async with serving(pool):
        pool.upsert("map", A, ONE)
        await until_writing(target)
        pool.upsert("other", B, ONE)
        await until(lambda: pool.is_settled("other"))
        assert (free.content, target.content) == ({B: ONE}, {})
        target.gate.set()


async def test_cancelling_leaves_a_write_in_progress_whole(pool: WorkerPool, target: FakeMap) -> None:
    target.gate.clear()
    async with serving(pool):
        pool.upsert("map", A, ONE)
        pool.upsert("map", B, ONE)
        await until_writing(target)
        release = threading.Timer(0.01, target.gate.set)
        release.start()
    await asyncio.to_thread(release.join)
    await until(lambda: len(target.content) == 2)
    assert target.calls == [("update", {A: ONE, B: ONE})]


@pytest.fixture
def real() -> Iterator[BpfMap]:
    """A hash of 4 entries, 4 to 1 bytes."""
    opened = BpfMap(create_map(1, 4, 1, 4))
    yield opened
    opened.close()


@pytest.mark.bpf
async def test_a_real_map_follows_its_wishes(real: BpfMap) -> None:
    pool = WorkerPool({"real": real})
    async with serving(pool):
        pool.replace("real", {A: ONE, B: TWO})
        await settle(pool)
        assert real.items() == {A: ONE, B: TWO}
        pool.replace("real", {B: THREE, C: ONE})
        await settle(pool)
    assert real.items() == {B: THREE, C: ONE}


@pytest.mark.bpf
async def test_a_real_full_map_takes_the_rest_as_soon_as_there_is_room(real: BpfMap) -> None:
    pool = WorkerPool({"real": real})
    keys = [bytes((index, 0, 0, 0)) for index in range(6)]
    async with serving(pool):
        for key in keys:
            pool.upsert("real", key, ONE)
        await until(lambda: pool.counters.full > 0)
        assert len(real.items()) == 4
        pool.delete("real", keys[0])
        pool.delete("real", keys[1])
        await settle(pool)
    assert real.items() == dict.fromkeys(keys[2:], ONE)


@pytest.mark.bpf
async def test_a_key_of_the_wrong_size_ends_the_pool(real: BpfMap) -> None:
    """Our own bug: going on would leave the kernel in a state nobody wished for."""
    pool = WorkerPool({"real": real})
    pool.upsert("real", b"long key", ONE)
    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.timeout(5):
            await pool.run()
    assert raised.group_contains(InvariantError)


async def test_what_was_being_written_when_an_unexpected_error_came_is_written_when_run_again(target: FakeMap) -> None:
    pool = WorkerPool({"map": target, "other": FakeMap()}, workers=1)  # type: ignore[dict-item]
    pool.upsert("map", A, ONE)
    target.failures = [ValueError("nobody has thought of this")]  # type: ignore[list-item]
    with pytest.raises(ExceptionGroup):
        await pool.run()
    async with serving(pool):
        await settle(pool)
    assert target.content == {A: ONE}
