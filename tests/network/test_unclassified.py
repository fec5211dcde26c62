"""What policies name, cut into sets of netfilter's (rules W11, I3)."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.model.span import number_of
from service.network import unclassified
from service.network.destinations import PART
from service.network.unclassified import NamedSets, named_definition, named_removal, named_rules, parse_named

NETWORK = st.builds(
    lambda address, length: IPv4Network((address & 0xFFFFFFFF << 32 - length & 0xFFFFFFFF, length)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)


def networks(count: int) -> list[IPv4Network]:
    """Spread over the address space, without overlaps."""
    return [IPv4Network((index * 40503 % 65536 << 16 | 0x0100, 24)) for index in range(1, count + 1)]


def named_sets(named: Iterable[IPv4Network]) -> dict[int, tuple[IPv4Network, ...]]:
    """Cut from the beginning."""
    made = NamedSets()
    made.renew(numbers(named))
    return made.value


def numbers(named: Iterable[IPv4Network]) -> tuple[int, ...]:
    return tuple(sorted(set(map(number_of, named))))


def in_order(sets: dict[int, tuple[IPv4Network, ...]]) -> list[IPv4Network]:
    return sorted(network for part in sets.values() for network in part)


@given(st.lists(NETWORK, max_size=20), st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_an_address_is_in_the_sets_exactly_if_some_policy_names_it(named: list[IPv4Network], more: list[int]) -> None:
    cut = in_order(named_sets(named))
    probes = [*map(IPv4Address, more), *(end for network in named for end in (network[0], network[-1]))]
    for address in probes:
        assert any(address in network for network in cut) == any(address in network for network in named)
    assert all(one[-1] < other[0] for one, other in pairwise(cut)), "the kernel refuses overlaps"


def test_no_set_is_long_however_much_is_named() -> None:
    sets = named_sets(networks(20_000))
    assert max(map(len, sets.values())) <= PART
    assert len(in_order(sets)) == 20_000


def test_i3_an_edit_makes_one_or_two_sets_anew_and_leaves_all_others() -> None:
    many = networks(20_000)
    before = named_sets(many)
    for edited in ([*many, IPv4Network("1.2.3.4/32")], many[:9000] + many[9001:]):
        after = named_sets(edited)
        assert 1 <= len(after.keys() - before.keys()) <= 2
        assert 1 <= len(before.keys() - after.keys()) <= 2


@given(st.lists(st.tuples(NETWORK, st.booleans()), max_size=30), st.integers(1, 4))
def test_cut_after_each_edit_it_is_as_if_it_had_been_cut_from_the_beginning(
    edits: list[tuple[IPv4Network, bool]], cut: int
) -> None:
    made, named = NamedSets(), dict[IPv4Network, None]()
    with pytest.MonkeyPatch.context() as patched:
        # So that a handful of networks has many stretches, and sets.
        patched.setattr(unclassified, "_CUT", cut)
        patched.setattr(unclassified, "PART", 3)
        for network, is_named in edits:
            named.pop(network, None)
            if is_named:
                named[network] = None
            made.renew(numbers(named))
            assert made.value == named_sets(named)
            assert in_order(made.value) == outermost(named)


def outermost(named: Iterable[IPv4Network]) -> list[IPv4Network]:
    many = tuple(named)
    return sorted(one for one in many if not any(one != other and one.subnet_of(other) for other in many))


def test_the_order_in_which_policies_name_them_makes_no_difference() -> None:
    many = networks(3_000)
    assert named_sets(reversed(many)) == named_sets(many)


def test_texts_name_what_is_dropped_and_what_goes() -> None:
    ((identity, part),) = named_sets([IPv4Network("8.8.8.0/24"), IPv4Network("9.9.9.9/32")]).items()
    assert "{ 8.8.8.0/24, 9.9.9.9/32 }" in named_definition(identity, part)
    assert named_rules([identity]).count("counter name unclassified drop") == 1
    assert f"delete set ip egressgw named_{identity:016x}" in named_removal(identity)
    assert named_rules([]) == "flush chain ip egressgw named\n"


def test_what_is_in_the_table_is_found_again_and_what_is_asked_of_it() -> None:
    rule = {"expr": [{"match": {"op": "==", "left": {}, "right": "@named_00000000000000aa"}}, {"drop": None}]}
    document = {
        "nftables": [
            {"set": {"name": "named_00000000000000aa", "elem": [{"prefix": {"addr": "8.8.8.0", "len": 24}}]}},
            {"set": {"name": "named_00000000000000bb", "elem": ["*"]}},
            {"set": {"name": "cluster", "elem": ["10.0.0.1"]}},
            {"rule": {"chain": "named", **rule}},
            {"rule": {"chain": "unclassified", "expr": [{"match": {"right": "@cluster"}}]}},
        ]
    }
    sets, asked = parse_named(document)
    assert sets == {0xAA: (IPv4Network("8.8.8.0/24"),), 0xBB: (IPv4Network("0.0.0.0/0"),)}
    assert asked == {0xAA}
