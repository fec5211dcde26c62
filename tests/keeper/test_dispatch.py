import asyncio
from pathlib import Path

import pytest

from service.keeper.dispatch import Dispatch, Lines
from service.lease.codec import framed
from service.lease.message import MessageKind, Query, encode
from service.model.errors import PeerError
from service.model.lease import NO_ELECTORATE, Elector, Electorate
from service.model.machine import Address, Source
from tests.keeper.node import settings_of
from tests.virtual_time import in_virtual_time

PORT = 9644
PEER = Source(Address("127.0.0.2", PORT), "node1", 2)
KNOWN = Electorate(4, (Elector("node0", "192.0.2.1"), Elector("node1", "127.0.0.2")))
ANSWERS = (MessageKind.ACK, MessageKind.REPORT, MessageKind.ELECTORATE, MessageKind.STANDING)
QUERY = encode(Query(4, 1))


class Office:
    """A dispatch that is connected to lists."""

    def __init__(self, folder: Path, known: Electorate = KNOWN) -> None:
        self.seen: list[object] = []
        self.sent: list[tuple[Address, bytes]] = []
        self.dispatch = Dispatch(settings_of(folder, 0, PORT), start_id=1, known=lambda: known)
        self.dispatch.connect(
            Lines(
                transmit=lambda *what: self.sent.append(what),
                hear_epoch=self.seen.append,
                routes={kind: lambda source, payload, kind=kind: self.seen.append(kind.name) for kind in ANSWERS},
                questions=lambda source, payload: self.seen.append(source),
            )
        )


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def of_kind(kind: MessageKind) -> bytes:
    """Only the header of a datagram of epoch 4: nobody looks further on the way."""
    return framed(kind, 4)


@pytest.mark.parametrize("kind", ANSWERS)
def test_each_answer_goes_to_whoever_asks_such_questions(office: Office, kind: MessageKind) -> None:
    office.dispatch.take(PEER, of_kind(kind))
    assert office.seen == [4, kind.name]


@pytest.mark.parametrize("kind", [kind for kind in MessageKind if kind not in ANSWERS])
def test_all_others_go_to_the_elector(office: Office, kind: MessageKind) -> None:
    office.dispatch.take(PEER, of_kind(kind))
    assert office.seen == [4, PEER]


def test_the_epoch_is_heard_before_the_datagram_is_answered(office: Office) -> None:
    office.dispatch.take(PEER, encode(Query(9, 1)))
    assert office.seen == [9, PEER]


@pytest.mark.parametrize("payload", [b"", b"\xff" * 40])
def test_what_is_of_no_kind_is_refused_and_nobody_hears_of_it(office: Office, payload: bytes) -> None:
    with pytest.raises(PeerError):
        office.dispatch.take(PEER, payload)
    assert office.seen == []


def test_what_is_for_others_leaves_by_the_network(office: Office) -> None:
    office.dispatch.send(PEER.address, QUERY)
    assert office.sent == [(PEER.address, QUERY)]


@in_virtual_time
async def test_its_own_vote_comes_by_the_loop_and_not_from_within_the_question(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.dispatch.send(Address("192.0.2.1", PORT), QUERY)
    assert (office.sent, office.seen) == ([], [])
    await asyncio.sleep(0)
    assert office.seen == [4, Source(Address("192.0.2.1", PORT), "node0", 1)]


@in_virtual_time
async def test_before_any_electorate_its_own_address_is_where_it_listens(tmp_path: Path) -> None:
    office = Office(tmp_path, NO_ELECTORATE)
    office.dispatch.send(Address("127.0.0.1", PORT), QUERY)
    await asyncio.sleep(0)
    assert office.seen == [4, Source(Address("127.0.0.1", PORT), "node0", 1)]


@in_virtual_time
async def test_a_malformed_word_to_itself_ends_nothing(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.dispatch.send(Address("192.0.2.1", PORT), b"\xff" * 40)
    await asyncio.sleep(0)
    assert (office.sent, office.seen) == ([], [])
