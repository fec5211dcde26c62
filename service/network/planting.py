"""Connections that connection tracking has forgotten while their flows live, planted anew (rule B3). Pure.

The next reply of such a flow begins a connection in its eyes, and NetworkPolicy may keep it from a pod that nobody may
connect to. Netfilter logs such a packet; what it says is enough to make the entry as it was, as the pod's.
"""

import socket
import struct
from typing import NamedTuple

REPLY_BYTES = 60 + 8
"""Of a packet: the longest IP header, and ports or the id."""


class Planted(NamedTuple):
    """A connection by the reply that was seen of it: the pod's side comes first. ICMP: the id, and no remote port."""

    protocol: int
    pod: bytes
    remote: bytes
    port: int
    remote_port: int


def parse_reply(packet: bytes) -> Planted | None:
    """None of what is no first fragment of TCP, UDP or an echo reply."""
    if len(packet) < 28 or packet[0] >> 4 != 4:
        return None
    at = (packet[0] & 0x0F) * 4
    (fragment,) = struct.unpack_from(">H", packet, 6)
    if fragment & 0x1FFF or len(packet) < at + 8:
        return None
    protocol, remote, pod = packet[9], packet[12:16], packet[16:20]
    if protocol == socket.IPPROTO_ICMP:
        (identifier,) = struct.unpack_from(">H", packet, at + 4)
        return Planted(protocol, pod, remote, identifier, 0) if packet[at] == 0 else None
    if protocol not in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
        return None
    remote_port, port = struct.unpack_from(">HH", packet, at)
    return Planted(protocol, pod, remote, port, remote_port)
