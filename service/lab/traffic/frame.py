"""Frames as the capture keeps them: fixed-size records of what the leak check needs, and the file they are kept in."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import BinaryIO

from service.model.errors import OperatorError

ETH_IPV4, ETH_ARP = 0x0800, 0x0806
UDP = 17
MAGIC = b"EGWCAP1\n"
_HEADER = struct.Struct("!6s6sH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")
# time, port index, ethertype, source and destination MAC, source and destination IP, protocol, ARP operation,
# encapsulated, source and destination port
_RECORD = struct.Struct("<QHH6s6s4s4sBBB1xHH")


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame that entered the fabric by a bridge port, from whatever is behind it."""

    time_ns: int
    """CLOCK_BOOTTIME."""
    port: str
    """Bridge port, such as `worker1-0`."""
    source_mac: bytes
    destination_mac: bytes
    ethertype: int
    source: IPv4Address
    """IP source, or ARP sender; of a VXLAN packet the source of the inner one."""
    destination: IPv4Address
    """IP destination, or ARP target; of a VXLAN packet the destination of the inner one."""
    protocol: int = 0
    arp_operation: int = 0
    encapsulated: bool = False
    source_port: int = 0
    destination_port: int = 0

    def __str__(self) -> str:
        what = f"ARP {self.arp_operation}" if self.ethertype == ETH_ARP else f"proto {self.protocol}"
        inner = " (in VXLAN)" if self.encapsulated else ""
        return (
            f"{self.port} {self.source_mac.hex(':')} > {self.destination_mac.hex(':')} {what} "
            f"{self.source}:{self.source_port} > {self.destination}:{self.destination_port}{inner}"
        )


def pack_frame(data: bytes, *, time_ns: int, port_index: int, vxlan_port: int) -> bytes | None:
    """The record of a raw Ethernet frame; None for what is neither IPv4 nor ARP for IPv4, or is cut short."""
    if len(data) < _HEADER.size:
        return None
    destination_mac, source_mac, ethertype = _HEADER.unpack_from(data)
    if ethertype == ETH_ARP:
        fields = _arp_fields(data)
    elif ethertype == ETH_IPV4:
        fields = _ipv4_fields(data, vxlan_port)
    else:
        fields = None
    return fields and _RECORD.pack(time_ns, port_index, ethertype, source_mac, destination_mac, *fields)


_Fields = tuple[bytes, bytes, int, int, bool, int, int]
"""The rest of a record, from the source IP on."""


def _arp_fields(data: bytes) -> _Fields | None:
    if len(data) < _HEADER.size + _ARP.size:
        return None
    _, _, _, _, operation, _, sender, _, target = _ARP.unpack_from(data, _HEADER.size)
    return sender, target, 0, operation & 0xFF, False, 0, 0


def _ipv4_fields(data: bytes, vxlan_port: int) -> _Fields | None:
    """Of a VXLAN packet those of the packet it carries, for that is what the leak check judges."""
    packet = _parse_ipv4(data, _HEADER.size)
    if packet is None:
        return None
    source, destination, protocol, source_port, destination_port, payload = packet
    if protocol == UDP and destination_port == vxlan_port:
        # Outer UDP 8, VXLAN 8, inner Ethernet 14.
        inner = _parse_ipv4(data, payload + 30)
        if inner is not None:
            source, destination, protocol, source_port, destination_port, _ = inner
            return source, destination, protocol, 0, True, source_port, destination_port
    return source, destination, protocol, 0, False, source_port, destination_port


def _parse_ipv4(data: bytes, offset: int) -> tuple[bytes, bytes, int, int, int, int] | None:
    """(source, destination, protocol, ports, offset of the payload); ports 0 in later fragments and without ports."""
    if len(data) < offset + 20 or data[offset] >> 4 != 4:
        return None
    payload = offset + (data[offset] & 0x0F) * 4
    protocol = data[offset + 9]
    (fragment,) = struct.unpack_from("!H", data, offset + 6)
    ports = (0, 0)
    if protocol in (6, 17, 132) and not fragment & 0x1FFF and len(data) >= payload + 4:
        ports = struct.unpack_from("!HH", data, payload)
    return data[offset + 12 : offset + 16], data[offset + 16 : offset + 20], protocol, *ports, payload


def write_header(file: BinaryIO, ports: list[str]) -> None:
    """Before the first record: the names that their port indices stand for."""
    names = json.dumps(ports).encode()
    file.write(MAGIC + struct.pack("<I", len(names)) + names)


def read_frames(path: Path) -> Iterator[Frame]:
    """Read a capture, also one still being written (a record cut short at its end is left out).

    Raises OperatorError where the file is no capture.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise OperatorError(f"{path} is not a capture of the lab")
        (length,) = struct.unpack("<I", file.read(4))
        ports: list[str] = json.loads(file.read(length))
        while chunk := file.read(_RECORD.size * 4096):
            for start in range(0, len(chunk) - _RECORD.size + 1, _RECORD.size):
                yield _unpack(chunk, start, ports)


def _unpack(chunk: bytes, start: int, ports: list[str]) -> Frame:
    fields = _RECORD.unpack_from(chunk, start)
    return Frame(
        time_ns=fields[0],
        port=ports[fields[1]],
        ethertype=fields[2],
        source_mac=fields[3],
        destination_mac=fields[4],
        source=IPv4Address(fields[5]),
        destination=IPv4Address(fields[6]),
        protocol=fields[7],
        arp_operation=fields[8],
        encapsulated=bool(fields[9]),
        source_port=fields[10],
        destination_port=fields[11],
    )
