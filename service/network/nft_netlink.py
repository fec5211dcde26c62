"""What nf_tables says by itself, past the program `nft`, which reads every set of every table before it says anything.

Two questions that are asked all the time, and the one change that each new pod brings: microseconds each, where a run
of `nft` takes 15 ms, and 100 ms beside a thousand sets (linux/netfilter/nf_tables.h, netlink(7)).
"""

import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress

from service.network.map_change import MapChange
from service.network.netlink_message import (
    ACKNOWLEDGE,
    CREATE,
    DONE,
    DUMP,
    ERROR,
    NESTED,
    NETLINK_NETFILTER,
    REQUEST,
    attribute,
    attribute_values,
    message,
    raise_error,
    split_messages,
)

_SUBSYSTEM = 10 << 8
_NEWELEMENTS, _DELELEMENTS = (_SUBSYSTEM | kind for kind in (12, 14))
_NEWGEN, _GETGEN, _NEWOBJ, _GETOBJ = (_SUBSYSTEM | kind for kind in (15, 16, 18, 19))
_BATCH_BEGIN, _BATCH_END = 16, 17
_NFGEN = struct.Struct("=BBH")
_GEN_ID = 1
_OBJ_TABLE, _OBJ_NAME, _OBJ_TYPE, _OBJ_DATA = 1, 2, 3, 4
_COUNTER = 1
_COUNTER_BYTES, _COUNTER_PACKETS = 1, 2
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS, _LIST_ELEMENT = 1, 2, 3, 1
_ELEMENT_KEY, _ELEMENT_DATA = 1, 2
_DATA_VALUE, _DATA_VERDICT = 1, 2
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_TIMEOUT_S = 1.0
_BUFFER = 65536
CHANGES_MAX = 512
"""In one transaction: some 60 KB, what a socket sends at once. More is for `nft`."""


def commit_elements(table: str, changes: Sequence[MapChange], *, timeout_s: float) -> None:
    """One transaction in the table of family `ip`, in this order. Blocking. From one to `CHANGES_MAX` changes.

    Raises OSError where the kernel refuses one of them, or does not answer in time; then none is made, but for a
    silence, after which nobody knows.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as connection:
        connection.settimeout(timeout_s)
        connection.send(element_batch(table, changes))
        while True:
            for kind, _, sequence, body in split_messages(connection.recv(_BUFFER)):
                if kind == ERROR:
                    raise_error(body)
                    if sequence == len(changes):
                        return


def element_batch(table: str, changes: Sequence[MapChange]) -> bytes:
    """The messages of a transaction; each change has its place from 1 on as its number. The last one is acknowledged,
    once all is done: so many acknowledgements would have no room."""
    ours = _NFGEN.pack(socket.AF_UNSPEC, 0, socket.htons(_SUBSYSTEM >> 8))
    parts = [message(_BATCH_BEGIN, REQUEST, 0, ours)]
    for number, change in enumerate(changes, start=1):
        kind, flags = (_DELELEMENTS, 0) if change.chain is None else (_NEWELEMENTS, CREATE)
        flags |= ACKNOWLEDGE if number == len(changes) else 0
        elements = attribute(NESTED | _LIST_ELEMENTS, attribute(NESTED | _LIST_ELEMENT, _element(change)))
        body = attribute(_LIST_TABLE, _text(table)) + attribute(_LIST_SET, _text(change.map)) + elements
        ip = _NFGEN.pack(socket.AF_INET, 0, 0)
        parts.append(message(kind, REQUEST | flags, number, ip + body))
    parts.append(message(_BATCH_END, REQUEST, len(changes) + 1, ours))
    return b"".join(parts)


def _element(change: MapChange) -> bytes:
    key = attribute(NESTED | _ELEMENT_KEY, attribute(_DATA_VALUE, change.key))
    if change.chain is None:
        return key
    code = attribute(_VERDICT_CODE, struct.pack(">i", change.jump))
    verdict = attribute(NESTED | _DATA_VERDICT, code + attribute(_VERDICT_CHAIN, _text(change.chain)))
    return key + attribute(NESTED | _ELEMENT_DATA, verdict)


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def read_generation() -> int | None:
    """The number of the last change to nftables in this network namespace, by whoever made it.

    Each transaction that is committed makes it one more; while it is the same, so is every table, chain, rule and set.
    None where the kernel does not say: it has no nf_tables, or does not answer.
    """
    for kind, body in _asked(_GETGEN, REQUEST, socket.AF_UNSPEC):
        if kind == _NEWGEN:
            return parse_generation(body)
    return None


def parse_generation(body: bytes) -> int | None:
    """Of the body of one message; None where it does not say."""
    value = attribute_values(body[_NFGEN.size :]).get(_GEN_ID, b"")
    return int.from_bytes(value, "big") if len(value) == 4 else None


def read_counters(table: str) -> dict[str, tuple[int, int]] | None:
    """Packets and bytes of each named counter of a table of family `ip`; None where the kernel does not say."""
    found: dict[str, tuple[int, int]] = {}
    for kind, body in _asked(_GETOBJ, REQUEST | DUMP, socket.AF_INET):
        if kind == DONE:
            return found
        if kind == _NEWOBJ and (counter := parse_counter(body, table)) is not None:
            found |= counter
    return None


def parse_counter(body: bytes, table: str) -> dict[str, tuple[int, int]] | None:
    """Of the body of one message; None where it is no counter, or of another table."""
    fields = attribute_values(body[_NFGEN.size :])
    name = fields.get(_OBJ_NAME, b"").rstrip(b"\0").decode(errors="replace")
    is_ours = fields.get(_OBJ_TABLE, b"").rstrip(b"\0") == table.encode()
    if not (name and is_ours and fields.get(_OBJ_TYPE) == _COUNTER.to_bytes(4, "big")):
        return None
    counts = attribute_values(fields.get(_OBJ_DATA, b""))
    return {name: (_number(counts.get(_COUNTER_PACKETS)), _number(counts.get(_COUNTER_BYTES)))}


def _number(value: bytes | None) -> int:
    return int.from_bytes(value or b"", "big")


def _asked(kind: int, flags: int, family: int) -> Iterator[tuple[int, bytes]]:
    """Kind and body of each message of the answer, up to the last one, or to where the kernel says no more."""
    with suppress(OSError), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as connection:
        connection.settimeout(_TIMEOUT_S)
        connection.send(message(kind, flags, 1, _NFGEN.pack(family, 0, 0)))
        while True:
            messages = [(kind, bytes(body)) for kind, _, _, body in split_messages(connection.recv(_BUFFER))]
            yield from messages
            if not messages or not flags & DUMP or messages[-1][0] in (DONE, ERROR):
                return
