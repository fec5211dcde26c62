"""What a keeper tells of the ends of its leases, for the record."""

import asyncio
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from service.audit.outbox import read_outbox
from service.audit.promise_log import KEEPER_OUTBOX, Ending
from service.keeper.ending import Endings
from service.keeper.fence import FenceEntry
from service.lease.holder import CloseFence, OpenFence
from service.model.audit_record import AuditRecord, RecordKind
from service.model.lease import Token
from tests.keeper.node import SECOND, Node, heartbeat, until
from tests.keeper.virtual import three_nodes
from tests.virtual_time import in_virtual_time, now_ns

pytestmark = pytest.mark.usefixtures("parts_that_know_only_real_time")

IP, OTHER = "192.0.2.100", "192.0.2.101"
TOKEN = Token(1, 2, 3)


class Keeper:
    """The parts around it: a clock, what is executed, and what a former keeper left in the fence."""

    def __init__(self) -> None:
        self.now_ns = 50
        self.left: dict[IPv4Address, FenceEntry] = {}
        self.seen: list[object] = []
        self.deadlines: dict[str, int] = {}
        self.is_full = False
        self.endings = Endings(
            self, self.execute, deadline_of=self.deadlines.get, ended=self.seen.append, clock=lambda: self.now_ns
        )

    def execute(self, output: object) -> None:
        self.seen.append(type(output).__name__)
        self.now_ns += 1
        if isinstance(output, OpenFence) and not self.is_full:
            self.deadlines[output.key] = output.deadline_ns

    def refresh(self) -> bool:
        self.seen.append("refresh")
        return True

    def entries(self) -> dict[IPv4Address, FenceEntry]:
        return self.left

    def write(self, address: IPv4Address, token: Token, deadline_ns: int) -> None:
        raise AssertionError("it only reads")


@pytest.fixture
def keeper() -> Keeper:
    return Keeper()


def test_an_end_is_told_once_its_fence_is_closed_with_the_last_instant_before(keeper: Keeper) -> None:
    keeper.endings.handle(OpenFence(IP, TOKEN, 100, first=True))
    keeper.endings.handle(CloseFence(IP, TOKEN, "released"))
    assert keeper.seen == ["OpenFence", "CloseFence", Ending(IP, TOKEN, "released", 51, 100)]


def test_a_lease_that_ran_out_was_held_until_its_deadline_and_not_until_somebody_noticed(keeper: Keeper) -> None:
    keeper.endings.handle(OpenFence(IP, TOKEN, 100, first=True))
    keeper.endings.handle(OpenFence(IP, TOKEN, 120, first=False))
    keeper.now_ns = 500
    keeper.endings.handle(CloseFence(IP, TOKEN, "expired"))
    assert keeper.seen[-1] == Ending(IP, TOKEN, "expired", 120, 120)


def test_what_ended_while_no_keeper_ran_is_told_by_the_next_one(keeper: Keeper) -> None:
    keeper.left = {
        IPv4Address(IP): FenceEntry(TOKEN, 49),
        IPv4Address(OTHER): FenceEntry(TOKEN, 0),
    }
    keeper.endings.adopt()
    assert keeper.seen == ["refresh", Ending(IP, TOKEN, "expired", 49, 49)]


def test_what_goes_on_is_told_when_it_ends(keeper: Keeper) -> None:
    keeper.left = {IPv4Address(IP): FenceEntry(TOKEN, 90)}
    keeper.endings.adopt()
    assert keeper.seen == ["refresh"]
    keeper.now_ns = 500
    keeper.endings.handle(CloseFence(IP, TOKEN, "expired"))
    assert keeper.seen[-1] == Ending(IP, TOKEN, "expired", 90, 90)


def test_a_fence_that_cannot_be_closed_is_no_end(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(output: object) -> None:
        raise OSError("no")

    endings = Endings(keeper, fail, deadline_of=lambda _: None, ended=keeper.seen.append, clock=lambda: 1)
    with pytest.raises(OSError, match="no"):
        endings.handle(CloseFence(IP, TOKEN, "released"))
    assert keeper.seen == []


def test_what_the_kernel_did_not_take_was_never_held_and_has_no_end(keeper: Keeper) -> None:
    keeper.is_full = True
    keeper.endings.handle(OpenFence(IP, TOKEN, 100, first=True))
    keeper.endings.handle(CloseFence(IP, TOKEN, "released"))
    assert keeper.seen == ["OpenFence", "CloseFence"]


def test_what_was_not_made_longer_was_held_no_longer_than_it_was_open(keeper: Keeper) -> None:
    keeper.endings.handle(OpenFence(IP, TOKEN, 100, first=True))
    keeper.is_full = True
    keeper.endings.handle(OpenFence(IP, TOKEN, 200, first=False))
    keeper.now_ns = 150
    keeper.endings.handle(CloseFence(IP, TOKEN, "released"))
    assert keeper.seen[-1] == Ending(IP, TOKEN, "released", 100, 100)


# -- whole keepers --


def ends_on_record(node: Node) -> list[tuple[RecordKind | str, str, str]]:
    records = read_outbox(Path(node.settings.state_dir) / KEEPER_OUTBOX)
    return [
        (one.kind, one.subject, one.holder)
        for one in records
        if isinstance(one, AuditRecord) and one.kind in (RecordKind.RELEASED, RecordKind.EXPIRED)
    ]


@in_virtual_time
async def test_an_end_that_no_agent_hears_of_is_on_record(tmp_path: Path) -> None:
    async with three_nodes(tmp_path) as (nodes, _):
        async with nodes[0].running() as node:
            node.heartbeat = heartbeat()
            await until(node.holds)
            node.heartbeat = None
            await until(lambda: not node.holds(), timeout=60)
        assert ends_on_record(nodes[0]) == [(RecordKind.RELEASED, IP, "node0")]


@in_virtual_time
async def test_an_end_while_no_keeper_ran_is_put_on_record_by_the_next_one(tmp_path: Path) -> None:
    async with three_nodes(tmp_path) as (nodes, stack):
        nodes[0].fence.write(IPv4Address(IP), Token(1, 1, 7), now_ns() + SECOND)
        await asyncio.sleep(2)
        await stack.enter_async_context(nodes[0].running())
        await asyncio.sleep(1)
        assert ends_on_record(nodes[0]) == [(RecordKind.EXPIRED, IP, "node0")]
