"""Rows of floating IPs that move on purpose (rule R4): the Python side of bpf/layout.h."""

import struct


def handover_value(token: int, since_ns: int) -> bytes:
    """A tenure that ends on purpose, and since when (CLOCK_BOOTTIME; rule R4)."""
    return struct.pack("=QQ", token, since_ns)


def parse_handover(value: bytes) -> tuple[int, int]:
    """(packed token, since)."""
    token, since_ns = struct.unpack("=QQ", value)
    return token, since_ns


def handover_device_value(ifindex: int, mac: bytes) -> bytes:
    """Where packets wait for a successor (rule R4)."""
    return struct.pack("=I6s2x", ifindex, mac)
