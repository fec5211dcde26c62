"""The new holder's word reaches every agent over a network that loses, doubles and delays (rule W2)."""

from ipaddress import IPv4Address
from itertools import pairwise
from random import Random

import msgspec
import pytest

from service.location.message import CHANNEL, ROWS_MAX, Acks, Rows, decode
from service.location.sync import DATAGRAMS_MAX, RESEND_FIRST_NS, RESEND_LAST_NS, LocationHeard, LocationSync
from service.model.assignment import Location
from service.model.errors import InvariantError, PeerError
from service.model.lease import Token
from service.model.machine import Address, Send, Source

FLOATING_IP = IPv4Address("192.168.1.100")
HERE, THERE = Address("10.0.0.1", 9641), Address("10.0.0.2", 9641)
MS = 1_000_000


def location(counter: int = 1, *, node: str = "here", floating_ip: IPv4Address = FLOATING_IP) -> Location:
    return Location(floating_ip, node, Token(7, 1, counter))


def here() -> LocationSync:
    sync = LocationSync("here", 11, now_ns=0)
    sync.set_peer("there", THERE, now_ns=0)
    return sync


def there() -> LocationSync:
    return LocationSync("there", 22, now_ns=0)


def sent(sync: LocationSync) -> list[bytes]:
    return [output.payload for output in sync.drain() if isinstance(output, Send)]


def said(sync: LocationSync) -> list[Token]:
    rows = [row for payload in sent(sync) for row in decode(payload).locations()]  # type: ignore[union-attr]
    return [Token(row.term, row.version, row.counter) for row in rows]


def exchange(sender: LocationSync, receiver: LocationSync, now_ns: int = 0) -> list[Location]:
    """All that is said now arrives, and all that is answered; returns what was heard."""
    for payload in sent(sender):
        receiver.receive(Source(HERE, "here", 11), payload, now_ns=now_ns)
    outputs = receiver.drain()
    for output in outputs:
        if isinstance(output, Send):
            assert output.to == HERE
            sender.receive(Source(THERE, "there", 22), output.payload, now_ns=now_ns)
    return [output.location for output in outputs if isinstance(output, LocationHeard)]


def test_a_word_is_heard_at_once_and_said_no_more() -> None:
    sender, receiver = here(), there()
    sender.locate(location(), ["there"], now_ns=0)
    assert exchange(sender, receiver) == [location()]
    assert sender.deadline_ns() is None


def test_a_word_that_is_lost_is_said_again_with_patience() -> None:
    sender = here()
    sender.locate(location(), ["there"], now_ns=0)
    times = [0]
    sender.drain()
    while times[-1] < 5000 * MS:
        deadline_ns = sender.deadline_ns()
        assert deadline_ns is not None
        sender.advance(now_ns=deadline_ns)
        assert said(sender) == [Token(7, 1, 1)]
        times.append(deadline_ns)
    gaps = [after - before for before, after in pairwise(times)]
    assert gaps[0] == RESEND_FIRST_NS
    assert max(gaps) == gaps[-1] == RESEND_LAST_NS
    assert exchange_again(sender, times[-1]) == [location()]
    assert sender.deadline_ns() is None


def exchange_again(sender: LocationSync, now_ns: int) -> list[Location]:
    deadline_ns = sender.deadline_ns()
    assert deadline_ns is not None
    sender.advance(now_ns=deadline_ns)
    return exchange(sender, there(), deadline_ns)


def test_a_newer_word_takes_the_place_of_one_that_was_not_heard() -> None:
    sender = here()
    sender.locate(location(1), ["there"], now_ns=0)
    first = sent(sender)
    sender.locate(location(2), ["there"], now_ns=1)
    sender.drain()
    # The answer to the first comes late: it says nothing of the second.
    receiver = there()
    for payload in first:
        receiver.receive(Source(HERE, "here", 11), payload, now_ns=1)
    for output in receiver.drain():
        if isinstance(output, Send):
            sender.receive(Source(THERE, "there", 22), output.payload, now_ns=1)
    sender.advance(now_ns=RESEND_LAST_NS)
    assert said(sender) == [Token(7, 1, 2)]


def test_an_answer_to_an_earlier_process_of_this_node_is_none() -> None:
    sender = here()
    sender.locate(location(), ["there"], now_ns=0)
    answer = CHANNEL + msgspec.msgpack.encode(Acks(10, (1,)))
    sender.receive(Source(THERE, "there", 22), answer, now_ns=0)
    assert sender.deadline_ns() is not None


def test_what_is_heard_twice_is_answered_twice() -> None:
    sender, receiver = here(), there()
    sender.locate(location(), ["there"], now_ns=0)
    (payload,) = sent(sender)
    for _ in range(2):
        receiver.receive(Source(HERE, "here", 11), payload, now_ns=0)
    assert [type(output) for output in receiver.drain()] == [LocationHeard, Send] * 2


def test_who_is_no_peer_is_told_nothing_any_more_and_not_when_it_comes_back() -> None:
    sender = here()
    sender.locate(location(), ["there", "nobody"], now_ns=0)
    assert len(sent(sender)) == 1
    sender.set_peer("there", None, now_ns=0)
    assert sender.deadline_ns() is None
    sender.set_peer("there", THERE, now_ns=0)
    assert sender.deadline_ns() is None


def test_a_peer_that_moved_is_told_at_its_new_address() -> None:
    sender, moved = here(), Address("10.0.0.9", 9641)
    sender.locate(location(), ["there"], now_ns=0)
    sender.drain()
    sender.set_peer("there", moved, now_ns=0)
    sender.advance(now_ns=RESEND_FIRST_NS)
    assert [output.to for output in sender.drain() if isinstance(output, Send)] == [moved]


def test_many_words_share_datagrams_and_none_is_forgotten() -> None:
    sender, receiver = here(), there()
    addresses = [IPv4Address(int(FLOATING_IP) + index) for index in range(2 * DATAGRAMS_MAX * ROWS_MAX)]
    for address in addresses:
        sender.locate(location(floating_ip=address), ["there"], now_ns=0)
    sender.drain()
    heard: set[IPv4Address] = set()
    while (deadline_ns := sender.deadline_ns()) is not None:
        sender.advance(now_ns=deadline_ns)
        payloads = sent(sender)
        assert len(payloads) <= DATAGRAMS_MAX
        assert max(map(len, payloads)) < 1200
        for payload in payloads:
            receiver.receive(Source(HERE, "here", 11), payload, now_ns=deadline_ns)
        for output in receiver.drain():
            if isinstance(output, Send):
                sender.receive(Source(THERE, "there", 22), output.payload, now_ns=deadline_ns)
            else:
                heard.add(output.location.floating_ip)
    assert heard == set(addresses)


def test_nobody_speaks_for_others() -> None:
    with pytest.raises(InvariantError):
        here().locate(location(node="there"), ["there"], now_ns=0)
    with pytest.raises(PeerError):
        here().receive(Source(HERE, "here", 12), CHANNEL, now_ns=0)


def test_u1_words_of_a_former_release_are_heard_and_its_pods_passed_over() -> None:
    """Its datagrams carry pods, their end, and digests beside locations."""
    pod = [1, 5, 123, "uid", [b"\2\0\0\0\0\1"], 77, [7], 1]
    rows = [1, 3, [pod, [2, 6, 123], [3, 7, int(FLOATING_IP), 7, 1, 1]]]
    receiver = there()
    receiver.receive(Source(HERE, "here", 11), CHANNEL + msgspec.msgpack.encode(rows), now_ns=0)
    heard, ack = receiver.drain()
    assert heard == LocationHeard(location())
    assert isinstance(ack, Send)
    assert decode(ack.payload) == Acks(11, (7,))
    status = [3, 3, True, 1, 2, 3, 4, 5, 6, True]
    receiver.receive(Source(HERE, "here", 11), CHANNEL + msgspec.msgpack.encode(status), now_ns=0)
    assert receiver.drain() == []


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_refused_whole(seed: int) -> None:
    random, receiver = Random(seed), there()
    sender = here()
    sender.locate(location(), ["there"], now_ns=0)
    (payload,) = sent(sender)
    broken = bytearray(payload)
    for _ in range(3):
        broken[random.randrange(1, len(broken))] = random.randrange(256)
    for noise in (random.randbytes(40), bytes(broken), payload[: random.randrange(1, len(payload))], b""):
        try:
            message = decode(noise)
        except PeerError:
            with pytest.raises(PeerError):
                receiver.receive(Source(HERE, "here", 11), noise, now_ns=0)
            assert receiver.drain() == []
        else:
            assert isinstance(message, Rows | Acks) or message is not None
