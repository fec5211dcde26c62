"""A controller's part in who the electors are: what it writes to the object, and when it leaves it alone."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from service.electorate.office import ElectorateOffice, ObjectWrite, WriteKind, candidates, next_write
from service.electorate.store import ElectorateObject, ElectorateStore, encode
from service.lease.electorate import Candidate
from service.lease.electorate_message import Standing, decode_electorate_message, encode_electorate_message
from service.model.gateway_node import GatewayNode, NodeRole, NodeState
from service.model.lease import NO_ELECTORATE, Elector, Electorate
from service.model.machine import Address, Send, Source
from service.settings import Settings
from service.sources.kubernetes.api_server import ApiError
from service.wire.cluster_view import ClusterView
from service.wire.sealed_socket import SealedSocket
from tests.electorate.object_server import UID, ObjectServer
from tests.electorate.test_store import following
from tests.sources.kubernetes.fake_api_server import until

A, B, C = (Elector(name, f"10.0.0.{index}", index) for index, name in enumerate("abc", start=1))
OLD, KNOWN, NEXT = Electorate(3, (A, B)), Electorate(4, (A, B, C), (A, B)), Electorate(5, (A, B), (A, B, C))
SOLE = Electorate(4, (A,))
SETTLE_S = 1


def read(electorate: Electorate, *, in_force: bool = False) -> ElectorateObject:
    return ElectorateObject(electorate, in_force, "7")


def write(
    current: ElectorateObject | None,
    known: Electorate = KNOWN,
    proposal: Electorate | None = None,
    *,
    is_in_force: bool = True,
    is_leading: bool = True,
    is_present: bool = False,
) -> ObjectWrite | None:
    return next_write(current, known, proposal, is_in_force=is_in_force, is_leading=is_leading, is_present=is_present)


@pytest.mark.parametrize("is_leading", [True, False])
def test_any_controller_begins_the_object_and_none_before_there_is_something_to_propose(is_leading: bool) -> None:
    assert write(None, NO_ELECTORATE, None, is_leading=is_leading) is None
    assert write(None, NO_ELECTORATE, NEXT, is_leading=is_leading) == ObjectWrite(WriteKind.BEGIN, NEXT)


WRONG = {
    "deleted": None,
    "set back": read(OLD, in_force=True),
    "contradicts": read(Electorate(4, (A, C))),
    "other members altogether": read(Electorate(5, (Elector("d", "10.0.0.4", 4),), KNOWN.members)),
    "an epoch that nobody was in": read(Electorate(9, (A, B), (A, B, C))),
    "begun anew, it seems": read(Electorate(5, (A,))),
}


@pytest.mark.parametrize("is_leading", [True, False])
@pytest.mark.parametrize("current", WRONG.values(), ids=WRONG)
def test_m8_an_object_that_is_gone_or_wrong_is_written_anew_by_whoever_hears_a_majority(
    current: ElectorateObject | None, is_leading: bool
) -> None:
    """In an epoch that nobody can have written in the meantime."""
    anew = Electorate(1004, KNOWN.members, KNOWN.members)
    assert write(current, KNOWN, NEXT, is_leading=is_leading) is None
    assert write(current, KNOWN, NEXT, is_leading=is_leading, is_present=True) == ObjectWrite(WriteKind.REWRITE, anew)


def test_an_operators_new_beginning_is_left_alone_until_it_is_taken() -> None:
    assert write(ElectorateObject(Electorate(5, (A,)), False, "7", begun_anew=True), is_present=True) is None


def test_who_heard_the_members_before_in_another_order_goes_on() -> None:
    """Seen: a leader that had heard of the epoch from a keeper never changed the object again."""
    heard = Electorate(4, (A, B, C), (B, A))
    assert write(read(KNOWN, in_force=True), heard, NEXT) == ObjectWrite(WriteKind.CHANGE, NEXT)


def test_m2_only_the_leader_changes_the_electorate() -> None:
    assert write(read(KNOWN, in_force=True), KNOWN, NEXT, is_leading=False) is None
    assert write(read(KNOWN, in_force=True), KNOWN, NEXT) == ObjectWrite(WriteKind.CHANGE, NEXT)


def test_m2_a_newer_object_is_first_learnt() -> None:
    assert write(read(NEXT), KNOWN, NEXT, is_present=True) is None


def test_that_an_epoch_is_in_force_is_written_once_and_by_the_leader() -> None:
    confirmed = ObjectWrite(WriteKind.CONFIRM, KNOWN, in_force=True)
    assert write(read(KNOWN)) == confirmed
    assert write(read(KNOWN), is_leading=False) is None
    assert write(read(KNOWN), is_in_force=False) is None
    assert write(read(KNOWN, in_force=True)) is None


def node(name: str, state: NodeState = NodeState.UP, role: NodeRole = NodeRole.WORKER) -> GatewayNode:
    return GatewayNode(name, role, state, True, ())


def member(host: str) -> Any:
    return (SimpleNamespace(address=Address(host, 9640)), None)


def test_candidates_are_the_agents_that_are_there_at_their_gossip_address() -> None:
    nodes = (node("a", role=NodeRole.CONTROL_PLANE), node("b", NodeState.DOWN), node("c"), node("d"))
    members = {name: member(f"10.0.0.{index}") for index, name in enumerate("abc", start=1)}
    found = candidates(members, nodes)
    assert found == {"a": Candidate("a", "10.0.0.1", True), "c": Candidate("c", "10.0.0.3", False)}


class Site:
    """An office on a clock of its own, with one agent `a` that gossip names and whose keeper may answer."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.sent: list[tuple[Address, bytes]] = []
        self.adopted: list[Electorate] = []
        self.is_leading = True
        self.office = ElectorateOffice(
            Settings(node="controller-a", source="kubernetes", electors="auto"),
            cast(ClusterView, self),
            cast(SealedSocket, self),
            adopted=self.adopted.append,
            is_leading=lambda: self.is_leading,
            clock=lambda: self.now_ns,
            unchanged_ns=SETTLE_S * 1_000_000_000,
        )

    def members(self) -> dict[str, Any]:
        return {"a": member("10.0.0.1")}

    def gateway_nodes(self) -> tuple[GatewayNode, ...]:
        return (node("a"),)

    def send(self, to: Address, payload: bytes) -> None:
        self.sent.append((to, payload))

    def answer(self, *, epoch: int = 0, settled: bool = False) -> None:
        """What a keeper says to a survey."""
        standing = Standing(epoch, 1, A.memory, True, settled, bool(epoch))
        self.office.pump.on_datagram(Source(Address("10.0.0.1", 9644), "a", 1), encode_electorate_message(standing))

    async def keep(self, store: ElectorateStore, seconds: float) -> None:
        for _ in range(round(seconds * 2)):
            self.now_ns += 500_000_000
            self.answer(epoch=self.office.book.known.epoch, settled=True)
            await self.office.keep(store)


@pytest.fixture
async def site() -> Site:
    return Site()


async def test_m5_the_first_electorate_is_made_once_the_same_agents_have_been_there_for_a_while(site: Site) -> None:
    async with following(ObjectServer()) as (store, _):
        await until(lambda: store.is_read)
        await site.keep(store, 1)
        assert store.current is None
        await site.keep(store, 1)
        assert store.current is not None
        assert store.current.electorate == Electorate(1, (A,))


async def test_nothing_is_made_while_it_is_not_known_whether_there_is_an_object(site: Site) -> None:
    server = ObjectServer()
    server.is_away = True
    async with following(server) as (store, _):
        await site.keep(store, 10)
        assert server.attempts == 0


async def test_an_object_that_cannot_be_read_is_left_to_its_owner(site: Site) -> None:
    server = ObjectServer()
    await server.put({"electorate": "nonsense"})
    async with following(server) as (store, _):
        await until(lambda: bool(store.trouble))
        await site.keep(store, 10)
        assert server.attempts == 0


async def test_an_electorate_that_keepers_settle_in_is_confirmed_in_the_object(site: Site) -> None:
    server = ObjectServer()
    await server.put(encode(Electorate(1, (A,)), in_force=False))
    async with following(server) as (store, _):
        await until(lambda: store.is_read)
        await site.keep(store, 2)
        assert store.current is not None
        assert (store.current.electorate.epoch, store.current.in_force) == (1, True)


@asynccontextmanager
async def edited(
    site: Site, object_of_somebody: Electorate | None, *, known: Electorate = SOLE
) -> AsyncIterator[ElectorateStore]:
    """The office knows an electorate that was in force; somebody has edited the object, or deleted it."""
    site.office.book.offer(known, origin="a keeper")
    server = ObjectServer()
    if object_of_somebody is not None:
        await server.put(encode(object_of_somebody, in_force=True))
    async with following(server) as (store, _):
        await until(lambda: store.is_read)
        yield store


@pytest.mark.parametrize(
    ("said", "trouble"),
    [
        (None, "there is no ConfigMap egressgw-electorate any more"),
        (Electorate(5, (B, C), (A,)), "epoch 5 changes a, b, c at once"),
        (Electorate(2, (A, B), (A,)), "names epoch 2, older than 4"),
    ],
    ids=["deleted", "edited", "set back"],
)
async def test_m8_a_wrong_object_is_trouble_and_is_written_anew_when_the_electors_have_said_that_they_know_no_other(
    site: Site, said: Electorate | None, trouble: str
) -> None:
    async with edited(site, said) as store:
        await site.keep(store, 2.5)
        assert trouble in site.office.trouble
        assert site.adopted == [Electorate(4, (A,))]
        assert (store.current and store.current.electorate) == said, "it may be on its way"
        await site.keep(store, 2)
        assert store.current is not None
        assert store.current.electorate == Electorate(1004, (A,), (A,))
        assert (site.office.trouble, site.adopted[-1].epoch) == ("", 1004)


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (Electorate(5, (B, C), (A,)), "epoch 5 of b, c is refused: epoch 5 changes a, b, c at once"),
        (Electorate(9, (A, B), (A,)), "epoch 9 of a, b is refused: epoch 9 does not follow 4"),
        (Electorate(2, (A, B), (A,)), "epoch 2 of a, b is refused: the electorate object names other electors"),
    ],
    ids=["edited", "far ahead", "set back"],
)
async def test_m8_an_object_that_is_refused_is_an_event_of_its_owner_until_it_is_right(
    site: Site, said: Electorate, fault: str
) -> None:
    """Also one that is far ahead: it was written anew before anybody had told of it."""
    async with edited(site, said) as store:
        await site.keep(store, 1)
        assert site.office.problems() == ()
        told = set()
        for _ in range(10):
            await site.keep(store, 0.5)
            told |= set(site.office.problems())
        (event,) = told
        assert (event.reason, event.is_warning, event.uid) == ("ElectorateRefused", True, UID)
        assert (event.regarding.kind, str(event.regarding)) == ("ConfigMap", "egressgw-system/egressgw-electorate")
        assert event.note.startswith(fault)
        assert store.current is not None
        assert store.current.electorate.epoch == 1004
        await site.keep(store, 6)
        assert site.office.problems() == ()


async def test_an_object_that_cannot_be_read_is_an_event_of_its_owner(site: Site) -> None:
    server = ObjectServer()
    await server.put({"electorate": "nonsense"})
    async with following(server) as (store, _):
        await until(lambda: bool(store.trouble))
        await site.keep(store, 1)
        (event,) = site.office.problems()
        assert (event.note, event.uid) == (store.trouble, UID)


@pytest.mark.parametrize("said", [None, Electorate(5, (A, B), (A,))], ids=["deleted", "in order"])
async def test_an_object_that_is_not_there_or_is_in_order_is_no_event(site: Site, said: Electorate | None) -> None:
    async with edited(site, said) as store:
        for _ in range(12):
            await site.keep(store, 0.5)
            assert site.office.problems() == ()


async def test_m8_it_is_not_while_a_majority_does_not_answer_or_knows_a_newer_one(site: Site) -> None:
    """Of its kind and not seen: the others were cut off together with the one who made the next epoch."""
    both = Electorate(4, (A, B), (A,))
    async with edited(site, None, known=both) as store:
        await site.keep(store, 20)
        assert store.current is None
        assert "no ConfigMap" in site.office.trouble


async def test_m2_the_next_electorate_in_the_object_waits_until_the_one_before_is_in_force(site: Site) -> None:
    """Whoever takes it over tells every keeper that is behind."""
    following = Electorate(5, (A, B), (A,))
    async with edited(site, following) as store:
        for _ in range(4):
            site.now_ns += 500_000_000
            await site.office.keep(store)
        assert (site.adopted, site.office.trouble) == ([SOLE], "")
        await site.keep(store, 1)
        assert site.adopted == [SOLE, following]


async def test_m8_a_controller_that_has_just_started_asks_those_whom_the_object_names_and_believes_them(
    site: Site,
) -> None:
    edit = Electorate(9, (B, C), (B,))
    server = ObjectServer()
    await server.put(encode(edit, in_force=True))
    async with following(server) as (store, _):
        await until(lambda: store.is_read)
        await site.office.keep(store)
        assert site.adopted == []
        site.office.registrar.advance(now_ns=site.now_ns)
        asked = {output.to.host for output in site.office.registrar.drain() if isinstance(output, Send)}
        assert asked == {"10.0.0.1", "10.0.0.2", "10.0.0.3"}
        heard = encode_electorate_message(KNOWN)
        site.office.pump.on_datagram(Source(Address("10.0.0.2", 9644), "b", 1), heard)
        for _ in range(10):
            await site.office.keep(store)
        assert site.adopted == [KNOWN]
        assert "epoch 9 does not follow 4" in site.office.trouble


async def test_what_another_wrote_first_is_no_failure(site: Site) -> None:
    site.office.book.offer(Electorate(1, (A,)), origin="a keeper")
    server = ObjectServer()
    async with following(server) as (store, _):
        await until(lambda: store.is_read)

        async def refuse(electorate: Electorate) -> None:
            raise ApiError(409, "AlreadyExists", "it exists")

        store.create = refuse  # type: ignore[method-assign]
        await site.keep(store, 1)
        assert server.object is None


async def test_a_newer_electorate_of_a_keeper_is_adopted_and_told_to_a_keeper_that_is_behind(site: Site) -> None:
    said = encode_electorate_message(KNOWN)
    site.office.pump.on_datagram(Source(Address("10.0.0.2", 9644), "b", 1), said)
    assert site.adopted == [KNOWN]
    assert site.office.book.known == KNOWN
    site.answer(epoch=3)
    to, payload = site.sent[-1]
    assert (to.host, decode_electorate_message(payload)) == ("10.0.0.1", KNOWN)


async def test_status_tells_what_keepers_said_of_themselves_lately(site: Site) -> None:
    site.answer(epoch=3, settled=True)
    said = {"epoch": 3, "elector": True, "voting": True, "settled": True}
    assert site.office.standing() == {"inForce": False, "keepers": {"a": said}}
