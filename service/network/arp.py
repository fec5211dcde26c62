"""ARP frames for floating IPs: gratuitous announcements (RFC 5227 section 3), probes (section 2.1) and their sockets.

The floating IP is never an interface address, so the kernel neither announces nor defends it: frames are made here and
leave through packet sockets.
"""

import asyncio
import errno
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from types import TracebackType

from service.model.errors import OperatorError, TransientError

ETH_P_ARP = 0x0806
BROADCAST_MAC = b"\xff" * 6
REQUEST = 1
REPLY = 2

_FRAME = struct.Struct("!6s6sHHHBBH6s4s6s4s")
_HARDWARE_ETHERNET = 1
_ETH_P_IP = 0x0800
_ANY_ADDRESS = IPv4Address(0)
_UNKNOWN_MAC = bytes(6)
_SO_MARK = 36
"""Linux; Python's socket module does not name it on every machine."""
_PROBE_COUNT = 3
"""PROBE_NUM of RFC 5227; the spacing follows from the caller's timeout instead of PROBE_MIN and PROBE_MAX."""
_INTERFACE_GONE = (errno.ENODEV, errno.ENXIO)
_INTERFACE_BUSY = (errno.ENETDOWN, errno.ENOBUFS, errno.EAGAIN)
_NO_SOCKET = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""This process, or the machine, has no room for another one now."""


@dataclass(frozen=True, slots=True)
class ArpPacket:
    """An Ethernet/IPv4 ARP packet."""

    operation: int
    """REQUEST, REPLY or another operation."""
    sender_mac: bytes
    sender: IPv4Address
    target_mac: bytes
    target: IPv4Address


def gratuitous_arp_frames(mac: bytes, address: IPv4Address) -> tuple[bytes, bytes]:
    """Return the announcement in request form and in reply form: some neighbours heed only one of them."""
    request = _frame(mac, ArpPacket(REQUEST, mac, address, _UNKNOWN_MAC, address))
    reply = _frame(mac, ArpPacket(REPLY, mac, address, BROADCAST_MAC, address))
    return request, reply


def arp_probe_frame(mac: bytes, address: IPv4Address) -> bytes:
    """Return the question whether anybody has the address; sender 0.0.0.0, so that no neighbour learns from it."""
    return _frame(mac, ArpPacket(REQUEST, mac, _ANY_ADDRESS, _UNKNOWN_MAC, address))


def arp_request_frame(mac: bytes, sender: IPv4Address, address: IPv4Address, *, to: bytes = BROADCAST_MAC) -> bytes:
    """Return the question where `address` is, from `sender` at `mac`; to a single host where its MAC is known."""
    return _frame(mac, ArpPacket(REQUEST, mac, sender, _UNKNOWN_MAC, address), to=to)


def parse_arp(frame: bytes) -> ArpPacket | None:
    """Return the packet of an Ethernet frame, None where it is not Ethernet/IPv4 ARP. Padding is ignored."""
    if len(frame) < _FRAME.size:
        return None
    _, _, ethertype, hardware, protocol, hardware_length, protocol_length, *rest = _FRAME.unpack_from(frame)
    if (ethertype, hardware, protocol, hardware_length, protocol_length) != (
        ETH_P_ARP,
        _HARDWARE_ETHERNET,
        _ETH_P_IP,
        6,
        4,
    ):
        return None
    operation, sender_mac, sender, target_mac, target = rest
    return ArpPacket(operation, sender_mac, IPv4Address(sender), target_mac, IPv4Address(target))


class ArpSender:
    """Sends frames out of interfaces; one packet socket per interface index, opened at first use. A context manager.

    `mark`: what programs of this node know the frames by; 0: nothing.
    """

    def __init__(self, *, mark: int = 0) -> None:
        self._mark = mark
        self._sockets: dict[int, socket.socket] = {}

    def __enter__(self) -> "ArpSender":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every socket. A later `send` opens its own again."""
        while self._sockets:
            self._sockets.popitem()[1].close()

    def send(self, interface: str | int, frame: bytes) -> None:
        """Send one frame out of the interface given by name or index; never blocks.

        Raises TransientError where the interface is absent, down or its queue full; a later send may succeed.
        """
        ifindex = _resolve_index(interface)
        try:
            sender = self._sockets.get(ifindex)
            if sender is None:
                # Protocol 0: it sends only, and the kernel queues no received frame to it.
                sender = self._sockets[ifindex] = _open_packet_socket(ifindex, 0)
                sender.setsockopt(socket.SOL_SOCKET, _SO_MARK, self._mark)
            sender.send(frame)
        except OSError as error:
            if error.errno in _INTERFACE_GONE and ifindex in self._sockets:
                self._sockets.pop(ifindex).close()
            raise _translate(error, interface) from error


async def probe(ifname: str, mac: bytes, address: IPv4Address, *, timeout: float) -> bytes | None:
    """Ask the segment who has `address`; return the MAC of whoever answers, None if nobody does in `timeout` seconds.

    Used before a first assignment (RFC 5227). Raises TransientError where the interface is absent or down, or where no
    file is left.
    """
    ifindex = _resolve_index(ifname)
    try:
        listener = _open_packet_socket(ifindex, ETH_P_ARP)
    except OSError as error:
        raise _translate(error, ifname) from error
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()
    loop.add_reader(listener.fileno(), _read_answers, listener, ifname, mac, address, answer)
    try:
        frame = arp_probe_frame(mac, address)
        for _ in range(_PROBE_COUNT):
            _send_probe(listener, frame, ifname)
            await asyncio.wait((answer,), timeout=timeout / _PROBE_COUNT)
            if answer.done():
                return answer.result()
        return None
    finally:
        loop.remove_reader(listener.fileno())
        listener.close()


def _send_probe(listener: socket.socket, frame: bytes, ifname: str) -> None:
    try:
        listener.send(frame)
    except OSError as error:
        raise _translate(error, ifname) from error


def _read_answers(
    listener: socket.socket, ifname: str, mac: bytes, address: IPv4Address, answer: asyncio.Future[bytes]
) -> None:
    while not answer.done():
        try:
            frame, origin = listener.recvfrom(128)
        except BlockingIOError:
            return
        except OSError as error:
            answer.set_exception(_translate(error, ifname))
            return
        if origin[2] == socket.PACKET_OUTGOING:  # type: ignore[attr-defined, unused-ignore]
            continue
        packet = parse_arp(frame)
        if packet is not None and packet.sender == address and packet.sender_mac != mac:
            answer.set_result(packet.sender_mac)


def _frame(source_mac: bytes, packet: ArpPacket, *, to: bytes = BROADCAST_MAC) -> bytes:
    return _FRAME.pack(
        to,
        source_mac,
        ETH_P_ARP,
        _HARDWARE_ETHERNET,
        _ETH_P_IP,
        6,
        4,
        packet.operation,
        packet.sender_mac,
        packet.sender.packed,
        packet.target_mac,
        packet.target.packed,
    )


def _resolve_index(interface: str | int) -> int:
    """An interface made anew under the same name has another index, so the name is looked up at each use."""
    if isinstance(interface, int):
        return interface
    try:
        return socket.if_nametoindex(interface)
    except OSError as error:
        # The C library does not say which of the two it is.
        raise TransientError(f"interface {interface}: absent, or no file is left to look for it") from error


def _open_packet_socket(ifindex: int, protocol: int) -> socket.socket:
    try:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    except PermissionError as error:
        raise OperatorError("ARP: the process needs CAP_NET_RAW to announce floating IPs") from error
    try:
        opened.bind((socket.if_indextoname(ifindex), protocol))
    except OSError:
        opened.close()
        raise
    return opened


def _translate(error: OSError, interface: str | int) -> Exception:
    if error.errno in (*_INTERFACE_GONE, *_INTERFACE_BUSY, *_NO_SOCKET):
        return TransientError(f"interface {interface}: {error.strerror}")
    return error
