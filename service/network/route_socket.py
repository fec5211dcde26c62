"""The kernel's links, addresses, routes and rules, decoded once for as long as it says the same of them.

pyroute2 takes 0.2 to 0.5 ms to decode one message (measured), and these tables are read whole all the time. To compare
them as bytes costs a hundredth of that, and the decoder sees only what is new in them (rule I3). What is written, and
every other table, is pyroute2's business. Synchronous: for one thread.
"""

import errno
import socket
import struct
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Protocol, TypeVar, cast

from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from service.network.netlink_message import (
    DONE,
    DUMP,
    ERROR,
    HEADER,
    INTERRUPTED,
    REQUEST,
    attribute,
    message,
    raise_error,
    split_attributes,
    split_messages,
)

_GETLINK, _GETADDR, _GETROUTE, _GETNEIGH, _GETRULE = 18, 22, 26, 30, 34
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # family, length of prefix, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, two lengths, service, table, protocol, scope, type, flags
_RULE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BBHiHBB")  # family, padding, index, state, flags, type
_IFNAME, _EXT_MASK, _TABLE = 3, 29, 15
_AGES = (3, 4)
"""NDA_CACHEINFO and NDA_PROBES of a neighbour."""
_SKIP_STATS = 8
"""Leaves the counters out of what is said of a link (linux/rtnetlink.h): they change all the time."""
_SOL_NETLINK, _GET_STRICT_CHECK = 270, 12
_BUFFER_BYTES = 1 << 16
_INTERRUPTED_MAX = 8
"""Dumps in a row that a change came into."""
_QUESTIONS_MAX = 64
"""Of which the answers are kept."""

T = TypeVar("T")
Read = Callable[[Any], T]
"""Makes of one message, as pyroute2 decodes it, what is wanted of it: a value that nobody changes. Called once for as
long as the kernel says the same; a function of a module, not one that is made anew for each call."""


class RouteTables(Protocol):
    """What functions ask that only read; as of `RouteSocket`."""

    def links(self, read: Read[T]) -> list[T]:
        """All links."""

    def link_named(self, name: str, read: Read[T]) -> T | None:
        """The link of that name, or None."""

    def addresses(self, read: Read[T], *, family: int) -> list[T]:
        """All addresses of the family."""

    def rules(self, read: Read[T], *, family: int) -> list[T]:
        """All rules of the family."""

    def routes(self, read: Read[T], *, family: int, table: int) -> list[T]:
        """All routes of one table."""


class RouteSocket:
    """An IPRoute with quick dumps beside it, each read by a function (`Read`).

    A dump raises OSError where the kernel refuses, does not answer within `timeout_s`, or changes what it tells of all
    the time.
    """

    def __init__(self, *, timeout_s: float = 5.0) -> None:
        """Raises OSError."""
        self._ipr = IPRoute()
        self._marshal = MarshalRtnl()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._socket.settimeout(timeout_s)
        with suppress(OSError):
            # Linux 4.20 and newer: of routes, those of one table only. Older ones tell all.
            self._socket.setsockopt(_SOL_NETLINK, _GET_STRICT_CHECK, 1)
        self._sequence = 0
        self._known: dict[tuple[int, bytes, Read[Any]], dict[bytes, Any]] = {}
        """By question and reader: what was made of each message of the last answer, by its bytes."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ipr, name)

    def close(self) -> None:
        """Close both sockets."""
        self._socket.close()
        self._ipr.close()

    def links(self, read: Read[T]) -> list[T]:
        """All links, without their counters."""
        return self._answer(_GETLINK, DUMP, _link(), read)

    def link_named(self, name: str, read: Read[T]) -> T | None:
        """The link of that name, or None."""
        try:
            found = self._answer(_GETLINK, 0, _link() + attribute(_IFNAME, name.encode() + b"\0"), read)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return None
        return found[0]

    def addresses(self, read: Read[T], *, family: int) -> list[T]:
        """All addresses of the family."""
        return self._answer(_GETADDR, DUMP, _ADDRESS.pack(family, 0, 0, 0, 0), read)

    def rules(self, read: Read[T], *, family: int) -> list[T]:
        """All rules of the family, in the order in which they are looked at."""
        return self._answer(_GETRULE, DUMP, _RULE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), read)

    def routes(self, read: Read[T], *, family: int, table: int) -> list[T]:
        """All routes of one table; none where there is no such table."""
        body = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + attribute(_TABLE, struct.pack("=I", table))
        try:
            found = self._answer(_GETROUTE, DUMP, body, read, table=table)
        except FileNotFoundError:
            return []
        return [route for route in found if route is not _ELSEWHERE]

    def neighbours(self, read: Read[T], *, family: int) -> list[T]:
        """All entries of ARP, or of the bridges' forwarding databases, without their ages."""
        return self._answer(_GETNEIGH, DUMP, _NEIGHBOUR.pack(family, 0, 0, 0, 0, 0, 0), read, without=_AGES)

    def _answer(
        self,
        kind: int,
        how: int,
        body: bytes,
        read: Read[T],
        *,
        table: int = 0,
        without: Collection[int] = (),
    ) -> list[T]:
        question = kind, body, read
        known = self._known.pop(question, {})
        said = self._ask_until_whole(kind, how, body)
        if without:
            said = [_stripped(one, _NEIGHBOUR.size, without) for one in said]
        found = {one: known[one] if one in known else self._read(one, read, table) for one in said}
        while len(self._known) >= _QUESTIONS_MAX:
            del self._known[next(iter(self._known))]
        self._known[question] = found
        return [found[one] for one in said]

    def _read(self, one: bytes, read: Read[T], table: int) -> T:
        (decoded,) = self._marshal.parse(one)
        if table and decoded.get_attr("RTA_TABLE") != table:
            return cast("T", _ELSEWHERE)
        return read(decoded)

    def _ask_until_whole(self, kind: int, how: int, body: bytes) -> list[bytes]:
        for _ in range(_INTERRUPTED_MAX):
            said = self._ask(kind, how, body)
            if said is not None:
                return said
        raise OSError(errno.EAGAIN, "what is dumped changes all the time")

    def _ask(self, kind: int, how: int, body: bytes) -> list[bytes] | None:
        """The messages of the answer, in its order; None where a change came into it."""
        self._sequence += 1
        self._socket.send(message(kind, REQUEST | how, self._sequence, body))
        found: list[bytes] = []
        is_whole = True
        while True:
            for answered, flags, sequence, said in split_messages(self._socket.recv(_BUFFER_BYTES)):
                # What comes late is the answer to a question that was given up.
                if sequence != self._sequence:
                    continue
                is_whole &= not flags & INTERRUPTED
                if answered in (DONE, ERROR):
                    raise_error(said)
                    return found if is_whole else None
                found.append(message(answered, 0, 0, bytes(said)))
                if not how:
                    return found


_ELSEWHERE = object()
"""In the place of a route of another table."""


def _stripped(one: bytes, fixed: int, without: Collection[int]) -> bytes:
    """A message without attributes that change all the time."""
    _, kind, *_ = HEADER.unpack_from(one)
    begin = HEADER.size + fixed
    kept = b"".join(whole for number, whole in split_attributes(memoryview(one)[begin:]) if number not in without)
    return message(kind, 0, 0, one[HEADER.size : begin] + kept)


def _link() -> bytes:
    return _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute(_EXT_MASK, struct.pack("=I", _SKIP_STATS))
