"""Frames by which agents ask over the data path (rule X1)."""

import re
from ipaddress import IPv4Address
from pathlib import Path

from service.network.path_probe import PROBE_OUTSIDE, SOURCE_PORTS, probe_frame
from tests.datapath import packet

FLOATING_IP = IPv4Address("192.168.1.100")
MACS = packet.mac("02:00:00:00:00:01"), packet.mac("02:00:00:00:00:02")


def test_a_question_looks_like_a_packet_of_a_pod_that_nobody_may_cut() -> None:
    frame = packet.read(probe_frame(MACS, (FLOATING_IP, PROBE_OUTSIDE), 9645, 7, b"sealed"))
    assert (frame.source, frame.destination) == MACS
    assert (frame.ip.source, frame.ip.destination, frame.ip.protocol) == (FLOATING_IP, PROBE_OUTSIDE, packet.UDP)
    assert (frame.ip.ports[1], frame.ip.payload) == (9645, b"sealed")
    assert frame.ip.is_sound()
    assert int.from_bytes(frame.ip.header[6:8], "big") == packet.DONT_FRAGMENT


def test_each_has_another_source_port_so_that_every_link_of_a_bond_is_shown() -> None:
    frames = (probe_frame(MACS, (FLOATING_IP, PROBE_OUTSIDE), 9645, sequence, b"") for sequence in range(70_000))
    ports = {packet.read(frame).ip.ports[0] for frame in frames}
    assert ports == set(SOURCE_PORTS)


def test_the_programs_know_the_address_that_plays_the_outside() -> None:
    text = (Path(__file__).parents[2] / "bpf" / "layout.h").read_text(encoding="ascii")
    [number] = re.findall(r"#define PROBE_OUTSIDE (0x[0-9a-f]+)", text)
    assert IPv4Address(int(number, 16)) == PROBE_OUTSIDE
