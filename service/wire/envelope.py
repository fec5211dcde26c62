"""Seals and opens datagrams between members: AES-256-GCM with a key per sender process.

The key of a sender is HKDF-SHA256(ring key, salt = its start id, info = purpose, cluster, node), so a nonce that counts
from 1 never repeats under one key, members of another cluster are strangers, and no datagram of one purpose opens as
another. The header is in clear and authenticated:

    magic 2 | version 1 | name length 1 | key id 4 | sender start id 8 | receiver start id 8 | counter 8 | node name

A receiver start id of 0 means "whoever gets it". Replays are refused within the life of both processes; only a datagram
bound to the receiver's start id is also safe from being replayed to a receiver that restarted.
"""

import hashlib
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from service.model.errors import InvariantError, OperatorError, PeerError
from service.wire.replay_window import ReplayWindow

ANY_RECEIVER = 0
OVERHEAD_MAX = 32 + 63 + 16
"""Bytes that sealing adds to a payload, at most."""

OTHER_RECEIVER = "other-receiver"
"""Reason of the PeerError for a datagram that is bound to another start id than ours."""

_HEADER = struct.Struct("!2sBB4sQQQ")
_MAGIC = b"Eg"
_VERSION = 1
_TAG_LENGTH = 16
_NODE_LENGTH_MAX = 63
_START_ID_MAX = (1 << 64) - 1
_COUNTER_MAX = (1 << 64) - 1
_SENDERS_MAX = 4096
"""Authenticated (node, start id) pairs remembered; the least recently heard is forgotten first."""
_DERIVATIONS_BURST = 1024
_DERIVATIONS_PER_SECOND = 1000
"""Failed key derivations allowed: a forged sender costs one, and known senders do not notice when they are used up."""


class Opened(NamedTuple):
    """An authentic datagram that was not seen before."""

    node: str
    """Who sealed it, and so who sent it first; not who delivered it."""
    start_id: int
    receiver: int
    """The start id it is bound to, or ANY_RECEIVER."""
    counter: int
    payload: bytes


class _Header(NamedTuple):
    name: bytes
    key_id: bytes
    start_id: int
    receiver: int
    counter: int
    length: int
    """Bytes of the whole header, the name included: where the sealed part begins."""


class _Sender:
    """What is kept per (node, start id) that once sent an authentic datagram."""

    __slots__ = ("ciphers", "node", "window")

    def __init__(self, node: str) -> None:
        self.node = node
        self.window = ReplayWindow()
        self.ciphers: dict[bytes, AESGCM] = {}
        """By key id: a ring may have several keys, and each gives this sender another one."""


class _Budget:
    """Token bucket for key derivations that turn out to be for nothing."""

    __slots__ = ("_at_ns", "_clock", "_left")

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._at_ns = clock()
        self._left = float(_DERIVATIONS_BURST)

    def is_spent(self) -> bool:
        if self._left >= 1:
            return False
        now_ns = self._clock()
        self._left += (now_ns - self._at_ns) * _DERIVATIONS_PER_SECOND / 1e9
        self._left = min(self._left, _DERIVATIONS_BURST)
        self._at_ns = now_ns
        return self._left < 1

    def spend(self) -> None:
        self._left -= 1
        if self._left < 1:
            self._at_ns = self._clock()


class Envelope:
    """One sender and receiver of sealed datagrams for one purpose. The first key seals, all keys open.

    At most one envelope may exist per (start id, purpose): two would use the same nonces.
    """

    def __init__(
        self,
        keys: Sequence[bytes] | Callable[[], Sequence[bytes]],
        *,
        cluster: str,
        node: str,
        start_id: int,
        purpose: str,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`start_id`: 64 random bits, not 0, of this process. `keys`: a function is for whoever will ask again.

        Raises OperatorError for unusable keys or names.
        """
        if not 0 < start_id <= _START_ID_MAX:
            raise InvariantError(f"start id {start_id} is not a 64-bit number above 0")
        self.node = node
        self.start_id = start_id
        self.purpose = purpose
        self._name = node.encode()
        if not 0 < len(self._name) <= _NODE_LENGTH_MAX:
            raise OperatorError(f"node: {node!r} must have 1 to {_NODE_LENGTH_MAX} bytes")
        self._context = _prefixed(purpose.encode()) + _prefixed(cluster.encode())
        self._budget = _Budget(clock)
        self._senders: OrderedDict[tuple[bytes, int], _Sender] = OrderedDict()
        self._counter = 0
        self._ring: dict[bytes, bytes] = {}
        self.read_keys: Callable[[], Sequence[bytes]] = keys if callable(keys) else lambda: keys
        """Where the keys come from. Raises OperatorError where there are none now."""
        self.replace_keys(self.read_keys())

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Of the keys that open, in hexadecimal digits; the first one seals."""
        return tuple(key_id.hex() for key_id in self._ring)

    def replace_keys(self, keys: Sequence[bytes]) -> None:
        """Rotate the ring. Counters and replay windows go on. Raises OperatorError with the old ring still in force."""
        ring = {key_id(key): key for key in keys}
        if not keys or any(len(key) != 32 for key in keys):
            raise OperatorError("keyring: at least one key is needed, each of 32 bytes")
        if len(ring) != len(set(keys)):
            raise OperatorError("keyring: two keys have the same short id; replace one of them")
        if list(ring) == list(self._ring) and ring == self._ring:
            return
        self._ring = ring
        self._seal_key_id = key_id(keys[0])
        self._seal_cipher = self._derive(keys[0], self._name, self.start_id)
        for sender in self._senders.values():
            sender.ciphers = {key_id: cipher for key_id, cipher in sender.ciphers.items() if key_id in ring}

    def seal(self, payload: bytes, *, receiver: int = ANY_RECEIVER) -> bytes:
        """Return the datagram. Each call uses up one counter, whether or not the datagram is sent."""
        if self._counter >= _COUNTER_MAX:
            raise InvariantError("the datagram counter is used up")
        self._counter += 1
        name = self._name
        header = (
            _HEADER.pack(_MAGIC, _VERSION, len(name), self._seal_key_id, self.start_id, receiver, self._counter) + name
        )
        return header + self._seal_cipher.encrypt(self._counter.to_bytes(12, "big"), payload, header)

    def open(self, datagram: bytes, *, any_receiver: bool = False) -> Opened:
        """Authenticate and decrypt. `any_receiver` also takes what is bound to another start id than ours.

        Raises PeerError with one of the reasons malformed, version, unknown-key, other-receiver, reflection, replay,
        rate, bad-tag. Cheap checks come first, so that a flood of forgeries costs less than real traffic.
        """
        header = self._parse(datagram, any_receiver=any_receiver)
        identity = (header.name, header.start_id)
        sender = self._senders.get(identity)
        if sender is not None and not sender.window.is_fresh(header.counter):
            raise PeerError("replay")
        known = sender.ciphers.get(header.key_id) if sender is not None else None
        cipher = known or self._derive_within_budget(header)
        length = header.length
        try:
            payload = cipher.decrypt(header.counter.to_bytes(12, "big"), datagram[length:], datagram[:length])
            sender = sender or _Sender(header.name.decode())
        except (InvalidTag, UnicodeDecodeError):
            # Only what cost a derivation is charged: a forgery in a known sender's name costs one decryption.
            if known is None:
                self._budget.spend()
            raise PeerError("bad-tag") from None
        # Nothing is remembered of a sender, and no counter taken, before the tag has held.
        self._remember(identity, sender)
        sender.ciphers[header.key_id] = cipher
        sender.window.take(header.counter)
        return Opened(sender.node, header.start_id, header.receiver, header.counter, payload)

    def _parse(self, datagram: bytes, *, any_receiver: bool) -> _Header:
        if len(datagram) < _HEADER.size + 1 + _TAG_LENGTH:
            raise PeerError("malformed")
        magic, version, name_length, key_id, start_id, receiver, counter = _HEADER.unpack_from(datagram)
        if magic != _MAGIC:
            raise PeerError("malformed")
        if version != _VERSION:
            raise PeerError("version")
        length = _HEADER.size + name_length
        if not 0 < name_length <= _NODE_LENGTH_MAX or len(datagram) < length + _TAG_LENGTH:
            raise PeerError("malformed")
        if counter == 0 or start_id == 0:
            raise PeerError("malformed")
        if key_id not in self._ring:
            raise PeerError("unknown-key")
        if receiver not in (ANY_RECEIVER, self.start_id) and not any_receiver:
            raise PeerError(OTHER_RECEIVER)
        name = datagram[_HEADER.size : length]
        if start_id == self.start_id and name == self._name:
            raise PeerError("reflection")
        return _Header(name, key_id, start_id, receiver, counter, length)

    def _derive_within_budget(self, header: _Header) -> AESGCM:
        if self._budget.is_spent():
            raise PeerError("rate")
        return self._derive(self._ring[header.key_id], header.name, header.start_id)

    def _derive(self, key: bytes, name: bytes, start_id: int) -> AESGCM:
        info = self._context + _prefixed(name)
        derivation = HKDF(algorithm=hashes.SHA256(), length=32, salt=start_id.to_bytes(8, "big"), info=info)
        return AESGCM(derivation.derive(key))

    def _remember(self, identity: tuple[bytes, int], sender: _Sender) -> None:
        self._senders[identity] = sender
        self._senders.move_to_end(identity)
        if len(self._senders) > _SENDERS_MAX:
            self._senders.popitem(last=False)


def key_id(key: bytes) -> bytes:
    """Four bytes that tell keys apart, in the header of each datagram; nothing of the key follows from them."""
    return hashlib.sha256(b"egressgw key id" + key).digest()[:4]


def _prefixed(label: bytes) -> bytes:
    """Length-prefixed, so that no two lists of labels run together to the same bytes."""
    return len(label).to_bytes(2, "big") + label
