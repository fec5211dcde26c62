"""What nf_tables says past the program `nft`."""

import struct

import pytest

from service.network.map_change import Jump, MapChange, map_text
from service.network.netlink_message import attribute
from service.network.nft_netlink import (
    CHANGES_MAX,
    commit_elements,
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


TABLE = """table ip egressgw {
  map m { type ipv4_addr : verdict; }
  map n { type ipv4_addr : verdict; }
  chain one { }
  chain two { }
}
"""


def key(number: int) -> bytes:
    return (0x0A000000 + number).to_bytes(4, "big")


def commit(*changes: MapChange) -> None:
    commit_elements("egressgw", changes, timeout_s=5.0)


@pytest.mark.root
def test_elements_are_those_that_nft_would_have_written() -> None:
    with namespaces("n") as (node,), node.entered():
        first = [MapChange("m", key(1), "one"), MapChange("m", key(2), "two", Jump.GOTO), MapChange("n", key(1), "two")]
        second = [MapChange("m", key(1), None), MapChange("m", key(1), "two"), MapChange("n", key(1), None)]
        listed = []
        for by_text in (True, False):
            node.run("nft flush ruleset")
            node.run("nft -f -", TABLE)
            for changes in (first, second):
                if by_text:
                    node.run("nft -f -", map_text("egressgw", changes))
                else:
                    commit(*changes)
                listed.append(node.run("nft list table ip egressgw"))
        assert listed[:2] == listed[2:]
        assert "10.0.0.1 : jump one" in listed[0]
        assert "10.0.0.2 : goto two" in listed[0]


@pytest.mark.root
def test_a_refused_change_changes_nothing_of_its_transaction() -> None:
    with namespaces("n") as (node,), node.entered():
        node.run("nft -f -", TABLE)
        commit(MapChange("m", key(1), "one"))
        before = node.run("nft list table ip egressgw"), read_generation()
        for refused in (
            MapChange("m", key(9), None),
            MapChange("m", key(2), "nowhere"),
            MapChange("nowhere", key(2), "one"),
        ):
            for changes in ([MapChange("m", key(3), "one"), refused], [refused, MapChange("m", key(3), "one")]):
                with pytest.raises(FileNotFoundError):
                    commit(*changes)
        with pytest.raises(OSError):
            commit_elements("another", [MapChange("m", key(2), "one")], timeout_s=5.0)
        assert (node.run("nft list table ip egressgw"), read_generation()) == before


@pytest.mark.root
def test_as_many_changes_as_are_allowed_are_one_transaction() -> None:
    with namespaces("n") as (node,), node.entered():
        chain = "translated_0123456789abcdef"
        node.run("nft -f -", TABLE + f"table ip egressgw {{ chain {chain} {{ }}\n }}")
        before = read_generation()
        assert before is not None
        commit(*(MapChange("m", key(number), chain, Jump.GOTO) for number in range(CHANGES_MAX)))
        assert read_generation() == before + 1
        assert node.run("nft list table ip egressgw").count(f"goto {chain}") == CHANGES_MAX
        commit(*(MapChange("m", key(number), None) for number in range(CHANGES_MAX)))
        assert chain not in node.run("nft list map ip egressgw m")
