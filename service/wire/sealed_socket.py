"""A UDP socket whose datagrams are sealed, and optionally bound to the receiver's start id.

With `bind_receiver` each datagram names the process it is for, so nothing recorded before a restart opens after it. The
start id of a receiver is learned in one of three ways, all authenticated and fresh in our own life:

- Hello (random nonce, for anybody) is answered by HelloReply (the nonce, bound to us). This is the first contact.
- Data bound to our start id teaches the sender's, so an answer needs no exchange of its own.
- A datagram bound to a start id that is not the receiver's earns a Notice, which names the wrong id. It replaces
  exactly that belief and nothing else, so a notice that was held back cannot undo what was learned since.
"""

import asyncio
import errno
import secrets
import socket
import struct
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, NamedTuple, TypeVar

from service.model.errors import OperatorError, PeerError, TransientError
from service.model.machine import Address, Source
from service.wire.envelope import ANY_RECEIVER, OTHER_RECEIVER, Envelope, Opened
from service.wire.keyring import KeyringWatch
from service.wire.refusals import Refusals

_DATA = b"\x00"
_HELLO = b"\x01"
_HELLO_REPLY = b"\x02"
_NOTICE = b"\x03"
_NONCE_LENGTH = 16
_NOTICE_BODY = struct.Struct("!Q")

_MS = 1_000_000
_WAITING_MAX = 8
"""Payloads kept per destination while its start id is not known; the newest stay."""
_WAITING_NS = 1_000 * _MS
"""A payload that waited longer is not sent any more: its sender has long repeated what matters."""
_HELLO_FIRST_NS = 20 * _MS
_HELLO_LAST_NS = 320 * _MS
_REPLY_INTERVAL_NS = 5 * _MS
"""Two hello replies, or two notices, to one address are at least this far apart."""
_ADDRESSES_MAX = 4096
BATCH_MAX = 64
"""Datagrams read per wake-up, so that a flood cannot starve timers."""
_DATAGRAM_MAX = 65535
_BUFFER_BYTES = 4 << 20

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class SocketCounters:
    """Totals since the socket was made, counted in datagrams."""

    sent: int = 0
    received: int = 0
    """Authentic application datagrams handed on."""
    unreachable: int = 0
    """The kernel refused to send, for example for want of a route."""
    buffer_full: int = 0
    too_large: int = 0
    waiting_dropped: int = 0
    """Payloads that gave way to newer ones, or grew old, while a hello was unanswered."""
    hellos: int = 0
    notices: int = 0


class _Recent(OrderedDict[K, V], Generic[K, V]):
    """A mapping that forgets its oldest entry beyond `_ADDRESSES_MAX`."""

    def put(self, key: K, value: V) -> None:
        self[key] = value
        self.move_to_end(key)
        if len(self) > _ADDRESSES_MAX:
            self.popitem(last=False)


class _Belief(NamedTuple):
    """Which process we take to be behind an address."""

    node: str
    start_id: int


class _Contact:
    """A destination whose start id we have asked for."""

    __slots__ = ("interval_ns", "next_hello_ns", "nonce", "waiting")

    def __init__(self) -> None:
        self.nonce = secrets.token_bytes(_NONCE_LENGTH)
        """One for all hellos to it, so that a late reply to an earlier one counts too."""
        self.next_hello_ns = 0
        self.interval_ns = _HELLO_FIRST_NS
        """Until the hello after the next; doubles each time."""
        self.waiting: deque[tuple[int, bytes]] = deque(maxlen=_WAITING_MAX)
        """(when, payload), oldest first."""


class SealedSocket:
    """Async context manager over one UDP socket. Both ends must use the same `bind_receiver`.

    `on_datagram` runs in the event loop for each authentic datagram; a PeerError from it is counted under its reason.
    """

    def __init__(
        self,
        bind: Address,
        envelope: Envelope,
        *,
        bind_receiver: bool = False,
        on_datagram: Callable[[Source, bytes], None],
        keys_read: Callable[[], None] = lambda: None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`keys_read` is called each time that the keyring was read again (`keyring`).

        `clock`: nanoseconds that never go backwards; only waits and gaps of this process are measured by it.
        """
        self.counters = SocketCounters()
        self._keyring = KeyringWatch(envelope, looked=keys_read)
        self._watching: asyncio.Task[None] | None = None
        self.refusals = Refusals(envelope.purpose, keyring=self._keyring.trouble, clock=clock)
        """Reasons: those of Envelope.open, `unbound`, `stale-hello`, `handshake`, and PeerErrors of the receiver."""
        self._bind = bind
        self._envelope = envelope
        self._bind_receiver = bind_receiver
        self._on_datagram = on_datagram
        self._clock = clock
        self._socket: socket.socket | None = None
        self._beliefs: _Recent[Address, _Belief] = _Recent()
        """Destinations whose start id is known; wrong once the process there has restarted, until a notice says so."""
        self._contacts: _Recent[Address, _Contact] = _Recent()
        """Destinations that have been asked for theirs, and have not answered."""
        self._asked: dict[bytes, Address] = {}
        """Nonce to destination, for every contact."""
        self._answered_ns: _Recent[tuple[bytes, Address], int] = _Recent()
        """When a hello or a mistaken datagram from an address was last answered, by kind of the answer."""

    async def __aenter__(self) -> "SealedSocket":
        """Bind and start reading.

        Raises OperatorError naming the address; TransientError, with nothing opened, where no interface has it now.
        """
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            opened.bind(self._bind)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        except OSError as error:
            opened.close()
            told = f"bind_address: cannot bind UDP {self._bind}: {error.strerror or error}"
            # A DHCP client or a bond's failover takes an address for a while, and no restart brings it back.
            raise (TransientError if error.errno == errno.EADDRNOTAVAIL else OperatorError)(told) from error
        self._socket = opened
        asyncio.get_running_loop().add_reader(opened.fileno(), self._read)
        self._watching = asyncio.create_task(self._keyring.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        opened, self._socket = self._socket, None
        if opened is not None:
            asyncio.get_running_loop().remove_reader(opened.fileno())
            opened.close()
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            await asyncio.wait([watching])

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Of the keys in force now, in hexadecimal digits; the first one seals."""
        return self._envelope.key_ids

    @property
    def address(self) -> Address:
        """Where the socket is really bound (port 0 asks the kernel to choose one)."""
        return self._bind if self._socket is None else Address(*self._socket.getsockname())

    def send(self, to: Address, payload: bytes) -> None:
        """Send one datagram, or keep it for the moment the receiver's start id is known.

        Never blocks and never raises for the network: failures are counted. After close it does nothing.
        """
        if not self._bind_receiver:
            self._transmit(to, self._envelope.seal(payload))
            return
        belief = self._beliefs.get(to)
        if belief is not None:
            self._transmit(to, self._envelope.seal(_DATA + payload, receiver=belief.start_id))
            return
        self._wait_for_contact(to, payload)

    def _transmit(self, to: Address, datagram: bytes) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(datagram, to)
        except BlockingIOError:
            self.counters.buffer_full += 1
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                self.counters.too_large += 1
            elif error.errno == errno.ENOBUFS:
                self.counters.buffer_full += 1
            else:
                self.counters.unreachable += 1
        else:
            self.counters.sent += 1

    def _wait_for_contact(self, to: Address, payload: bytes) -> None:
        now_ns = self._clock()
        contact = self._contacts.get(to) or self._open_contact(to)
        if len(contact.waiting) == _WAITING_MAX:
            self.counters.waiting_dropped += 1
        contact.waiting.append((now_ns, payload))
        if now_ns < contact.next_hello_ns:
            return
        contact.next_hello_ns = now_ns + contact.interval_ns
        contact.interval_ns = min(contact.interval_ns * 2, _HELLO_LAST_NS)
        self.counters.hellos += 1
        self._transmit(to, self._envelope.seal(_HELLO + contact.nonce))

    def _open_contact(self, to: Address) -> _Contact:
        contact = _Contact()
        if len(self._contacts) >= _ADDRESSES_MAX:
            self._close_contact(next(iter(self._contacts)))
        self._contacts.put(to, contact)
        self._asked[contact.nonce] = to
        return contact

    def _close_contact(self, to: Address) -> _Contact | None:
        contact = self._contacts.pop(to, None)
        if contact is not None:
            del self._asked[contact.nonce]
        return contact

    def _read(self) -> None:
        for _ in range(BATCH_MAX):
            if self._socket is None:
                return
            try:
                datagram, origin = self._socket.recvfrom(_DATAGRAM_MAX)
            except BlockingIOError:
                return
            except OSError:
                # A pending error of an earlier send; it concerns no datagram that could be read.
                self.counters.unreachable += 1
                continue
            try:
                self._receive(Address(*origin), datagram)
            except PeerError as error:
                self.refusals.note(str(error), Address(*origin))

    def _receive(self, origin: Address, datagram: bytes) -> None:
        if not self._bind_receiver:
            opened = self._envelope.open(datagram)
            self._deliver(origin, opened, opened.payload)
            return
        # What is meant for another process is authenticated all the same: no forgery may use up the sender's notice.
        opened = self._envelope.open(datagram, any_receiver=True)
        if opened.receiver not in (ANY_RECEIVER, self._envelope.start_id):
            self._notify(origin, opened)
            raise PeerError(OTHER_RECEIVER)
        self._receive_bound(origin, opened)

    def _deliver(self, origin: Address, opened: Opened, payload: bytes) -> None:
        self.counters.received += 1
        self._on_datagram(Source(origin, opened.node, opened.start_id), payload)

    def _receive_bound(self, origin: Address, opened: Opened) -> None:
        kind, body = opened.payload[:1], opened.payload[1:]
        if kind == _HELLO:
            self._answer_hello(origin, opened, body)
            return
        # Everything but a hello must be bound to this very process: only so is it known to be no recording.
        if opened.receiver == ANY_RECEIVER:
            raise PeerError("unbound")
        if kind == _DATA:
            self._learn_from_data(origin, opened)
            self._deliver(origin, opened, body)
        elif kind == _HELLO_REPLY:
            self._take_hello_reply(opened, body)
        elif kind == _NOTICE:
            self._take_notice(origin, opened, body)
        else:
            raise PeerError("handshake")

    def _learn_from_data(self, origin: Address, opened: Opened) -> None:
        belief = self._beliefs.get(origin)
        # Another node's data from this address may be a misdirected copy: only a hello or a notice changes the node.
        if belief is not None and (belief.start_id == opened.start_id or belief.node != opened.node):
            return
        self._learn(origin, opened)

    def _learn(self, address: Address, opened: Opened) -> None:
        self._beliefs.put(address, _Belief(opened.node, opened.start_id))
        contact = self._close_contact(address)
        oldest_ns = self._clock() - _WAITING_NS
        for queued_ns, payload in contact.waiting if contact is not None else ():
            if queued_ns < oldest_ns:
                self.counters.waiting_dropped += 1
            else:
                self.send(address, payload)

    def _answer_hello(self, origin: Address, opened: Opened, nonce: bytes) -> None:
        if len(nonce) != _NONCE_LENGTH:
            raise PeerError("handshake")
        if self._may_answer(_HELLO_REPLY, origin):
            self._transmit(origin, self._envelope.seal(_HELLO_REPLY + nonce, receiver=opened.start_id))

    def _take_hello_reply(self, opened: Opened, nonce: bytes) -> None:
        # The nonce names the destination that was asked; a host with several addresses may answer from another one.
        address = self._asked.get(nonce)
        if address is None:
            raise PeerError("stale-hello")
        self._learn(address, opened)

    def _notify(self, origin: Address, opened: Opened) -> None:
        """Tell the sender of an authentic datagram that the process it means is no longer here."""
        if not self._may_answer(_NOTICE, origin):
            return
        self.counters.notices += 1
        body = _NOTICE + _NOTICE_BODY.pack(opened.receiver)
        self._transmit(origin, self._envelope.seal(body, receiver=opened.start_id))

    def _take_notice(self, origin: Address, opened: Opened, body: bytes) -> None:
        if len(body) != _NOTICE_BODY.size:
            raise PeerError("handshake")
        (wrong_id,) = _NOTICE_BODY.unpack(body)
        mistaken = [address for address, belief in self._beliefs.items() if belief.start_id == wrong_id]
        if not mistaken:
            raise PeerError("stale-hello")
        for address in mistaken:
            if self._beliefs[address].node == opened.node:
                self._learn(address, opened)
            elif address == origin:
                # Another node lives at this address now, or somebody misdirected our datagram: ask before believing.
                del self._beliefs[address]

    def _may_answer(self, kind: bytes, origin: Address) -> bool:
        now_ns = self._clock()
        answered_ns = self._answered_ns.get((kind, origin))
        if answered_ns is not None and now_ns - answered_ns < _REPLY_INTERVAL_NS:
            return False
        self._answered_ns.put((kind, origin), now_ns)
        return True
