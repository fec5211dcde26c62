"""What goes into one datagram, in which order, and what stays out."""

from random import Random

import pytest

from service.gossip.config import DEFAULT_CONFIG, GossipConfig
from service.gossip.digest import Index
from service.gossip.dissemination import Broadcasts
from service.gossip.member import Member, MemberState
from service.gossip.message import ALIVE, DEAD, Ack, Message, Nack, Ping, Record, Suspect, TableRow, encode_message
from service.gossip.message import decode_packet as decode
from service.gossip.outbound import Outbound
from service.gossip.retention import Retention
from service.gossip.roster import Roster
from service.model.machine import Address, Send

OWN, PEER = Address("10.0.0.1", 9640), Address("10.0.0.2", 9640)


class Table:
    """An outbound with everything around it, and one member m1 besides ourselves."""

    def __init__(self, **config: int) -> None:
        self.config = GossipConfig(**config)
        self.index = Index()
        self.broadcasts = Broadcasts(self.config.retransmit_multiplier)
        local = Member("m0", OWN, MemberState.ALIVE, b"own", 5)
        self.roster = Roster(local, config=self.config, random=Random(1), index=self.index, broadcasts=self.broadcasts)
        self.hear(Record("m1", PEER.host, PEER.port, 1, ALIVE, 0, b""))
        self.outbound = Outbound(
            self.config,
            index=self.index,
            roster=self.roster,
            broadcasts=self.broadcasts,
            retention=Retention(DEFAULT_CONFIG),
        )
        self.forget_news()

    def hear(self, record: Record) -> None:
        self.roster.merge(record, hearsay_of=None, now_ns=0)

    def forget_news(self) -> None:
        for subject in (("member", "m0"), ("member", "m1"), ("suspect", "m1", "m0")):
            self.broadcasts.retire(subject)
        self.roster.outputs.clear()

    def news(self, key: str, value: bytes = b"") -> bytes:
        message = encode_message(TableRow("t", key, (1, 0, 0), value))
        self.broadcasts.offer(("row", "t", key), message, urgent=True)
        return message

    def sent(self) -> list[tuple[Address, list[Message]]]:
        outputs = [output for output in self.roster.outputs if isinstance(output, Send)]
        self.roster.outputs.clear()
        assert all(len(output.payload) <= self.config.payload_bytes_max for output in outputs)
        return [(output.to, decode(output.payload)[0]) for output in outputs]


def test_a_ping_and_an_ack_carry_the_fingerprint_of_everything() -> None:
    table = Table()
    table.outbound.ping(PEER, "m1", 7, now_ns=0)
    table.outbound.acknowledge(PEER, "m1", 8, now_ns=0)
    fingerprint = table.index.short_fingerprint
    assert table.sent() == [(PEER, [Ping(7, "m1", fingerprint)]), (PEER, [Ack(8, fingerprint)])]
    table.index.put(("row", "t", "k"), (1, 0, 0))
    table.outbound.ping(PEER, "m1", 9, now_ns=0)
    ((_, [ping]),) = table.sent()
    assert ping != Ping(9, "m1", fingerprint)


def test_with_nothing_to_say_nothing_is_sent() -> None:
    table = Table()
    table.outbound.send(PEER, "m1", now_ns=0)
    assert table.sent() == []


def test_news_rides_on_what_is_sent_anyway() -> None:
    """SWIM 4.1: no datagrams of its own."""
    table = Table()
    table.news("k")
    table.outbound.send(PEER, "m1", Nack(3), now_ns=0)
    assert table.sent() == [(PEER, [Nack(3), TableRow("t", "k", (1, 0, 0), b"")])]


def test_the_accused_hears_of_it_in_every_datagram_and_before_other_news() -> None:
    """Lifeguard, buddy system."""
    table = Table()
    table.roster.accuse("m1", 1, accuser="m0", now_ns=0)
    table.forget_news()
    table.news("k", b"x" * 400)
    table.outbound.send(PEER, "m1", Nack(3), now_ns=0)
    table.outbound.send(PEER, "m1", Nack(4), now_ns=0)
    first, second = table.sent()
    assert first[1][:2] == [Nack(3), Suspect("m1", 1, "m0")]
    assert second[1][:2] == [Nack(4), Suspect("m1", 1, "m0")]


def test_the_dead_hear_of_their_death_and_others_are_not_told_about_themselves() -> None:
    table = Table()
    notice = Record("m1", PEER.host, PEER.port, 1, DEAD, 0, b"")
    table.hear(notice)
    table.forget_news()
    table.outbound.ping(PEER, "m1", 7, now_ns=0)
    ((_, [_, told]),) = table.sent()
    assert told == notice
    table.outbound.ping(PEER, "m2", 8, now_ns=0)
    ((_, messages),) = table.sent()
    assert len(messages) == 1


def test_what_a_datagram_already_says_is_not_said_twice() -> None:
    table = Table()
    table.hear(Record("m1", PEER.host, PEER.port, 1, DEAD, 0, b""))
    notice = table.roster.record("m1", now_ns=0)
    assert notice is not None
    table.outbound.send(PEER, "m1", notice, now_ns=0)
    ((_, messages),) = table.sent()
    assert messages.count(notice) == 1


@pytest.mark.parametrize("length", [0, 100, 400, 512])
def test_no_datagram_grows_beyond_its_budget_and_what_does_not_fit_comes_later(length: int) -> None:
    table = Table(payload_bytes_max=600)
    offered = {table.news(f"k{index}", b"x" * length) for index in range(12)}
    told: set[bytes] = set()
    for sequence in range(12):
        table.outbound.send(PEER, "m1", Nack(sequence), now_ns=0)
        ((_, messages),) = table.sent()
        told |= {encode_message(message) for message in messages[1:]}
    assert told == offered


@pytest.mark.parametrize("limit", [250, 600, 650, 670, 690, 710, 1250])
def test_a_notice_and_news_go_along_only_as_far_as_the_message_leaves_room(limit: int) -> None:
    table = Table(payload_bytes_max=limit)
    notice = Record("m1", PEER.host, PEER.port, 1, DEAD, 0, b"x" * 400)
    table.hear(notice)
    table.forget_news()
    for index in range(10):
        table.news(f"k{index}", b"x" * 10)
    message = TableRow("t", "message", (1, 0, 0), b"x" * 200)
    table.outbound.send(PEER, "m1", message, now_ns=0)
    ((_, messages),) = table.sent()
    assert messages[0] == message
    assert (notice in messages) == (limit >= 670)
    if limit == 1250:
        assert len(messages) == 12
