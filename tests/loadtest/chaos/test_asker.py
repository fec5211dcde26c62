"""Questions who has an address."""

from ipaddress import IPv4Address

from loadtest.chaos.asker import BEAT_S, questions_for
from loadtest.chaos.judge import OVERLAP_NS
from service.network.arp import parse_arp


def test_each_address_is_asked_for_by_a_host_that_claims_nothing() -> None:
    mac = bytes.fromhex("026567000001")
    packets = [parse_arp(frame) for frame in questions_for(mac, "192.168.1.1", ("192.168.1.100", "192.168.1.101"))]
    assert [str(packet.target) for packet in packets if packet] == ["192.168.1.100", "192.168.1.101"]
    for packet in packets:
        assert packet is not None
        assert (packet.operation, packet.sender_mac, packet.sender) == (1, mac, IPv4Address("192.168.1.1"))


def test_it_asks_several_times_before_a_second_speaker_would_be_taken_for_the_next_one() -> None:
    assert BEAT_S * 1e9 * 3 <= OVERLAP_NS
