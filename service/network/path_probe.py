"""Frames by which agents ask over the data path: like those of pods, UDP between a floating IP and the outside (X1)."""

import struct
from ipaddress import IPv4Address

PROBE_OUTSIDE = IPv4Address("198.18.0.1")
"""Plays the outside: for benchmarks, and so nobody's (RFC 2544). bpf/layout.h has it too."""
_ETH_P_IP = 0x0800
_ETHERNET = struct.Struct("!6s6sH")
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_UDP = struct.Struct("!HHHH")
_DONT_FRAGMENT = 0x4000
_TTL = 64
_UDP_PROTOCOL = 17
SOURCE_PORTS = range(32768, 61000)
"""Of questions and answers in turn: a bond whose links are chosen by ports shows each of them."""


def probe_frame(
    macs: tuple[bytes, bytes], ends: tuple[IPv4Address, IPv4Address], port: int, sequence: int, payload: bytes
) -> bytes:
    """From the first of each pair to the second. Without a UDP checksum: who takes it in rewrites the addresses, and
    the payload is sealed."""
    source_port = SOURCE_PORTS[sequence % len(SOURCE_PORTS)]
    datagram = _UDP.pack(source_port, port, _UDP.size + len(payload), 0) + payload
    fields = (0x45, 0, _IPV4.size + len(datagram), sequence & 0xFFFF, _DONT_FRAGMENT, _TTL, _UDP_PROTOCOL)
    source, destination = ends
    bare = _IPV4.pack(*fields, 0, source.packed, destination.packed)
    header = _IPV4.pack(*fields, _checksum(bare), source.packed, destination.packed)
    return _ETHERNET.pack(macs[1], macs[0], _ETH_P_IP) + header + datagram


def _checksum(header: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return (total + (total >> 16)) & 0xFFFF ^ 0xFFFF
