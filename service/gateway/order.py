"""Orders of operators as rows of gossip. Pure.

Any member writes an order down; the leader carries it out and says in the same row how far it is. So an order survives
whoever wrote it and whoever leads, and needs no API server. The version of a row is (number, writer, progress): a new
order is above all that its writer has heard, and each word on its progress is above the one before.
"""

from ipaddress import IPv4Address

import msgspec

from service.model.errors import PeerError
from service.model.lease import TERM_MAX
from service.model.order import Drain, MoveOrder, MoveState, OrderId

Version = tuple[int, int, int]

DRAIN_TABLE = "drain"
"""Key: a node. Its rows live for as long as the node is a member, drained or not (rule O3)."""
MOVE_TABLE = "move"
"""Key: a floating IP; the last order for it, and how it ended."""
NUMBER_MAX = 1 << 40
"""Of Unix seconds: far from now, and nobody can write an order that no later one supersedes."""
_STEPS = 8
_LAST_STEP = _STEPS - 1
_STEP = {MoveState.ASKED: 0, MoveState.MOVING: 1, MoveState.DONE: 2, MoveState.FAILED: 2}
_TEXT_MAX = 200


class _Drain(msgspec.Struct, array_like=True):
    is_drained: bool


class _Move(msgspec.Struct, array_like=True):
    """Fields are only appended, each with a default."""

    target: str
    state: MoveState
    source: str
    reason: str


_encoder = msgspec.msgpack.Encoder()
_drain_decoder = msgspec.msgpack.Decoder(_Drain)
_move_decoder = msgspec.msgpack.Decoder(_Move)


def encode_drain(drain: Drain) -> tuple[Version, bytes]:
    """Version and value of the row."""
    return (*drain.id, 0), _encoder.encode(_Drain(drain.is_drained))


def decode_drain(key: str, version: Version, data: bytes) -> Drain | None:
    """None for a tombstone. Raises PeerError where the row is malformed."""
    number = _checked(key, version)
    try:
        return Drain(key, _drain_decoder.decode(data).is_drained, number) if data else None
    except msgspec.MsgspecError as error:
        raise PeerError(f"drain of {key}: {error}") from error


def encode_move(
    order: MoveOrder, *, term: int = 0, is_withdrawn: bool = False, progress: int = 0
) -> tuple[Version, bytes]:
    """Version and value of the row.

    `term` is that of the leader who says how far the order is; a later leader's word is above an earlier one's.
    `is_withdrawn`: whoever asked asks no more; above what was said so far, which is `progress`.
    """
    step = progress // _STEPS * _STEPS + _LAST_STEP if is_withdrawn else term * _STEPS + _STEP[order.state]
    value = _Move(order.target, order.state, order.source, order.reason[:_TEXT_MAX])
    return (*order.id, step), _encoder.encode(value)


def decode_move(key: str, version: Version, data: bytes) -> MoveOrder | None:
    """None for a tombstone. Raises PeerError where the row is malformed."""
    number = _checked(key, version)
    try:
        address = IPv4Address(key)
        if not data:
            return None
        raw = _move_decoder.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise PeerError(f"move of {key}: {error}") from error
    return MoveOrder(address, number, raw.target, raw.state, raw.source, raw.reason)


def ended_order(version: Version) -> Version:
    """Of the tombstone of an order: above every word on it, and below every later order."""
    return version[0], version[1], max(version[2], (TERM_MAX + 1) * _STEPS) + 1


def _checked(key: str, version: Version) -> OrderId:
    if version[0] > NUMBER_MAX:
        raise PeerError(f"order for {key}: {version[0]} is no time")
    return version[0], version[1]
