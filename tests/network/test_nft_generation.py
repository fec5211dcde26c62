"""The number of the last change to nftables, as the kernel says it."""

import struct

import pytest

from service.network.nft_generation import parse_generation, read_generation
from tests.network.namespace import namespaces

ATTRIBUTES = struct.pack(">4x") + struct.pack("=HH", 8, 1) + struct.pack(">I", 7)
ANSWER = struct.pack("=IHHII", 16 + len(ATTRIBUTES), 10 << 8 | 15, 0, 1, 0) + ATTRIBUTES


def test_the_number_is_read_from_among_other_attributes() -> None:
    assert parse_generation(ANSWER) == 7
    name = struct.pack("=HH", 7, 3) + b"nft\0"
    longer = struct.pack("=IHHII", len(ANSWER) + 8, 10 << 8 | 15, 0, 1, 0) + bytes(4) + name + ATTRIBUTES[4:]
    assert parse_generation(longer) == 7


@pytest.mark.parametrize("end", range(len(ANSWER)))
def test_an_answer_that_is_cut_off_has_no_number(end: int) -> None:
    assert parse_generation(ANSWER[:end]) is None


def test_an_error_and_attributes_of_no_length_have_no_number() -> None:
    error = struct.pack("=IHHIIi", 20, 2, 0, 1, 0, -1)
    assert parse_generation(error) is None
    assert parse_generation(ANSWER[:20] + bytes(8)) is None


@pytest.mark.root
def test_each_transaction_of_anybody_makes_it_one_more() -> None:
    with namespaces("n") as (node,), node.entered():
        before = read_generation()
        assert before is not None
        assert read_generation() == before
        node.run("nft list ruleset")
        assert read_generation() == before
        node.run("nft add table ip somebody")
        assert read_generation() == before + 1
