"""What nf_tables says past the program `nft`."""

import struct

import pytest

from service.network.netlink_message import attribute
from service.network.nft_netlink import (
    parse_counter,
    parse_generation,
    read_counters,
    read_generation,
)
from tests.network.namespace import namespaces


def counter(table: bytes = b"egressgw\0", kind: int = 1) -> bytes:
    counts = attribute(1, struct.pack(">Q", 300)) + attribute(2, struct.pack(">Q", 5))
    fields = (1, table), (2, b"steered\0"), (3, struct.pack(">I", kind)), (0x8000 | 4, counts)
    return bytes(4) + b"".join(attribute(*field) for field in fields)


GENERATION = bytes(4) + attribute(3, b"nft\0") + attribute(1, struct.pack(">I", 7))


def test_the_generation_is_read_from_among_other_attributes() -> None:
    assert parse_generation(GENERATION) == 7


@pytest.mark.parametrize("end", range(len(GENERATION)))
def test_a_word_that_is_cut_off_has_no_generation(end: int) -> None:
    assert parse_generation(GENERATION[:end]) is None


def test_a_counter_is_packets_and_bytes_of_its_name_and_of_this_table_alone() -> None:
    assert parse_counter(counter(), "egressgw") == {"steered": (5, 300)}
    assert parse_counter(counter(b"others\0"), "egressgw") is None
    assert parse_counter(counter(kind=2), "egressgw") is None


@pytest.mark.parametrize("end", range(len(counter())))
def test_a_counter_that_is_cut_off_raises_nothing(end: int) -> None:
    parse_counter(counter()[:end], "egressgw")


@pytest.mark.root
def test_each_transaction_of_anybody_makes_the_generation_one_more() -> None:
    with namespaces("n") as (node,), node.entered():
        before = read_generation()
        assert before is not None
        assert read_generation() == before
        node.run("nft list ruleset")
        assert read_generation() == before
        node.run("nft add table ip somebody")
        assert read_generation() == before + 1


@pytest.mark.root
def test_counters_are_those_that_nft_lists() -> None:
    with namespaces("n") as (node,), node.entered():
        assert read_counters("egressgw") == {}
        node.run("nft -f -", "table ip egressgw { counter one { packets 3 bytes 40; }; counter two { }; }")
        node.run("nft -f -", "table ip other { counter one { packets 9 bytes 9; }; }")
        node.run("nft -f -", "table inet egressgw { counter three { }; }")
        assert read_counters("egressgw") == {"one": (3, 40), "two": (0, 0)}


@pytest.mark.root
def test_a_thousand_counters_come_in_several_pieces() -> None:
    with namespaces("n") as (node,), node.entered():
        lines = "".join(f"counter c{number} {{ packets {number} bytes 0 }}\n" for number in range(1000))
        node.run("nft -f -", f"table ip egressgw {{\n{lines}}}")
        found = read_counters("egressgw")
        assert found is not None
        assert {name: packets for name, (packets, _) in found.items()} == {
            f"c{number}": number for number in range(1000)
        }
