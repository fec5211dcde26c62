"""What changes on this node's links, addresses, routes and neighbours, as the kernel tells it.

An own netlink socket on the event loop, with pyroute2's parser for the messages (its asyncio socket does not run on
uvloop). The kernel drops what a slow reader does not fetch (ENOBUFS); then, and when our own bounded buffer is full,
the batch is one Resync: read everything again.
"""

import asyncio
import errno
import logging
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from types import TracebackType
from typing import Any, Self

from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELNEIGH,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
)
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from service.model.errors import InvariantError
from service.network.link import IFF_UP, RT_TABLE_MAIN, link_kind, next_hop_indices, parse_mac

_log = logging.getLogger(__name__)

_GROUPS = 0x1 | 0x4 | 0x10 | 0x40
"""RTMGRP_LINK, RTMGRP_NEIGH, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE (linux/rtnetlink.h)."""
_DATAGRAM_BYTES = 1 << 16
_READS_PER_TURN = 32
"""So that a flood of events cannot hold the event loop."""


@dataclass(frozen=True, slots=True)
class LinkChange:
    """A link as it is now; the kernel also tells changes that are none of these fields."""

    index: int
    name: str
    kind: str | None
    up: bool
    carrier: bool
    gone: bool
    """Deleted. A port that leaves its bridge is not gone, though the kernel says so for the bridge family."""


@dataclass(frozen=True, slots=True)
class AddressChange:
    """An IPv4 address put on an interface or taken off it."""

    index: int
    address: IPv4Interface
    gone: bool


@dataclass(frozen=True, slots=True)
class NeighbourChange:
    """An ARP entry, or, with `address` None, an entry of a bridge's forwarding database (`index` is the port)."""

    index: int
    address: IPv4Address | None
    mac: bytes
    gone: bool


@dataclass(frozen=True, slots=True)
class RouteChange:
    """A route of the main table: a pod's host route, or a default route."""

    destination: IPv4Interface
    indices: tuple[int, ...]
    gone: bool


@dataclass(frozen=True, slots=True)
class Resync:
    """Events were lost: dump again."""


NetworkChange = LinkChange | AddressChange | NeighbourChange | RouteChange | Resync


class LinkMonitor:
    """Async context manager and iterator: each turn gives all changes since the last, never none.

    Opened before the first dump, it misses nothing between dump and events. An iteration raises OSError where the
    socket has failed; a message that cannot be read is one Resync.
    """

    def __init__(self, *, pending_max: int = 4096, receive_buffer_bytes: int = 4 << 20) -> None:
        self._pending_max = pending_max
        self._receive_buffer_bytes = receive_buffer_bytes
        self._pending: list[NetworkChange] = []
        self._ready = asyncio.Event()
        self._socket: socket.socket | None = None
        self._marshal: Any = None
        self._failure: OSError | None = None

    async def __aenter__(self) -> Self:
        self._marshal = MarshalRtnl()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer_bytes)
        self._socket.bind((0, _GROUPS))
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[NetworkChange, ...]:
        await self._ready.wait()
        if self._failure is not None:
            raise self._failure
        self._ready.clear()
        batch, self._pending = tuple(self._pending), []
        return batch

    def _read(self) -> None:
        if self._socket is None:
            raise InvariantError("LinkMonitor is used outside its context")
        for _ in range(_READS_PER_TURN):
            try:
                data = self._socket.recv(_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    self._fail(error)
                else:
                    self._watch_again()
                    self._put([Resync()])
                return
            self._put(self._parse(data))

    def _watch_again(self) -> None:
        """A loop need not watch a socket that has told of an error (uvloop does not): no further event would come."""
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket.fileno())
            loop.add_reader(self._socket.fileno(), self._read)

    def _parse(self, data: bytes) -> list[NetworkChange]:
        # Nobody keeps a reader's callback going: what is raised here is a change that is never told.
        try:
            return parse_changes(self._marshal, data)
        except Exception as error:
            _log.error("a message of the kernel about links cannot be read: %s", error, exc_info=error)
            return [Resync()]

    def _fail(self, error: OSError) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._failure = error
        self._ready.set()

    def _put(self, changes: list[NetworkChange]) -> None:
        if not changes:
            return
        if len(self._pending) + len(changes) > self._pending_max:
            self._pending = [Resync()]
        elif self._pending != [Resync()]:
            self._pending += changes
        self._ready.set()


def parse_changes(marshal: Any, data: bytes) -> list[NetworkChange]:
    """The changes in one netlink datagram; messages of no interest are left out."""
    changes = (_parse(message) for message in marshal.parse(data))
    return [change for change in changes if change is not None]


def _parse(message: Any) -> NetworkChange | None:
    kind = message["header"]["type"]
    if kind in (RTM_NEWLINK, RTM_DELLINK):
        return _link(message, kind == RTM_DELLINK)
    if kind in (RTM_NEWADDR, RTM_DELADDR):
        return _address(message, kind == RTM_DELADDR)
    if kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
        return _neighbour(message, kind == RTM_DELNEIGH)
    if kind in (RTM_NEWROUTE, RTM_DELROUTE):
        return _route(message, kind == RTM_DELROUTE)
    return None


def _link(message: Any, deleted: bool) -> LinkChange:
    return LinkChange(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME") or "",
        kind=link_kind(message),
        up=bool(message["flags"] & IFF_UP),
        carrier=bool(message.get_attr("IFLA_CARRIER")),
        gone=deleted and message["family"] == socket.AF_UNSPEC,
    )


def _address(message: Any, deleted: bool) -> AddressChange | None:
    local = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    if message["family"] != socket.AF_INET or local is None:
        return None
    return AddressChange(message["index"], IPv4Interface(f"{local}/{message['prefixlen']}"), deleted)


def _neighbour(message: Any, deleted: bool) -> NeighbourChange | None:
    mac = parse_mac(message.get_attr("NDA_LLADDR"))
    index = message["ifindex"]
    if message["family"] == socket.AF_BRIDGE:
        return NeighbourChange(index, None, mac, deleted)
    if message["family"] != socket.AF_INET:
        return None
    return NeighbourChange(index, IPv4Address(message.get_attr("NDA_DST")), mac, deleted)


def _route(message: Any, deleted: bool) -> RouteChange | None:
    if message["family"] != socket.AF_INET or message.get_attr("RTA_TABLE") != RT_TABLE_MAIN:
        return None
    destination = f"{message.get_attr('RTA_DST') or '0.0.0.0'}/{message['dst_len']}"
    return RouteChange(IPv4Interface(destination), next_hop_indices(message), deleted)
