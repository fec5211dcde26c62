import asyncio

from service.electorate.book import ElectorateBook
from service.keeper.transition import PREPARATION_S, Transition, may_follow, trouble
from service.lease.elector import ElectorMachine
from service.lease.promise import Instant
from service.model.lease import NO_ELECTORATE, Elector, Electorate
from tests.keeper.node import SECOND
from tests.virtual_time import in_virtual_time, now_ns

ALICE, BOB, CAROL = (
    Elector(name, f"192.0.2.{index}", index) for index, name in enumerate(("alice", "bob", "carol"), 1)
)
FIRST = Electorate(1, (ALICE, BOB))
SECOND_EPOCH = Electorate(2, (ALICE, BOB, CAROL), FIRST.members)
THIRD_EPOCH = Electorate(3, (ALICE, BOB), SECOND_EPOCH.members)
SOLE = Electorate(2, (ALICE,), FIRST.members)


class Follower:
    """A part that notes what it is told, and is its own pump."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self._name, self._seen = name, seen
        self.pump = self

    def enter_epoch(self, electorate: Electorate, *, now_ns: int) -> None:
        self._seen.append(f"{self._name} enters {electorate.epoch}")

    def wake(self) -> None:
        self._seen.append(f"{self._name} wakes")


class Node:
    """A transition of two followers; `adopted` is what the elector's hand would write."""

    def __init__(self, known: Electorate = FIRST) -> None:
        self.seen: list[str] = []
        self.entered_ns: list[int] = []
        self.book = ElectorateBook(known, adopted=lambda _: None)
        self.transition = Transition(
            self.book,
            followers=[Follower("elector", self.seen), Follower("holder", self.seen)],
            entered=lambda: self.entered_ns.append(now_ns()),
            clock=now_ns,
        )

    def store(self, electorate: Electorate) -> None:
        self.book.offer(electorate, origin="a test")
        self.transition.prepare()

    async def entered_after(self, electorate: Electorate) -> float:
        self.store(electorate)
        before_ns = now_ns()
        await asyncio.sleep(10)
        assert len(self.entered_ns) == 1
        return (self.entered_ns[0] - before_ns) / SECOND


@in_virtual_time
async def test_the_others_have_time_to_write_a_newer_electorate() -> None:
    assert abs(await Node().entered_after(SECOND_EPOCH) - PREPARATION_S) < 0.001


@in_virtual_time
async def test_the_first_electorate_is_entered_at_once() -> None:
    assert await Node(NO_ELECTORATE).entered_after(FIRST) < 0.001


@in_virtual_time
async def test_nobody_is_waited_for_where_one_elector_decides_alone() -> None:
    assert await Node().entered_after(SOLE) < 0.001


@in_virtual_time
async def test_the_first_that_has_gone_over_takes_the_others_with_it() -> None:
    node = Node()
    node.store(SECOND_EPOCH)
    await asyncio.sleep(0.3)
    node.transition.hear_epoch(2)
    assert node.entered_ns == [now_ns()]
    node.transition.hear_epoch(2)
    assert len(node.entered_ns) == 1


@in_virtual_time
async def test_only_the_epoch_that_is_known_here_can_be_gone_over_to() -> None:
    node = Node()
    node.store(SECOND_EPOCH)
    for epoch in (0, 1, 3):
        node.transition.hear_epoch(epoch)
    assert node.entered_ns == []


@in_virtual_time
async def test_who_was_taken_over_before_its_disk_was_ready_asks_the_elector_again_afterwards() -> None:
    """M1: the holder goes over when it is heard of, the elector only when it is on disk."""
    node = Node()
    node.book.offer(SECOND_EPOCH, origin="a test")
    node.transition.hear_epoch(2)
    await asyncio.sleep(0.5)
    assert node.seen.count("elector enters 2") == 1
    # Its disk is ready. The others are there already: to wait for them once more would be a vote less for a second.
    node.transition.prepare()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert node.seen.count("elector enters 2") == 2


@in_virtual_time
async def test_a_still_newer_one_begins_the_wait_anew() -> None:
    node = Node()
    node.store(SECOND_EPOCH)
    await asyncio.sleep(0.6)
    node.store(THIRD_EPOCH)
    await asyncio.sleep(0.6)
    assert node.entered_ns == []
    await asyncio.sleep(0.5)
    assert node.seen[:2] == ["elector enters 3", "holder enters 3"]


@in_virtual_time
async def test_all_have_gone_over_before_the_first_one_speaks() -> None:
    node = Node()
    node.store(SECOND_EPOCH)
    node.transition.enter()
    assert node.seen == ["elector enters 2", "holder enters 2", "elector wakes", "holder wakes"]
    assert node.entered_ns


# -- what the object says --


def test_m2_an_electorate_is_followed_once_it_was_seen_in_force() -> None:
    elector = elector_of(FIRST, memory=ALICE.memory)
    assert may_follow(SECOND_EPOCH, FIRST, elector, epoch_in_force=1)
    assert not may_follow(SECOND_EPOCH, FIRST, elector, epoch_in_force=0)
    assert not may_follow(THIRD_EPOCH, SECOND_EPOCH, elector, epoch_in_force=1), "that of before says nothing of it"


def test_m2_who_decides_alone_from_now_on_need_not_have_seen_it_if_it_knows_everything_itself() -> None:
    """Two nodes: the other, whom it would have seen, is gone."""
    alice = elector_of(FIRST, memory=ALICE.memory)
    assert may_follow(SOLE, FIRST, alice, epoch_in_force=0)
    assert not may_follow(Electorate(2, (BOB,), FIRST.members), FIRST, alice, epoch_in_force=0)
    assert not may_follow(SOLE, FIRST, elector_of(FIRST, memory=99), epoch_in_force=0), "it lost its disk"
    unsettled = elector_of(FIRST, memory=ALICE.memory, settled=False)
    assert not may_follow(SOLE, FIRST, unsettled, epoch_in_force=0)


# -- trouble --


def elector_of(electorate: Electorate, *, memory: int, settled: bool = True) -> ElectorMachine:
    return ElectorMachine(
        node="alice",
        boot_id=bytes(16),
        electorate=electorate,
        memory=memory,
        settled=settled,
        lease_ns_max=SECOND,
        promises=None,
        tokens=None,
        now=Instant(0, 0),
    )


def trouble_of(known: Electorate, elector: ElectorMachine, *, refused: str = "") -> str:
    book = ElectorateBook(known, adopted=lambda _: None)
    book.refuse(refused)
    return trouble("alice", book, elector)


def test_a_named_node_with_another_disk_says_that_it_is_a_newcomer() -> None:
    assert "newcomer" in trouble_of(FIRST, elector_of(FIRST, memory=99), refused="older")


def test_an_elector_with_its_own_disk_has_no_trouble_but_that_of_the_book() -> None:
    assert trouble_of(FIRST, elector_of(FIRST, memory=ALICE.memory)) == ""
    assert trouble_of(FIRST, elector_of(FIRST, memory=ALICE.memory), refused="older") == "older"


def test_who_is_not_named_is_no_elector_without_trouble() -> None:
    others = Electorate(1, (BOB,))
    assert trouble_of(others, elector_of(others, memory=99)) == ""


def test_while_it_is_still_going_over_a_node_is_no_newcomer() -> None:
    before = Electorate(1, (BOB,))
    assert trouble_of(SECOND_EPOCH, elector_of(before, memory=99)) == ""
