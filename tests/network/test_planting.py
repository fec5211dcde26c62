"""What a logged reply says of the connection that was forgotten."""

from ipaddress import IPv4Address

import pytest

from service.network.planting import REPLY_BYTES, Planted, parse_reply
from tests.datapath import packet
from tests.datapath.packet import ACK, ICMP, TCP, UDP

POD, SERVER = IPv4Address("10.244.1.10"), IPv4Address("203.0.113.7")


def reply(protocol: int, payload: bytes, *, options: bytes = b"") -> bytes:
    return packet.ipv4(SERVER, POD, protocol, payload, options=options)[:REPLY_BYTES]


@pytest.mark.parametrize("options", [b"", bytes(40)])
def test_a_reply_names_both_ends(options: bytes) -> None:
    ends = POD.packed, SERVER.packed
    segment = packet.tcp(SERVER, POD, (443, 40000), ACK, b"push")
    assert parse_reply(reply(TCP, segment, options=options)) == Planted(TCP, *ends, 40000, 443)
    datagram = packet.udp(SERVER, POD, (53, 40000))
    assert parse_reply(reply(UDP, datagram, options=options)) == Planted(UDP, *ends, 40000, 53)
    echo = packet.echo(packet.ECHO_REPLY, 77)
    assert parse_reply(reply(ICMP, echo, options=options)) == Planted(ICMP, *ends, 77, 0)


def test_what_is_no_reply_of_a_flow_is_nothing() -> None:
    segment = packet.tcp(SERVER, POD, (443, 40000), ACK, b"push")
    whole = reply(TCP, segment)
    later = whole[:6] + b"\x00\x10" + whole[8:]
    for data in (b"", whole[:20], whole[:27], b"\x60" + whole[1:], later, reply(47, segment)):
        assert parse_reply(data) is None
    assert parse_reply(reply(ICMP, packet.echo(packet.ECHO_REQUEST, 77))) is None
