import socket
import struct

import pytest

from loadtest.spray import internet_checksum, ipv4_header, syn_packet, udp_packet
from loadtest.station import Station

HERE = "127.0.0.1"


def test_a_syn_has_a_checksum_that_proves_itself() -> None:
    header = ipv4_header("10.0.0.1", "198.51.100.1", socket.IPPROTO_TCP)
    segment = syn_packet(header, 40_000, 443, 7)[20:]
    pseudo = header[12:20] + struct.pack("!HH", socket.IPPROTO_TCP, len(segment))
    # With the checksum in it the sum of all is all ones, whose complement is zero.
    assert internet_checksum(pseudo + segment) == 0
    assert struct.unpack("!HHI", segment[:8]) == (40_000, 443, 7)


def test_a_datagram_bears_its_number() -> None:
    packet = udp_packet(ipv4_header("10.0.0.1", "198.51.100.1", socket.IPPROTO_UDP), 1024, 9, 258)
    assert struct.unpack("!HHHHI", packet[20:]) == (1024, 9, 12, 0, 258)


@pytest.mark.root
def test_the_flows_that_never_came_are_known() -> None:
    with Station(None, "spray") as server, Station(None, "spray") as client:
        server.tell("count", address=HERE, port=29021, flows=103)
        assert server.answer() == {"ready": True}
        sent = client.ask(
            "spray",
            destination=HERE,
            protocols=["udp"],
            source_ports=[20_000, 30],
            ports=[29021, 1],
            flows=100,
            packets=2,
            pace=2000,
        )
        server.end()
        counted = server.answer()
    assert sent["sent"] == 200
    assert sent["elapsed_ns"] >= 45_000_000
    assert counted == {"packets": 200, "missing": [100, 101, 102], "sources": [HERE]}


def test_connections_stand_until_the_word_and_two_processes_may_take_them() -> None:
    with Station(None, "spray") as first, Station(None, "spray") as second, Station(None, "spray") as client:
        for server in (first, second):
            server.tell("accept", address=HERE, port=29022)
            server.answer()
        client.tell("connect", destination=HERE, port=29022, connections=50, duration_s=0.1)
        opened = client.answer()
        assert (opened["at_once"], opened["late"], opened["failed"]) == (50, 0, 0)
        for station in (client, first, second):
            station.end()
        client.answer()
        taken = [server.answer() for server in (first, second)]
    assert sum(answer["accepted"] for answer in taken) == 50
    assert {source for answer in taken for source in answer["sources"]} == {HERE}


def test_a_connection_that_is_refused_has_failed() -> None:
    with Station(None, "spray") as client:
        client.tell("connect", destination=HERE, port=29023, connections=3, duration_s=0.01)
        opened = client.answer()
        assert (opened["at_once"], opened["failed"]) == (0, 3)
        client.end()
