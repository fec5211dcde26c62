"""Which floating IPs rule sets name."""

import zlib
from ipaddress import IPv4Address, IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from service.datapath.used_addresses import UsedAddresses
from service.policy.rule_set import RuleSet

ADDRESSES = [IPv4Address(f"192.168.1.{last}") for last in range(100, 106)]


def rule_set(*addresses: IPv4Address) -> RuleSet:
    entries = tuple((IPv4Network((0x08000000 + (number << 8), 24)), one) for number, one in enumerate(addresses))
    return RuleSet(zlib.crc32(repr(entries).encode()), entries)


SETS = st.lists(st.lists(st.sampled_from(ADDRESSES), max_size=3), max_size=5)


@given(st.lists(SETS, max_size=8))
def test_after_any_changes_they_are_those_that_any_set_names(history: list[list[list[IPv4Address]]]) -> None:
    used = UsedAddresses()
    for wanted in history:
        sets = {one.id: one for one in (rule_set(*addresses) for addresses in wanted)}
        expected = tuple(sorted({address for addresses in wanted for address in addresses}))
        assert used.of(sets) == expected
        assert used.of(sets) is used.of(sets)


def test_a_set_more_that_names_no_other_address_leaves_the_same_object() -> None:
    used, first, second = UsedAddresses(), rule_set(ADDRESSES[0]), rule_set(ADDRESSES[0], ADDRESSES[0])
    before = used.of({first.id: first})
    assert used.of({first.id: first, second.id: second}) is before
    assert used.of({second.id: second}) is before
    assert used.of({}) == ()
