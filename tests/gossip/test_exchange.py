from random import Random

from service.gossip.config import DEFAULT_CONFIG
from service.gossip.digest import Index, item_hash
from service.gossip.dissemination import Broadcasts
from service.gossip.exchange import ANSWER_DATAGRAMS_MAX, Exchange
from service.gossip.member import Member, MemberState
from service.gossip.message import Delta, Digest, Range, Want, encode_message, encode_packet
from service.gossip.roster import Roster
from service.gossip.table import Row, Tables
from service.model.machine import Address


def exchange(rows: int = 0) -> tuple[Exchange, Index]:
    index, tables = Index(), Tables(DEFAULT_CONFIG)
    local = Member("m0", Address("10.0.0.1", 9640), MemberState.ALIVE, b"", 1)
    roster = Roster(local, config=DEFAULT_CONFIG, random=Random(1), index=index, broadcasts=Broadcasts(4))
    for number in range(rows):
        tables.accept("t", str(number), Row((1, number, 0), b"x" * 400))
        index.put(("row", "t", str(number)), (1, number, 0))
    return Exchange(index=index, roster=roster, tables=tables, payload_bytes_max=1250), index


def test_agreement_needs_no_answer() -> None:
    ours, index = exchange(5)
    assert ours.answer(index.whole(), now_ns=0) == []


def test_a_short_difference_is_answered_with_a_digest_and_a_long_one_with_parts() -> None:
    for rows, kind in ((5, Digest), (500, Range)):
        ((message, *_),) = exchange(rows)[0].answer(Range(0, 2**63 - 1, 0), now_ns=0)
        assert isinstance(message, kind)


def test_a_digest_is_answered_with_a_wish_first_and_then_what_it_lacks() -> None:
    ours, _ = exchange(1)
    place = item_hash(("row", "t", "elsewhere"))
    wish, *deltas = ours.answer(Digest(0, 2**63 - 1, ((place, 1, 0, 0),)), now_ns=0)
    assert wish == [Want((place,))]
    assert [type(message) for (message,) in deltas] == [Delta]
    (delta,) = deltas[0]
    assert isinstance(delta, Delta)
    assert ([record.name for record in delta.records], [row.key for row in delta.rows]) == (["m0"], ["0"])


def test_answers_fit_datagrams_and_are_bounded() -> None:
    ours, _ = exchange(200)
    datagrams = ours.answer(Digest(0, 2**63 - 1, ()), now_ns=0)
    assert len(datagrams) == ANSWER_DATAGRAMS_MAX
    assert all(len(encode_packet([encode_message(m) for m in datagram])) <= 1250 for datagram in datagrams)


def test_a_wish_for_something_unknown_is_not_answered() -> None:
    assert exchange()[0].answer(Want((12345,)), now_ns=0) == []
