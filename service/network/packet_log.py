"""The beginnings of packets that a rule of netfilter logs to a group (NFLOG), on the event loop.

What nobody reads costs nothing, and what a slow reader does not fetch is lost: it is told of by the next packet.
Layouts: linux/netfilter/nfnetlink_log.h.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Self

from service.model.errors import TransientError
from service.network.netlink_message import (
    ACKNOWLEDGE,
    ERROR,
    NETLINK_NETFILTER,
    REQUEST,
    attribute,
    attribute_values,
    message,
    raise_error,
    split_messages,
)

_SUBSYSTEM = 4
_PACKET, _CONFIG = _SUBSYSTEM << 8, _SUBSYSTEM << 8 | 1
_CFG_COMMAND, _CFG_MODE, _CFG_THRESHOLD = 1, 2, 5
_BIND = 1
_COPY_PACKET = 2
_PAYLOAD = 9
_GENERIC = struct.Struct(">BBH")
_ANSWER_S = 1.0
_READS_PER_TURN = 64
"""So that a flood cannot hold the event loop."""


class PacketLog:
    """`heard` gets at most `length` bytes of each packet, from its IP header on. A context manager."""

    def __init__(self, group: int, length: int, heard: Callable[[bytes], None]) -> None:
        self._group = group
        self._length = length
        self._heard = heard
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        """Raises TransientError where the group is somebody else's now, or the process may not read it."""
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        try:
            opened.bind((0, 0))
            opened.settimeout(_ANSWER_S)
            self._configure(opened, _CFG_COMMAND, struct.pack("=B", _BIND))
            self._configure(opened, _CFG_MODE, struct.pack(">IBx", self._length, _COPY_PACKET))
            # Each at once, and not when a buffer of the kernel's is full.
            self._configure(opened, _CFG_THRESHOLD, struct.pack(">I", 1))
        except OSError as error:
            # EPERM where the group is another process's, as after an agent that has not ended yet.
            opened.close()
            raise TransientError(f"netfilter's log, group {self._group}: {error.strerror or error}") from error
        opened.setblocking(False)
        self._socket = opened
        asyncio.get_running_loop().add_reader(opened.fileno(), self._read, opened)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        closed, self._socket = self._socket, None
        if closed is not None:
            asyncio.get_running_loop().remove_reader(closed.fileno())
            closed.close()

    def _configure(self, opened: socket.socket, kind: int, value: bytes) -> None:
        body = _GENERIC.pack(socket.AF_UNSPEC, 0, self._group) + attribute(kind, value)
        opened.send(message(_CONFIG, REQUEST | ACKNOWLEDGE, 1, body))
        while True:
            for answered, _, _, said in split_messages(opened.recv(1 << 16)):
                if answered == ERROR:
                    raise_error(said)
                    return

    def _read(self, opened: socket.socket) -> None:
        for _ in range(_READS_PER_TURN):
            try:
                data = opened.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:
                # Some were lost (ENOBUFS). A loop need not watch a socket that has told of an error (uvloop does not).
                loop = asyncio.get_running_loop()
                loop.remove_reader(opened.fileno())
                loop.add_reader(opened.fileno(), self._read, opened)
                return
            for packet in packets_of(data):
                self._heard(packet)


def packets_of(data: bytes) -> list[bytes]:
    """The packets in one datagram of the group."""
    packets = (attribute_values(body[_GENERIC.size :]) for kind, _, _, body in split_messages(data) if kind == _PACKET)
    return [packet[_PAYLOAD] for packet in packets if _PAYLOAD in packet]
