"""What goes through gossip comes out as it was, and what others send is not trusted to be well-formed."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gateway import row
from service.gateway.row import DROPPING_MAX, OWN_ADDRESSES_MAX, MemberMetadata, decode_metadata, encode_metadata
from service.model.assignment import Assignment, Location
from service.model.errors import PeerError
from service.model.gateway_node import Hearing, NodeRole, Segment
from service.model.lease import COUNTER_MAX, Stamp, Token

FLOATING_IP = IPv4Address("192.168.1.100")
SEGMENT = Segment(IPv4Network("192.168.1.0/24"), IPv4Address("192.168.1.21"), b"\2\0\0\0\0\1")


def test_metadata_survives_the_wire() -> None:
    metadata = MemberMetadata(NodeRole.WORKER, True, False, (SEGMENT,), "1.2.3", 2**63 + 1)
    assert row.decode_metadata(row.encode_metadata(metadata)) == metadata


def test_metadata_of_a_node_with_several_segments_fits_the_gossip_cap() -> None:
    metadata = MemberMetadata(NodeRole.CONTROL_PLANE, True, True, (SEGMENT,) * 8, "10.20.30-rc1", 2**64 - 1)
    assert len(row.encode_metadata(metadata)) <= 512


def test_interfaces_travel_with_segments_and_a_member_without_them_is_understood() -> None:
    named = replace(SEGMENT, interface="bond0.100")
    metadata = MemberMetadata(NodeRole.WORKER, True, True, (named, SEGMENT), "1.2.3", 5)
    data = row.encode_metadata(metadata)
    assert row.decode_metadata(data) == metadata
    former = msgspec.msgpack.decode(data)[:6]
    understood = row.decode_metadata(msgspec.msgpack.encode(former))
    assert understood.segments == (SEGMENT, SEGMENT)


def test_o2_labels_of_a_node_travel_and_a_member_of_a_release_without_them_has_none() -> None:
    metadata = MemberMetadata(NodeRole.WORKER, True, True, (SEGMENT,), "1.2.3", 5, labels=(("rack", "a"), ("zone", "")))
    assert decode_metadata(encode_metadata(metadata)) == metadata
    *former, _, _ = msgspec.msgpack.decode(encode_metadata(metadata))
    assert decode_metadata(msgspec.msgpack.encode(former)) == replace(metadata, labels=())


def test_n2_the_cni_beside_which_a_node_does_nothing_travels() -> None:
    metadata = MemberMetadata(NodeRole.WORKER, False, True, (SEGMENT,), "1.2.3", 5, unsupported_cni="Cilium")
    assert decode_metadata(encode_metadata(metadata)) == metadata
    *former, _ = msgspec.msgpack.decode(encode_metadata(metadata))
    assert decode_metadata(msgspec.msgpack.encode(former)) == replace(metadata, unsupported_cni="")


def test_what_a_node_hears_travels_with_its_segments() -> None:
    heard = tuple(replace(SEGMENT, hearing=hearing) for hearing in Hearing)
    metadata = MemberMetadata(NodeRole.WORKER, True, True, heard, "1.2.3", 5)
    assert decode_metadata(encode_metadata(metadata)) == metadata
    *former, _, _, _, _, _, _, _, _ = msgspec.msgpack.decode(encode_metadata(metadata))
    assert {segment.hearing for segment in decode_metadata(msgspec.msgpack.encode(former)).segments} == {Hearing(0)}
    with pytest.raises(PeerError, match="worker9"):
        decode_metadata(msgspec.msgpack.encode([*former, [9, 9, 9, 9]]), member="worker9")


def test_u1_a_member_of_a_release_that_translates_at_the_gateway_is_known_by_its_silence() -> None:
    metadata = MemberMetadata(NodeRole.WORKER, True, True, (SEGMENT,), "1.2.3", 5)
    *former, _, _, _, _, _, _, _ = msgspec.msgpack.decode(encode_metadata(metadata))
    assert decode_metadata(encode_metadata(metadata)).translates
    assert not decode_metadata(msgspec.msgpack.encode(former)).translates


def test_an_assignment_survives_the_wire_with_its_stamp() -> None:
    assignment = Assignment(FLOATING_IP, "worker1", "worker2", Stamp(4, 9))
    assert row.decode_assignment(str(FLOATING_IP), (4, 9, 0), row.encode_assignment(assignment)) == assignment


def test_a_removed_floating_ip_is_no_assignment() -> None:
    assignment = Assignment(FLOATING_IP, "worker1", None, Stamp(4, 9))
    assert row.decode_assignment(str(FLOATING_IP), (4, 9, 0), row.encode_assignment(assignment, removed=True)) is None


def test_a_location_carries_the_token_as_its_version() -> None:
    found = row.decode_location(str(FLOATING_IP), (4, 9, 2), b"worker1")
    assert found == Location(FLOATING_IP, "worker1", Token(4, 9, 2))


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x93\xa1x\xc3\xc3", b"not msgpack"])
def test_malformed_rows_are_refused(data: bytes) -> None:
    with pytest.raises(PeerError):
        row.decode_metadata(data)
    with pytest.raises(PeerError):
        row.decode_assignment(str(FLOATING_IP), (1, 1, 0), data)


def test_a_row_for_something_that_is_no_address_is_refused() -> None:
    with pytest.raises(PeerError):
        row.decode_location("leader", (1, 0, 0), b"worker1")


def test_the_end_of_a_location_is_above_its_tokens_and_below_those_of_the_next_assignment() -> None:
    ended = row.ended_location((4, 9, 2))
    assert (4, 9, COUNTER_MAX) < ended < (4, 10, 1)
    assert row.decode_location(str(FLOATING_IP), ended, b"") is None
    row.check(row.LOCATION_TABLE, str(FLOATING_IP), ended, b"")


def test_the_end_of_a_location_that_another_token_could_not_supersede_is_refused() -> None:
    for version in ((4, 9, 3 * COUNTER_MAX), (2**24, 9, COUNTER_MAX + 1)):
        with pytest.raises(PeerError):
            row.check(row.LOCATION_TABLE, str(FLOATING_IP), version, b"")


clocks = st.integers(0, 2**31)


@given(clocks, clocks, clocks)
def test_a_conflict_is_superseded_by_who_has_heard_of_it_whatever_the_clocks_say(
    first: int, second: int, third: int
) -> None:
    seen = row.conflict_version(None, "worker1", at_s=first)
    gone = row.conflict_version(seen, "worker2", at_s=second)
    again = row.conflict_version(gone, "worker1", at_s=third)
    assert seen < gone < again


@given(clocks)
def test_two_nodes_that_have_not_heard_of_each_other_never_say_two_things_under_one_version(at_s: int) -> None:
    versions = {row.conflict_version(None, f"worker{index}", at_s=at_s) for index in range(50)}
    assert len(versions) == 50


def test_a_table_of_a_later_release_is_let_through() -> None:
    row.check("later", "anything", (1, 2, 3), b"\xff")


def test_floating_ips_on_interfaces_survive_the_trip_up_to_their_bound() -> None:
    own = tuple(IPv4Address(f"192.168.1.{number}") for number in range(1, OWN_ADDRESSES_MAX + 2))
    metadata = MemberMetadata(NodeRole.CONTROL_PLANE, True, True, (SEGMENT,) * 8, "1.2.3", 2**64 - 1, own)
    data = encode_metadata(metadata)
    assert decode_metadata(data).own_addresses == own[:-1]
    assert len(data) <= 512


ADDRESSES = tuple(IPv4Address(f"192.168.1.{number}") for number in range(1, DROPPING_MAX + 2))
DROPPING = ("unrouted", "over_quota", "out_of_ports")


@pytest.mark.parametrize("name", DROPPING)
def test_h1_b4_q4_floating_ips_that_a_node_drops_for_survive_the_trip_up_to_their_bound(name: str) -> None:
    metadata = replace(MemberMetadata(NodeRole.WORKER, True, True, (SEGMENT,), "1.2.3", 5), **{name: ADDRESSES})
    decoded = decode_metadata(encode_metadata(metadata))
    assert decoded == replace(metadata, **{name: ADDRESSES[:-1]})
    assert row.fitting(metadata, 512) == metadata


def test_h1_b4_q4_a_member_of_a_release_that_says_nothing_of_what_it_drops_drops_nothing() -> None:
    metadata = MemberMetadata(NodeRole.WORKER, True, True, (SEGMENT,), "1.2.3", 5)
    fields = msgspec.msgpack.decode(encode_metadata(replace(metadata, **dict.fromkeys(DROPPING, ADDRESSES))))
    assert decode_metadata(msgspec.msgpack.encode(fields[: -len(DROPPING) - 2])) == metadata
    later = decode_metadata(msgspec.msgpack.encode([*fields, ["of a later release"]]))
    assert (later.unrouted, later.over_quota, later.out_of_ports) == (ADDRESSES[:-1],) * 3


def test_h1_b4_q4_floating_ips_that_a_node_drops_for_cost_no_segment_its_place_and_the_gravest_go_last() -> None:
    named = dict.fromkeys(DROPPING, ADDRESSES)
    metadata = MemberMetadata(NodeRole.WORKER, True, True, (SEGMENT,), "1.2.3", 5)
    many = replace(metadata, segments=(replace(SEGMENT, interface="enp3s0f0np0"),) * 40)
    assert row.fitting(replace(many, **named), 512) == row.fitting(many, 512)
    full = len(encode_metadata(replace(metadata, **named)))
    assert row.fitting(replace(metadata, **named), full - 1) == replace(
        metadata, unrouted=ADDRESSES, over_quota=ADDRESSES
    )
    least = len(encode_metadata(replace(metadata, unrouted=ADDRESSES)))
    assert row.fitting(replace(metadata, **named), least) == replace(metadata, unrouted=ADDRESSES)


@pytest.mark.parametrize("mac", [b"", b"\2\0\0\0\0", b"\2\0\0\0\0\1\2", b"x" * 300])
def test_a_segment_whose_mac_is_none_is_refused(mac: bytes) -> None:
    """It would be compared with what is heard on the segment, and written into maps of six bytes."""
    segment = replace(SEGMENT, mac=mac)
    with pytest.raises(PeerError):
        row.decode_metadata(
            row.encode_metadata(
                replace(MemberMetadata(NodeRole.WORKER, True, True, (), "1.2.3", 5), segments=(segment,))
            )
        )
