from ipaddress import IPv4Address

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gossip import message as wire
from service.model.errors import PeerError

U63_MAX = 2**63 - 1
RECORD = wire.Record("m1", "10.0.0.1", 9640, 7, wire.ALIVE, 0, b"metadata")
ROW = wire.TableRow("location", "10.0.0.100", (1, 2, 3), b"m1")
EXAMPLES: list[wire.Message] = [
    wire.Ping(1, "m1", 2),
    wire.Ping(1, "", 2),
    wire.Ack(1, 2),
    wire.Nack(1),
    wire.PingRequest(1, "m1", "10.0.0.1", 9640),
    wire.Suspect("m1", 7, "m2"),
    RECORD,
    ROW,
    wire.Range(0, U63_MAX, 5),
    wire.Digest(0, U63_MAX, ((1, 2, 3, 4),)),
    wire.Want((1, 2)),
    wire.Delta((RECORD,), (ROW,)),
]


def packet(*messages: object, version: int = 1) -> bytes:
    return msgspec.msgpack.encode([version, version, version, list(messages)])


def test_every_kind_survives_the_wire() -> None:
    payload = wire.encode_packet([wire.encode_message(example) for example in EXAMPLES])
    assert wire.decode_packet(payload) == (EXAMPLES, 0, 0)
    assert {type(example).__struct_config__.tag for example in EXAMPLES} == wire.KINDS


@pytest.mark.parametrize("host", ["0.0.0.0", "9.10.99.100", "199.200.249.250", "255.255.255.255"])
def test_every_octet_can_be_written(host: str) -> None:
    record = wire.Record("m1", host, 9640, 7, wire.ALIVE, 0, b"")
    assert wire.decode_packet(wire.encode_packet([wire.encode_message(record)]))[0] == [record]


def test_unknown_kinds_are_skipped_and_counted() -> None:
    messages, unknown, _ = wire.decode_packet(packet([99, "future", {"a": 1}], [3, 5], [100]))
    assert messages == [wire.Nack(5)]
    assert unknown == 2


def test_fields_appended_by_a_later_release_are_ignored() -> None:
    assert wire.decode_packet(packet([3, 5, "more", [1]]))[0] == [wire.Nack(5)]


def test_a_version_outside_the_range_is_refused_and_names_both_ranges() -> None:
    with pytest.raises(PeerError, match=r"protocol version 2 \(peer reads 2-2\), this member reads 1-1"):
        wire.decode_packet(packet([3, 5], version=2))


@pytest.mark.parametrize(
    "bad",
    [
        [3],
        [3, -1],
        [3, "5"],
        [],
        ["3", 5],
        [True, 5],
        5,
        [6, "", "10.0.0.1", 9640, 7, 0, 0, b""],
        [6, "m" * 64, "10.0.0.1", 9640, 7, 0, 0, b""],
        [6, "M1", "10.0.0.1", 9640, 7, 0, 0, b""],
        [6, "m1\n", "10.0.0.1", 9640, 7, 0, 0, b""],
        [6, "m\x1b[2J1", "10.0.0.1", 9640, 7, 0, 0, b""],
        [6, "\u00e4" * 40, "10.0.0.1", 9640, 7, 0, 0, b""],
        [5, "m1", 7, "m 2"],
        [4, 1, "-", "10.0.0.1", 9640],
        [1, 1, "m 1", 2],
        [6, "m1", "10.0.0.256", 9640, 7, 0, 0, b""],
        [6, "m1", "10.0.0.1\n", 9640, 7, 0, 0, b""],
        [6, "m1", "10.0.0.010", 9640, 7, 0, 0, b""],
        [6, "m1", "00.0.0.1", 9640, 7, 0, 0, b""],
        [6, "m1", "example.org", 9640, 7, 0, 0, b""],
        [6, "m1", "10.0.0.1", 0, 7, 0, 0, b""],
        [6, "m1", "10.0.0.1", 9640, 2**63, 0, 0, b""],
        [6, "m1", "10.0.0.1", 9640, 7, 3, 0, b""],
        [6, "m1", "10.0.0.1", 9640, 7, 0, 0, b"x" * 513],
        [7, "t", "k", [1, 2], b""],
        [7, "t", "k", [1, 2, 3], b"x" * 513],
        [9, 0, 1, [[1, 2, 3]]],
    ],
)
def test_malformed_messages_are_the_peers_error(bad: object) -> None:
    with pytest.raises(PeerError, match="gossip: malformed message"):
        wire.decode_packet(packet([3, 5], bad))


NOTHING = "gossip: malformed"
ANOTHER_VERSION = "gossip: protocol version"


def decoded(payload: bytes) -> list[wire.Message]:
    """The messages; none where it is refused, for a reason that says which of the two it is."""
    try:
        messages, unknown, _ = wire.decode_packet(payload)
    except PeerError as error:
        reason = str(error)
    else:
        assert unknown >= 0
        return messages
    assert reason.startswith((NOTHING, ANOTHER_VERSION))
    return []


def assert_is_sound(message: wire.Message) -> None:
    """A message that got through is one we could have sent: encoded again it is the same, within all bounds."""
    again, unknown, _ = wire.decode_packet(wire.encode_packet([wire.encode_message(message)]))
    assert (again, unknown) == ([message], 0)
    records = message.records if isinstance(message, wire.Delta) else (message,)
    for record in records:
        if isinstance(record, wire.Record):
            assert str(IPv4Address(record.host)) == record.host
            assert 1 <= record.port <= 65535
            assert len(record.metadata) <= wire.METADATA_BYTES_MAX


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_with_a_reason_or_decode_to_sound_messages(payload: bytes) -> None:
    for message in decoded(payload):
        assert_is_sound(message)


@given(st.data())
def test_a_damaged_datagram_is_refused_with_a_reason_or_decodes_to_sound_messages(data: st.DataObject) -> None:
    payload = bytearray(wire.encode_packet([wire.encode_message(example) for example in EXAMPLES]))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    for message in decoded(bytes(payload)):
        assert_is_sound(message)


@given(st.integers(0, 400))
def test_a_datagram_cut_short_is_refused_as_a_whole(length: int) -> None:
    payload = wire.encode_packet([wire.encode_message(example) for example in EXAMPLES])
    with pytest.raises(PeerError, match=NOTHING):
        wire.decode_packet(payload[: min(length, len(payload) - 1)])


def test_deeply_nested_input_is_the_peers_error() -> None:
    with pytest.raises(PeerError, match=NOTHING):
        wire.decode_packet(b"\x94\x01\x01\x01\x91" + b"\x91" * 5000)


def test_the_largest_digest_fits_a_datagram() -> None:
    entry = (U63_MAX, U63_MAX, U63_MAX, U63_MAX)
    digest = wire.Digest(U63_MAX, U63_MAX, (entry,) * wire.DIGEST_ENTRIES_MAX)
    assert len(wire.encode_packet([wire.encode_message(digest)])) <= 1250


def test_the_largest_record_and_row_fit_a_datagram_together_with_nothing_else() -> None:
    record = wire.Record("m" * 63, "255.255.255.255", 65535, U63_MAX, wire.DEAD, 2**32 - 1, b"x" * 512)
    row = wire.TableRow("t" * 32, "k" * 64, (U63_MAX, U63_MAX, U63_MAX), b"x" * 512)
    for message in (record, row):
        assert len(wire.encode_packet([wire.encode_message(message)])) <= 1250 - 64


def test_an_idle_probe_is_small() -> None:
    assert len(wire.encode_packet([wire.encode_message(wire.Ping(2**32 - 1, "worker-12", 2**32 - 1))])) <= 32
