"""Asking before an address is used for the first time (RFC 5227)."""

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import IPv4Address

import pytest

from service.model.errors import TransientError
from service.network.conflict_watch import ASKED_AT_ONCE, ConflictWatch, ProbePoint
from tests.virtual_time import in_virtual_time, now_ns

ADDRESS = IPv4Address("192.168.1.100")
POINT, OTHER_POINT = ProbePoint("eth0", b"\2\0\0\0\0\1"), ProbePoint("eth1", b"\2\0\0\0\0\4")
MEMBER, STRANGER = b"\2\0\0\0\0\2", b"\2\0\0\0\0\3"
PROBE_S = 0.2


class Segment:
    """Answers probes from a script, the last answer for ever; a probe takes its time."""

    def __init__(self, *answers: bytes | Exception | None) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[float, str]] = []
        self.changes: list[float] = []

    async def probe(self, point: ProbePoint, address: IPv4Address) -> bytes | None:
        self.asked.append((now_ns() / 1e9, point.ifname))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await asyncio.sleep(PROBE_S)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[ConflictWatch]:
        watch = ConflictWatch(
            is_member=lambda mac: mac == MEMBER,
            changed=lambda: self.changes.append(now_ns() / 1e9),
            probe=self.probe,
        )
        task = asyncio.create_task(watch.run())
        yield watch
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    def times(self) -> list[float]:
        return [time_s for time_s, _ in self.asked]


@in_virtual_time
async def test_an_address_is_not_clear_before_nobody_has_answered() -> None:
    segment = Segment(None)
    async with segment.watched() as watch:
        watch.want({ADDRESS: POINT})
        await asyncio.sleep(PROBE_S / 2)
        assert segment.times() == [0]
        assert not watch.is_clear(ADDRESS)
        await asyncio.sleep(PROBE_S)
        assert watch.is_clear(ADDRESS)
        assert watch.conflicts() == {}
    assert segment.changes == [PROBE_S]


@in_virtual_time
async def test_what_is_clear_is_not_asked_about_again() -> None:
    segment = Segment(None)
    async with segment.watched() as watch:
        watch.want({ADDRESS: POINT})
        await asyncio.sleep(60)
    assert segment.times() == [0]


@in_virtual_time
async def test_a_stranger_who_answers_is_named() -> None:
    segment = Segment(STRANGER)
    async with segment.watched() as watch:
        watch.want({ADDRESS: POINT})
        await asyncio.sleep(1)
        assert not watch.is_clear(ADDRESS)
        assert watch.conflicts() == {ADDRESS: STRANGER}


@in_virtual_time
async def test_a_stranger_is_asked_again_every_ten_seconds_until_it_is_gone() -> None:
    segment = Segment(STRANGER, STRANGER, None)
    async with segment.watched() as watch:
        watch.want({ADDRESS: POINT})
        await asyncio.sleep(15)
        assert watch.conflicts() == {ADDRESS: STRANGER}
        await asyncio.sleep(10)
        assert watch.conflicts() == {}
        assert watch.is_clear(ADDRESS)
    assert segment.times() == pytest.approx([0, 10.2, 20.4])
    assert segment.changes == pytest.approx([0.2, 20.6]), "the same answer twice is no news"


@in_virtual_time
async def test_a_member_that_answers_is_only_the_present_holder() -> None:
    segment = Segment(MEMBER)
    async with segment.watched() as watch:
        watch.want({ADDRESS: POINT})
        await asyncio.sleep(1)
        assert watch.is_clear(ADDRESS)


@in_virtual_time
async def test_a_question_that_cannot_be_put_is_no_answer_and_is_put_again_after_a_second() -> None:
    segment = Segment(TransientError("down"), None)
    async with segment.watched() as watch:
        watch.want({ADDRESS: POINT})
        await asyncio.sleep(1)
        assert not watch.is_clear(ADDRESS)
        await asyncio.sleep(1)
        assert watch.is_clear(ADDRESS)
    assert segment.times() == pytest.approx([0, 1.2])


@in_virtual_time
async def test_an_address_that_is_no_longer_wanted_is_asked_about_anew_when_it_returns() -> None:
    segment = Segment(None)
    async with segment.watched() as watch:
        watch.want({ADDRESS: POINT})
        await asyncio.sleep(1)
        watch.want({})
        watch.want({ADDRESS: POINT})
        assert not watch.is_clear(ADDRESS)
        await asyncio.sleep(1)
        assert watch.is_clear(ADDRESS)
    assert segment.times() == [0, 1]


@in_virtual_time
async def test_an_answer_from_where_the_address_is_no_longer_wanted_counts_for_nothing() -> None:
    segment = Segment(STRANGER, None)
    async with segment.watched() as watch:
        watch.want({ADDRESS: POINT})
        await asyncio.sleep(PROBE_S / 2)
        watch.want({ADDRESS: OTHER_POINT})
        await asyncio.sleep(PROBE_S)
        assert watch.conflicts() == {}
        assert not watch.is_clear(ADDRESS)
        await asyncio.sleep(PROBE_S)
        assert watch.is_clear(ADDRESS)
    assert segment.asked == [(0, "eth0"), (PROBE_S, "eth1")]


class Scarce(Segment):
    """Nobody answers. Each question needs a file, as the real ones do, in a process that may have few."""

    def __init__(self) -> None:
        super().__init__(None)
        self.files: list[int] = []
        self.most = 0

    async def probe(self, point: ProbePoint, address: IPv4Address) -> bytes | None:
        try:
            opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        except OSError as error:
            raise TransientError(f"interface {point.ifname}: {error.strerror}") from error
        with opened:
            self.files.append(opened.fileno())
            self.most = max(self.most, len(self.files))
            await asyncio.sleep(PROBE_S)
            self.files.remove(opened.fileno())
        return None


@contextmanager
def files_at_most(limit: int) -> Iterator[None]:
    """Let this process open no file of a higher number."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def many(count: int) -> dict[IPv4Address, ProbePoint]:
    return {ADDRESS + index: POINT for index in range(count)}


@in_virtual_time
async def test_a_thousand_first_questions_need_a_few_files_and_seconds() -> None:
    scarce = Scarce()
    async with scarce.watched() as watch:
        watch.want(many(1_100))
        with files_at_most(max(map(int, os.listdir("/proc/self/fd"))) + ASKED_AT_ONCE + 20):
            await asyncio.sleep(3)
        assert all(watch.is_clear(address) for address in many(1_100))
        assert (scarce.most, watch.troubles()) == (ASKED_AT_ONCE, [])


@in_virtual_time
async def test_without_a_file_left_addresses_wait_it_is_told_and_they_are_asked_about_once_there_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Scarce().watched() as watch:
        watch.want(many(300))
        with files_at_most(0):
            await asyncio.sleep(30)
            assert not any(watch.is_clear(address) for address in many(300))
            assert "Too many open files" in watch.troubles()[0]
        await asyncio.sleep(5)
        assert all(watch.is_clear(address) for address in many(300))
        assert watch.troubles() == []
    assert len(caplog.messages) == 1
