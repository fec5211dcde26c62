"""Asking before an address is used for the first time (RFC 5227)."""

import asyncio
from ipaddress import IPv4Address

from service.model.errors import TransientError
from service.network.conflict_watch import ConflictWatch, ProbePoint

ADDRESS = IPv4Address("192.168.1.100")
POINT = ProbePoint("eth0", b"\2\0\0\0\0\1")
MEMBER, STRANGER = b"\2\0\0\0\0\2", b"\2\0\0\0\0\3"


class Segment:
    """Answers probes from a script."""

    def __init__(self, *answers: bytes | Exception | None) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.changed = asyncio.Event()

    async def probe(self, point: ProbePoint, address: IPv4Address) -> bytes | None:
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def watch(self) -> ConflictWatch:
        return ConflictWatch(is_member=lambda mac: mac == MEMBER, changed=self.changed.set, probe=self.probe)


async def until_changed(segment: Segment, watch: ConflictWatch) -> None:
    task = asyncio.create_task(watch.run())
    try:
        await asyncio.wait_for(segment.changed.wait(), 5)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_address_is_not_clear_before_it_was_asked_about() -> None:
    watch = Segment().watch()
    watch.want({ADDRESS: POINT})
    assert not watch.is_clear(ADDRESS)
    assert watch.conflicts() == {}


async def test_silence_makes_it_clear() -> None:
    segment = Segment(None)
    watch = segment.watch()
    watch.want({ADDRESS: POINT})
    await until_changed(segment, watch)
    assert watch.is_clear(ADDRESS)


async def test_a_stranger_who_answers_is_named() -> None:
    segment = Segment(STRANGER)
    watch = segment.watch()
    watch.want({ADDRESS: POINT})
    await until_changed(segment, watch)
    assert not watch.is_clear(ADDRESS)
    assert watch.conflicts() == {ADDRESS: STRANGER}


async def test_a_member_that_answers_is_only_the_present_holder() -> None:
    segment = Segment(MEMBER)
    watch = segment.watch()
    watch.want({ADDRESS: POINT})
    await until_changed(segment, watch)
    assert watch.is_clear(ADDRESS)


async def test_a_question_that_cannot_be_put_is_no_answer_and_is_put_again() -> None:
    segment = Segment(TransientError("down"), None)
    watch = segment.watch()
    watch.want({ADDRESS: POINT})
    await until_changed(segment, watch)
    assert segment.asked == 2
    assert watch.is_clear(ADDRESS)


async def test_an_address_that_is_no_longer_wanted_is_asked_about_anew_when_it_returns() -> None:
    segment = Segment(None)
    watch = segment.watch()
    watch.want({ADDRESS: POINT})
    await until_changed(segment, watch)
    watch.want({})
    watch.want({ADDRESS: POINT})
    assert not watch.is_clear(ADDRESS)
