"""Hears the ARP of this node's segments that the programs at tc leave: all but questions for floating IPs.

A packet socket for each interface and of ARP alone: one of all protocols would be shown each packet of the interface,
in both directions, which costs a steered one a tenth of its CPU time. Frames of another VLAN of a trunk wake nobody.
"""

import asyncio
import ctypes
import logging
import socket
import struct
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from service.model.errors import OperatorError
from service.network.arp import ETH_P_ARP, ArpPacket, parse_arp

_log = logging.getLogger(__name__)

_SO_ATTACH_FILTER = 26
_PACKET_OTHERHOST = 3
_ANCILLARY = 0xFFFFF000
"""SKF_AD_OFF (linux/filter.h)."""
_LOAD_WORD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_FRAME_BYTES = 128
_FILTER = (
    (_LOAD_WORD, 0, 0, _ANCILLARY + 4),
    (_JUMP_EQUAL, 0, 1, _PACKET_OTHERHOST),
    (_RETURN, 0, 0, 0),
    (_RETURN, 0, 0, _FRAME_BYTES),
)
"""SKF_AD_PKTTYPE: the kernel calls a frame of a VLAN that has no device here one to another host."""
_READS_PER_TURN = 64
"""So that a flood of ARP cannot hold the event loop; what the socket's buffer has no room for is lost."""


class ArpListener:
    """`listen` names the interfaces; `heard` gets (interface name, packet). A context manager."""

    def __init__(self, heard: Callable[[str, ArpPacket], None]) -> None:
        self._heard = heard
        self._sockets: dict[tuple[str, int], socket.socket] = {}
        self._failed: set[str] = set()
        """Interfaces of which the log has told that they cannot be heard."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.listen(())

    def listen(self, interfaces: Iterable[tuple[str, int]]) -> None:
        """Hear exactly these, (name, index) each. One that cannot be opened is tried again at the next call."""
        wanted = dict.fromkeys(interfaces)
        for key in [key for key in self._sockets if key not in wanted]:
            self._close(key)
        for key in wanted:
            if key not in self._sockets:
                self._open(key)

    def _open(self, key: tuple[str, int]) -> None:
        name, index = key
        try:
            if socket.if_nametoindex(name) != index:
                return
            opened = _open_socket(name)
        except (OSError, OperatorError) as error:
            if name not in self._failed:
                _log.warning("ARP on %s is not heard: %s", name, error)
                self._failed.add(name)
            return
        self._failed.discard(name)
        self._sockets[key] = opened
        asyncio.get_running_loop().add_reader(opened.fileno(), self._read, key, opened)

    def _close(self, key: tuple[str, int]) -> None:
        closed = self._sockets.pop(key)
        asyncio.get_running_loop().remove_reader(closed.fileno())
        closed.close()

    def _read(self, key: tuple[str, int], opened: socket.socket) -> None:
        for _ in range(_READS_PER_TURN):
            try:
                frame = opened.recv(_FRAME_BYTES)
            except BlockingIOError:
                return
            except OSError:
                # Down, or gone. The loop watches no socket any more that has told of an error (uvloop): a new one is
                # opened at the next call of `listen`.
                self._close(key)
                return
            packet = parse_arp(frame)
            if packet is not None:
                self._heard(key[0], packet)


def _open_socket(name: str) -> socket.socket:
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in _FILTER)
    buffer = ctypes.create_string_buffer(program, len(program))
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    try:
        # Before it is bound: not a frame comes past the filter.
        pointer = struct.pack("@HP", len(_FILTER), ctypes.addressof(buffer))
        opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)
        opened.bind((name, ETH_P_ARP))
    except OSError:
        opened.close()
        raise
    return opened
