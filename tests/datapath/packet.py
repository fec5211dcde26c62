"""Frames as bytes: builders with right checksums and a reader that computes every checksum again.

Written from the RFCs (791, 792, 768, 9293, 826, 1071) without a packet library, so that nothing here shares a mistake
with the datapath.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD
ICMP, TCP, UDP, SCTP = 1, 6, 17, 132
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
MORE_FRAGMENTS, DONT_FRAGMENT = 0x2000, 0x4000
BROADCAST = b"\xff" * 6
ETHERNET_BYTES = 14
SEQUENCE, ACKED = 1000, 2000
VLAN, QINQ = 0x8100, 0x88A8
ECHO_REPLY, UNREACHABLE, REDIRECT, ECHO_REQUEST, TIME_EXCEEDED = 0, 3, 5, 8, 11


def ones_complement_sum(data: bytes) -> int:
    """The 16-bit one's complement sum of RFC 1071; 0xffff over data that contains its own right checksum."""
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum(data: bytes) -> int:
    return ones_complement_sum(data) ^ 0xFFFF


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ethernet(destination: bytes, source: bytes, kind: int, payload: bytes) -> bytes:
    return destination + source + kind.to_bytes(2, "big") + payload


def tagged(frame: bytes, *tags: tuple[int, int]) -> bytes:
    """The frame behind VLAN tags: (type, VLAN), the outermost first."""
    return frame[:12] + b"".join(struct.pack(">HH", *tag) for tag in tags) + frame[12:]


def ipv4(
    source: IPv4Address,
    destination: IPv4Address,
    protocol: int,
    payload: bytes,
    *,
    ttl: int = 64,
    fragment: int = DONT_FRAGMENT,
    options: bytes = b"",
    identification: int = 0x1234,
) -> bytes:
    """`fragment` is the whole flags and offset field; `options` a multiple of four bytes."""
    words = 5 + len(options) // 4
    header = struct.pack(
        ">BBHHHBBH4s4s",
        0x40 | words,
        0,
        words * 4 + len(payload),
        identification,
        fragment,
        ttl,
        protocol,
        0,
        source.packed,
        destination.packed,
    )
    header += options
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + payload


def _pseudo_header(source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    return source + destination + struct.pack(">BBH", 0, protocol, length)


def tcp(
    source: IPv4Address,
    destination: IPv4Address,
    ports: tuple[int, int],
    flags: int = SYN,
    payload: bytes = b"",
    *,
    sequence: int = SEQUENCE,
    acked: int = ACKED,
) -> bytes:
    segment = struct.pack(">HHIIBBHHH", *ports, sequence, acked, 5 << 4, flags, 65535, 0, 0) + payload
    pseudo = _pseudo_header(source.packed, destination.packed, TCP, len(segment))
    return segment[:16] + checksum(pseudo + segment).to_bytes(2, "big") + segment[18:]


def udp(
    source: IPv4Address,
    destination: IPv4Address,
    ports: tuple[int, int],
    payload: bytes = b"datagram",
    *,
    has_checksum: bool = True,
) -> bytes:
    datagram = struct.pack(">HHHH", *ports, 8 + len(payload), 0) + payload
    if not has_checksum:
        return datagram
    pseudo = _pseudo_header(source.packed, destination.packed, UDP, len(datagram))
    # RFC 768: a checksum of zero is sent as all ones, zero means there is none.
    value = checksum(pseudo + datagram) or 0xFFFF
    return datagram[:6] + value.to_bytes(2, "big") + datagram[8:]


def icmp(kind: int, code: int, rest: bytes, payload: bytes = b"") -> bytes:
    """`rest` is the second word of the header: id and sequence, or the next hop's MTU."""
    message = struct.pack(">BBH", kind, code, 0) + rest + payload
    return message[:2] + checksum(message).to_bytes(2, "big") + message[4:]


def echo(kind: int, identifier: int, payload: bytes = b"are you there?") -> bytes:
    return icmp(kind, 0, struct.pack(">HH", identifier, 1), payload)


def arp(operation: int, sender_mac: bytes, sender_ip: IPv4Address, target_mac: bytes, target_ip: IPv4Address) -> bytes:
    fixed = struct.pack(">HHBBH", 1, IPV4, 6, 4, operation)
    return fixed + sender_mac + sender_ip.packed + target_mac + target_ip.packed


@dataclass(frozen=True, slots=True)
class Datagram:
    """An IPv4 packet, read. Ports of ICMP echo: (id, 0)."""

    source: IPv4Address
    destination: IPv4Address
    ttl: int
    protocol: int
    header: bytes
    l4: bytes

    @property
    def ports(self) -> tuple[int, int]:
        if self.protocol == ICMP:
            return int.from_bytes(self.l4[4:6], "big"), 0
        return struct.unpack_from(">HH", self.l4)

    @property
    def icmp_type(self) -> int:
        return self.l4[0]

    @property
    def l4_checksum(self) -> int:
        at = {ICMP: 2, TCP: 16, UDP: 6}[self.protocol]
        return int.from_bytes(self.l4[at : at + 2], "big")

    @property
    def payload(self) -> bytes:
        return self.l4[{ICMP: 8, TCP: 20, UDP: 8}[self.protocol] :]

    @property
    def quoted(self) -> "Datagram":
        """The packet an ICMP error is about; its transport header may be cut after 8 bytes."""
        return read_ipv4(self.l4[8:])

    def is_header_sound(self) -> bool:
        return ones_complement_sum(self.header) == 0xFFFF

    def is_sound(self) -> bool:
        """Whether the IP checksum and the transport one are right."""
        if not self.is_header_sound():
            return False
        if self.protocol == ICMP:
            return ones_complement_sum(self.l4) == 0xFFFF
        if self.protocol == UDP and self.l4_checksum == 0:
            return True
        pseudo = _pseudo_header(self.source.packed, self.destination.packed, self.protocol, len(self.l4))
        return ones_complement_sum(pseudo + self.l4) == 0xFFFF


@dataclass(frozen=True, slots=True)
class ArpMessage:
    operation: int
    sender_mac: bytes
    sender_ip: IPv4Address
    target_mac: bytes
    target_ip: IPv4Address


@dataclass(frozen=True, slots=True)
class Frame:
    destination: bytes
    source: bytes
    kind: int
    payload: bytes

    @property
    def ip(self) -> Datagram:
        assert self.kind == IPV4
        return read_ipv4(self.payload)

    @property
    def arp(self) -> ArpMessage:
        assert self.kind == ARP
        operation, sender_mac, sender_ip, target_mac, target_ip = struct.unpack_from(">6xH6s4s6s4s", self.payload)
        return ArpMessage(operation, sender_mac, IPv4Address(sender_ip), target_mac, IPv4Address(target_ip))


def read_ipv4(data: bytes) -> Datagram:
    header = data[: (data[0] & 0x0F) * 4]
    source, destination = IPv4Address(data[12:16]), IPv4Address(data[16:20])
    length = int.from_bytes(data[2:4], "big")
    return Datagram(source, destination, data[8], data[9], header, data[len(header) : length])


def read(frame: bytes) -> Frame:
    return Frame(frame[:6], frame[6:12], int.from_bytes(frame[12:14], "big"), frame[14:])
