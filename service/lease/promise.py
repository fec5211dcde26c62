"""What an elector has promised, and the bytes in which promises outlive the process (rules P1, P2, T3, K1).

Two records: the *promises*, in shared memory, valid only within one boot of the machine; and the *highest tokens*, on
disk, which outlive reboots so that tokens keep growing. Both end in a checksum: what is torn or corrupt counts as
missing, and an elector that misses its promises is silent until none of them can still be alive.
"""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from service.lease.codec import key_name, key_number
from service.model.lease import ZERO_TOKEN, Token

_PROMISES = struct.Struct("!8s16sQHI")  # magic, boot id, longest lease, identities, rows
_IDENTITY = struct.Struct("!16sB")  # boot id, length of the node name
_ROW = struct.Struct("!IIIIQQQH")  # key, token, until (boot, raw), start id, identity or none
_TOKENS = struct.Struct("!8sI")  # magic, rows
_TOKEN_ROW = struct.Struct("!IIII")
_CHECKSUM = struct.Struct("!I")
_PROMISES_MAGIC = b"EGWPROM1"
_TOKENS_MAGIC = b"EGWTOKN1"
_NOBODY = 0xFFFF


class Instant(NamedTuple):
    """One moment on both clocks of an elector (rule T3), nanoseconds."""

    boot_ns: int
    """CLOCK_BOOTTIME: what the kernel's fence compares, but clock daemons slew it."""
    raw_ns: int
    """CLOCK_MONOTONIC_RAW: never slewed, but stands still in suspend."""

    def left_ns(self, now: "Instant") -> int:
        """How long until both clocks have passed this moment (T3), by the one with more to go; may be negative."""
        return max(self.boot_ns - now.boot_ns, self.raw_ns - now.raw_ns)

    def later_by(self, span_ns: int) -> "Instant":
        """The moment at which both clocks will have counted so much more."""
        return Instant(self.boot_ns + span_ns, self.raw_ns + span_ns)


NEVER = Instant(0, 0)
"""Before every moment of a clock that counts from boot: what ends then is over."""


class Identity(NamedTuple):
    """Whose fence it is: one kernel under one node name.

    The start id is not part of it: two keepers of one boot share the map that is the fence, never run at once
    (exclusive lock, rule S8), and the second adopts what the first held.
    """

    node: str
    boot_id: bytes


@dataclass(slots=True)
class Promise:
    """One key at one elector. With nobody promised, the token is still the highest ever granted."""

    token: Token = ZERO_TOKEN
    holder: Identity | None = None
    """Whom it was granted to last; None after a release, and while only the token is known."""
    until: Instant = NEVER
    """Its end, on both clocks; by each as it was when the renewal was received, and the whole lease later (T2)."""
    start_id: int = 0
    """Of the process it was granted to, or that said it holds it."""

    def is_over(self, now: Instant) -> bool:
        """Whether the key may be promised to another."""
        # T3: a promise has ended only when both clocks have passed it. A boot clock slewed fast would end it early,
        # while a holder whose clock is slewed slow still forwards.
        return self.holder is None or (now.boot_ns >= self.until.boot_ns and now.raw_ns >= self.until.raw_ns)

    def extend(self, until: Instant) -> None:
        """Promise for longer, to the same holder."""
        # P1: a promise never shrinks. After a long lease, short renewals must not let the elector count short
        # while the holder's kernel still forwards long.
        self.until = Instant(max(self.until.boot_ns, until.boot_ns), max(self.until.raw_ns, until.raw_ns))

    def grant(self, holder: Identity, start_id: int, token: Token, until: Instant) -> None:
        """Promise the key anew. Only for one that is over, under a token above the last (K1): not checked here."""
        self.holder, self.start_id, self.token, self.until = holder, start_id, token, until

    def release(self) -> None:
        """End it early: its holder has said that its fence is closed (P1). The token stays."""
        self.holder, self.until = None, NEVER


class StoredPromises(NamedTuple):
    """What a promise file says."""

    boot_id: bytes
    lease_ns_max: int
    """The longest lease its elector allowed; after a reboot it bounds the silence (rule P2)."""
    promises: dict[str, Promise]


def encode_promises(boot_id: bytes, lease_ns_max: int, promises: Mapping[str, Promise]) -> bytes:
    """The record for shared memory. The boot id is the elector's own: a record of another boot is not gone on with."""
    identities: dict[Identity, int] = {}
    rows = []
    for key, promise in promises.items():
        index = _NOBODY
        if promise.holder is not None:
            index = identities.setdefault(promise.holder, len(identities))
        rows.append(_ROW.pack(key_number(key), *promise.token, *promise.until, promise.start_id, index))
    parts = [_PROMISES.pack(_PROMISES_MAGIC, boot_id, lease_ns_max, len(identities), len(rows))]
    for identity in identities:
        name = identity.node.encode()
        parts.append(_IDENTITY.pack(identity.boot_id, len(name)) + name)
    return _sealed(b"".join(parts + rows))


def decode_promises(data: bytes | None) -> StoredPromises | None:
    """None where the record is missing, torn or corrupt: the elector then knows nothing and must be silent.

    So it does with a token beyond its bits (K1): it would be in every report, and each would be refused whole.
    """
    body = _opened(data, _PROMISES_MAGIC)
    if body is None:
        return None
    try:
        _, boot_id, lease_ns_max, identity_count, row_count = _PROMISES.unpack_from(body)
        offset = _PROMISES.size
        identities = []
        for _ in range(identity_count):
            holder_boot_id, length = _IDENTITY.unpack_from(body, offset)
            offset += _IDENTITY.size
            identities.append(Identity(body[offset : offset + length].decode(), holder_boot_id))
            offset += length
        promises = {}
        for _ in range(row_count):
            key, term, version, counter, boot_ns, raw_ns, start_id, index = _ROW.unpack_from(body, offset)
            offset += _ROW.size
            holder = None if index == _NOBODY else identities[index]
            token = Token.checked(term, version, counter)
            promises[key_name(key)] = Promise(token, holder, Instant(boot_ns, raw_ns), start_id)
    except (struct.error, IndexError, ValueError):
        return None
    return StoredPromises(boot_id, lease_ns_max, promises)


def encode_tokens(promises: Mapping[str, Promise]) -> bytes:
    """The highest token of every key, for the disk (rule K1)."""
    rows = [_TOKEN_ROW.pack(key_number(key), *promise.token) for key, promise in promises.items()]
    return _sealed(b"".join([_TOKENS.pack(_TOKENS_MAGIC, len(rows)), *rows]))


def decode_tokens(data: bytes | None) -> dict[str, Token] | None:
    """None where the record is missing, torn or corrupt.

    A token beyond its bits is passed over (K1): no fence can be opened under it, and those of other keys still count.
    """
    body = _opened(data, _TOKENS_MAGIC)
    if body is None:
        return None
    try:
        _, count = _TOKENS.unpack_from(body)
        rows = [_TOKEN_ROW.unpack_from(body, _TOKENS.size + index * _TOKEN_ROW.size) for index in range(count)]
    except struct.error:
        return None
    return {key_name(key): token for key, *parts in rows if (token := Token(*parts)).fits}


def _sealed(body: bytes) -> bytes:
    # The length goes first: a file that once was longer keeps old bytes behind the record, which must not matter.
    framed = _CHECKSUM.pack(len(body)) + body
    return framed + _CHECKSUM.pack(zlib.crc32(framed))


def _opened(data: bytes | None, magic: bytes) -> bytes | None:
    if data is None or len(data) < 2 * _CHECKSUM.size:
        return None
    (length,) = _CHECKSUM.unpack_from(data)
    end = _CHECKSUM.size + length
    if len(data) < end + _CHECKSUM.size or length < len(magic):
        return None
    if _CHECKSUM.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
        return None
    body = data[_CHECKSUM.size : end]
    return body if body.startswith(magic) else None
