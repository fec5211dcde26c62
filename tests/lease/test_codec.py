"""The bytes of every datagram and record of leases, as they were when first released.

Keepers of two versions run side by side during an upgrade, and a keeper reads what the version before left on disk.
So a change here is a change of `FORMAT`, or of a record's magic number, never a repair of the test.
"""

import pytest

from service.lease.codec import cut
from service.lease.electorate_message import (
    ElectorateMessage,
    Standing,
    Survey,
    Transfer,
    TransferQuery,
    TransferRow,
    decode_electorate_message,
    encode_electorate_message,
)
from service.lease.message import (
    Ack,
    ClaimRole,
    Detail,
    Entry,
    Message,
    Query,
    Renew,
    Report,
    Row,
    Verdict,
    decode,
    encode,
)
from service.lease.promise import Identity, Instant, Promise, encode_promises, encode_tokens
from service.model.errors import PeerError
from service.model.lease import LEADER_KEY, Elector, Electorate, Stamp, Token

BOOT = bytes(range(16))
OTHER_BOOT = bytes(range(16, 32))
A = Elector("node-a", "10.0.0.1", 0x1122334455667788)
B = Elector("node-b", "10.0.0.2", 0)
C = Elector("node-c", "10.0.0.3", 3)
IP, OTHER_IP = "192.0.2.100", "192.0.2.101"
L, R = 300_000_000, 60_000_000

LEASES: dict[str, tuple[Message, str]] = {
    "a renewal with its list": (
        Renew(
            7,
            BOOT,
            1 << 40,
            L,
            R,
            2,
            9,
            (
                Entry(IP, ClaimRole.HOLDER, Token(1, 2, 3), held=True),
                Entry(LEADER_KEY, ClaimRole.STANDING, Token(4, 0, 1)),
                Entry(OTHER_IP, ClaimRole.RELEASED, Token(1, 2, 4)),
            ),
        ),
        "010100000007000102030405060708090a0b0c0d0e0f00000100000000000000000011e1a30000000000039387000200000009"
        "03c0000264820000000100000002000000030000000001000000040000000000000001c000026500000000010000000200000004",
    ),
    "a renewal without": (
        Renew(7, BOOT, 5, L, R, 0, 9, None),
        "010100000007000102030405060708090a0b0c0d0e0f00000000000000050000000011e1a30000000000039387000000000009ff",
    ),
    "an acknowledgement": (
        Ack(
            7,
            0xAABBCCDD,
            5,
            2,
            9,
            False,
            (True, False, True),
            {1: Detail(Verdict.CONTESTED | Verdict.OUTRANKED, Token(1, 2, 9), Stamp(1, 3))},
            settled=False,
        ),
        "02010000000700000000aabbccdd0000000000000005020200000009030501010c0000000100000002000000090000000100000003",
    ),
    "an acknowledgement that needs the list": (
        Ack(7, 1, 5, 0, 9, True, ()),
        "020100000007000000000000000100000000000000050001000000090000",
    ),
    "a query": (Query(7, 11), "030100000007000000000000000b"),
    "a report": (
        Report(
            7,
            11,
            0,
            2,
            True,
            (Row(IP, Token(1, 2, 3), "node-a", 270), Row(OTHER_IP, Token(1, 1, 1), None, 0)),
            settled=False,
        ),
        "040100000007000000000000000b0002030102066e6f64652d61c0000264000000010000000200000003000000010e"
        "c0000265000000010000000100000001ff00000000",
    ),
}
ELECTORATES: dict[str, tuple[ElectorateMessage, str]] = {
    "an electorate": (
        Electorate(8, (A, B), (B, C)),
        "05010000000803010a0000011122334455667788066e6f64652d61030a0000020000000000000000066e6f64652d62"
        "020a0000030000000000000003066e6f64652d63",
    ),
    "a survey": (Survey(7, 12), "060100000007000000000000000c"),
    "a standing": (
        Standing(7, 12, 0x1122334455667788, True, False, True, True),
        "070100000007000000000000000c0d1122334455667788",
    ),
    "a transfer query": (TransferQuery(8, 13), "080100000008000000000000000d"),
    "a transfer": (
        Transfer(
            8,
            13,
            1,
            3,
            True,
            True,
            (
                TransferRow(IP, Token(1, 2, 3), Identity("node-a", BOOT), 299_000_000, 77),
                TransferRow(OTHER_IP, Token(1, 1, 1), None, 0, 0),
                TransferRow(LEADER_KEY, Token(4, 0, 1), Identity("node-c", OTHER_BOOT), 1, 78),
            ),
        ),
        "090100000008000000000000000d00010003030203000102030405060708090a0b0c0d0e0f066e6f64652d61"
        "101112131415161718191a1b1c1d1e1f066e6f64652d63c00002640000000100000002000000030000000011d260c0"
        "000000000000004d00c000026500000001000000010000000100000000000000000000000000000000ff"
        "000000000000000400000000000000010000000000000001000000000000004e01",
    ),
}
PROMISE_RECORD = (
    "0000009145475750524f4d31101112131415161718191a1b1c1d1e1f000000037e11d6000001000000020001020304050607"
    "08090a0b0c0d0e0f066e6f64652d61c00002640000000100000002000000030de0b6b3a76400000000000000000005000000"
    "000000004d000000000000000000040000000000000001000000000000000000000000000000000000000000000000ffffb5"
    "24f803"
)
TOKEN_RECORD = (
    "0000002c454757544f4b4e3100000002c000026400000001000000020000000300000000000000040000000000000001dacd8ad4"
)


@pytest.mark.parametrize("name", LEASES)
def test_a_datagram_of_leases_has_the_bytes_it_always_had(name: str) -> None:
    message, text = LEASES[name]
    assert encode(message).hex() == text
    assert decode(bytes.fromhex(text)) == message


@pytest.mark.parametrize("name", ELECTORATES)
def test_a_datagram_of_the_electorate_has_the_bytes_it_always_had(name: str) -> None:
    message, text = ELECTORATES[name]
    assert encode_electorate_message(message).hex() == text
    assert decode_electorate_message(bytes.fromhex(text)) == message


@pytest.mark.parametrize("name", ELECTORATES)
def test_a_datagram_of_the_electorate_that_is_cut_off_or_too_long_is_refused(name: str) -> None:
    payload = bytes.fromhex(ELECTORATES[name][1])
    for length in range(len(payload)):
        with pytest.raises(PeerError):
            decode_electorate_message(payload[:length])
    with pytest.raises(PeerError, match="trailing bytes"):
        decode_electorate_message(payload + b"\0")


def test_neither_kind_of_datagram_is_taken_for_the_other() -> None:
    with pytest.raises(PeerError, match="SURVEY is not of leases"):
        decode(bytes.fromhex(ELECTORATES["a survey"][1]))
    with pytest.raises(PeerError, match="QUERY is not of the electorate"):
        decode_electorate_message(bytes.fromhex(LEASES["a query"][1]))


@pytest.mark.parametrize("payload", [b"", b"\x01\x01\0\0\0", b"\x01\x02\0\0\0\x07", b"\x63\x01\0\0\0\x07"])
def test_what_is_too_short_or_of_another_format_or_kind_is_refused(payload: bytes) -> None:
    with pytest.raises(PeerError):
        decode(payload)
    with pytest.raises(PeerError):
        decode_electorate_message(payload)


def test_records_have_the_bytes_they_always_had() -> None:
    promises = {
        IP: Promise(Token(1, 2, 3), Identity("node-a", BOOT), Instant(10**18, 5), 77),
        LEADER_KEY: Promise(Token(4, 0, 1)),
    }
    assert encode_promises(OTHER_BOOT, 15 * 10**9, promises).hex() == PROMISE_RECORD
    assert encode_tokens(promises).hex() == TOKEN_RECORD


def test_each_part_of_a_table_pays_for_every_name_that_it_lists_itself() -> None:
    # Rows and names of 4 bytes each: two rows with two names fill a part, wherever the names were listed before.
    rows = [(1, "a"), (2, "b"), (3, "a"), (4, "b"), (5, "a")]
    parts = cut(rows, room=16, row_bytes=4, name_of=lambda row: row[1], name_bytes=lambda name: 4)
    assert [[number for number, _ in part] for part in parts] == [[1, 2], [3, 4], [5]]


def test_a_table_of_nothing_is_one_empty_part() -> None:
    assert cut([], room=16, row_bytes=4, name_of=str, name_bytes=len) == [()]


BEYOND = [Token(1 << 24, 2, 3), Token(1, 1 << 24, 3), Token(1, 2, 1 << 16), Token((1 << 32) - 1, 0, 0)]


@pytest.mark.parametrize("token", BEYOND)
def test_k1_a_token_that_a_fence_has_no_bits_for_is_refused_in_every_datagram(token: Token) -> None:
    """Cut to what there is room for, it would be a lower one, and an older lease would win over it."""
    told: list[Message] = [
        Renew(7, BOOT, 1, L, R, 0, 1, (Entry(IP, ClaimRole.HOLDER, token),)),
        Ack(7, 1, 1, 0, 1, False, (False,), {0: Detail(Verdict.OUTRANKED, token, Stamp(1, 3))}),
        Report(7, 1, 0, 1, True, (Row(IP, token, "node-a", 1),)),
    ]
    for message in told:
        with pytest.raises(PeerError, match="beyond"):
            decode(encode(message))
    transfer = Transfer(8, 1, 0, 1, True, True, (TransferRow(IP, token, None, 0, 0),))
    with pytest.raises(PeerError, match="beyond"):
        decode_electorate_message(encode_electorate_message(transfer))
