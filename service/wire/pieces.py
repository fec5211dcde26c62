"""Messages of any length over a socket whose datagrams have a longest: packed, and cut where that is not enough.

A short message travels as it is. A longer one is compressed and goes in pieces, each of which says of which message it
is, and which of how many. The newest message counts: a piece of another one drops what is there of the one before.

    magic 2 | message 8 | index 2 | count 2 | part of the compressed message
"""

import secrets
import struct
import zlib

from service.model.errors import PeerError

_HEADER = struct.Struct("!2sQHH")
# No JSON text begins with it, so that a process of an older release refuses a piece and reads all short messages.
_MAGIC = b"\x00P"
PLAIN_BYTES_MAX = 48 << 10
"""Up to here a message is sent as it is: several fit the buffer of a socket."""
PIECE_BYTES_MAX = 48 << 10
PIECES_MAX = 8
"""Fewer than the kernel queues for a unix datagram socket (net.unix.max_dgram_qlen, 10 by default)."""
MESSAGE_BYTES_MAX = 16 << 20
"""Of a message before it is compressed; what claims to be longer is refused before it takes the memory."""
_LEVEL = 1


class Splitter:
    """Of one sender: numbers its messages."""

    def __init__(self) -> None:
        # By chance, so that a restarted sender's pieces never complete a message of its former life.
        self._number = secrets.randbits(63)

    def split(self, message: bytes) -> list[bytes]:
        """Datagrams that say it together, to be sent in order; none where it is too long to be said at all."""
        if len(message) <= PLAIN_BYTES_MAX:
            return [message]
        packed = zlib.compress(message, _LEVEL)
        parts = [packed[start : start + PIECE_BYTES_MAX] for start in range(0, len(packed), PIECE_BYTES_MAX)]
        if len(message) > MESSAGE_BYTES_MAX or len(parts) > PIECES_MAX:
            return []
        self._number = (self._number + 1) % 2**64
        return [_HEADER.pack(_MAGIC, self._number, index, len(parts)) + part for index, part in enumerate(parts)]


class Joiner:
    """Of one receiver. What it keeps is bounded by one message in pieces."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._parts: dict[int, bytes] = {}

    def join(self, datagram: bytes) -> bytes | None:
        """Take one datagram: the message it is or completes, None while pieces are missing.

        Raises PeerError where it is no piece of anything; pieces of other messages are then still there.
        """
        if not datagram.startswith(_MAGIC):
            return datagram
        if len(datagram) <= _HEADER.size or len(datagram) > _HEADER.size + PIECE_BYTES_MAX:
            raise PeerError("a piece of no possible length")
        _, number, index, count = _HEADER.unpack_from(datagram)
        if not index < count <= PIECES_MAX:
            raise PeerError(f"piece {index} of {count}")
        if number != self._number:
            self._number, self._parts = number, {}
        self._parts[index] = datagram[_HEADER.size :]
        if len(self._parts) < count:
            return None
        parts, self._parts = self._parts, {}
        return _unpack(b"".join(parts[index] for index in sorted(parts)))


def _unpack(packed: bytes) -> bytes:
    try:
        inflater = zlib.decompressobj()
        message = inflater.decompress(packed, MESSAGE_BYTES_MAX)
    except zlib.error as error:
        raise PeerError(f"a message that cannot be unpacked: {error}") from error
    if not inflater.eof:
        raise PeerError("a message that is cut short, or too long")
    return message
