import os
import pickle
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network

from hypothesis import given, settings
from hypothesis import strategies as st

from service.model.objects import EgressPolicy, FlowTimeouts
from service.policy import rule_set as module
from service.policy.rule_set import RuleSetCatalog, make_rule_set, policy_content
from tests.policy.objects import policy, selector


def catalog_of(*items: EgressPolicy) -> tuple[RuleSetCatalog, list[int]]:
    """A catalog that learned these one after the other, and resolved what it knew each time."""
    catalog, contents = RuleSetCatalog(), []
    for item in items:
        contents.append(policy_content(item))
        catalog.learn(contents[-1], item)
        assert catalog.resolve(contents) is not None
    return catalog, contents


def test_a_policy_is_named_by_what_it_sends_where() -> None:
    base = policy("a", to=("8.8.8.0/24", "1.1.1.0/24"))
    assert policy_content(base) == policy_content(policy("a", to=("1.1.1.0/24", "8.8.8.0/24")))
    assert policy_content(base) == policy_content(
        policy("a", to=("1.1.1.0/24", "8.8.8.0/24"), pods=selector({"x": "y"}), created="2025")
    )
    others = [policy("b", to=("8.8.8.0/24", "1.1.1.0/24")), policy("a"), policy("a", ip="192.168.1.9")]
    assert len({policy_content(other) for other in (*others, base)}) == 4


def test_names_are_the_same_in_every_process() -> None:
    code = "from tests.policy.objects import policy; from service.policy.rule_set import *;"
    code += "print(policy_content(policy()), make_rule_set([policy()]).id)"
    command = [sys.executable, "-c", code]
    for seed in ("1", "2"):
        done = subprocess.run(
            command, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout.split() == [str(policy_content(policy())), str(make_rule_set([policy()]).id)]


def test_of_equal_prefixes_the_older_policy_counts() -> None:
    older, younger = policy("a", ip="192.168.1.1", to=("8.0.0.0/8",)), policy("b", ip="192.168.1.2", to=("8.0.0.0/8",))
    assert make_rule_set([older, younger]).entries == ((IPv4Network("8.0.0.0/8"), IPv4Address("192.168.1.1")),)
    nested = policy("c", ip="192.168.1.3", to=("8.8.0.0/16",))
    assert len(make_rule_set([older, nested]).entries) == 2


def test_b3_of_several_policies_of_a_pod_the_oldest_that_says_a_timeout_counts() -> None:
    older = policy("a", ip="192.168.1.1", timeouts=FlowTimeouts(udp_s=30))
    younger = policy("b", ip="192.168.1.2", timeouts=FlowTimeouts(udp_s=60, icmp_s=5))
    assert make_rule_set([policy("c"), older, younger]).timeouts == FlowTimeouts(udp_s=30, icmp_s=5)
    assert make_rule_set([younger, older]).timeouts == FlowTimeouts(udp_s=60, icmp_s=5)


def test_b3_a_rule_set_with_timeouts_has_another_name_and_one_without_the_name_of_before() -> None:
    names = {make_rule_set([policy(timeouts=FlowTimeouts(udp_s=seconds))]).id for seconds in (0, 30, 60)}
    assert len(names) == 3
    assert make_rule_set([policy()]).id in names


def test_w14_an_exclusion_is_an_entry_without_an_address_within_what_is_steered() -> None:
    made = make_rule_set([policy("a", ip="192.168.1.1", to=("8.0.0.0/8",), excluded=("8.8.0.0/16", "9.0.0.0/8"))])
    steered, excluded = IPv4Network("8.0.0.0/8"), IPv4Network("8.8.0.0/16")
    assert made.entries == ((steered, IPv4Address("192.168.1.1")), (excluded, None))
    assert set(made.steered) == set(steered.address_exclude(excluded))
    assert made.addresses() == (IPv4Address("192.168.1.1"),)


def test_w14_of_one_policy_the_longer_of_destination_and_exclusion_counts() -> None:
    made = make_rule_set([policy("a", to=("8.0.0.0/8", "8.8.8.0/24"), excluded=("8.8.0.0/16",))])
    assert [address is not None for _, address in made.entries] == [True, False, True]
    assert IPv4Network("8.8.8.0/24") in made.steered
    assert not any(network.overlaps(IPv4Network("8.8.9.0/24")) for network in made.steered)


def test_w14_an_exclusion_takes_nothing_from_another_policy_that_names_the_destination() -> None:
    excluding = policy("a", ip="192.168.1.1", to=("0.0.0.0/0",), excluded=("10.0.0.0/8",))
    naming = policy("b", ip="192.168.1.2", to=("10.0.0.0/7",))
    inside = IPv4Network("10.0.0.0/8")
    assert dict(make_rule_set([excluding, naming]).entries)[inside] == IPv4Address("192.168.1.2")
    assert dict(make_rule_set([naming, excluding]).entries)[inside] == IPv4Address("192.168.1.2")
    twin = policy("c", ip="192.168.1.3", to=("0.0.0.0/0",))
    assert dict(make_rule_set([excluding, twin]).entries)[inside] == IPv4Address("192.168.1.3")


def test_names_are_those_of_releases_without_exclusions_where_there_are_none() -> None:
    """Else every pod of a cluster that is being updated would change its rules, and lose its flows."""
    assert policy_content(policy()) == 0x132F12A9B23753E4
    assert make_rule_set([policy()]).id == 0x98E3355612199AD7
    excluding = policy(excluded=("8.8.8.8/32",))
    assert policy_content(excluding) not in (policy_content(policy()), policy_content(policy(excluded=("8.8.8.9/32",))))
    assert make_rule_set([excluding]).id != make_rule_set([policy()]).id


NETWORKS = st.builds(
    lambda address, length: str(IPv4Network((address, length), strict=False)),
    st.integers(0x08080800, 0x0808080F),
    st.integers(27, 32),
)
POLICIES = st.builds(
    lambda name, to, excluded: policy(name, ip=f"192.168.1.{ord(name)}", to=sorted(to), excluded=sorted(excluded - to)),
    st.sampled_from("pqrs"),
    st.sets(NETWORKS, min_size=1, max_size=4),
    st.sets(NETWORKS, max_size=4),
)


def own_length(item: EgressPolicy, address: IPv4Address) -> int:
    """Of the destination by which a policy would steer an address; -1: it does not."""
    listed = [(network.prefixlen, True) for network in item.destinations if address in network]
    listed += [(network.prefixlen, False) for network in item.excluded if address in network]
    length, is_named = max(listed, default=(-1, False))
    return length if is_named else -1


@settings(max_examples=300, deadline=None)
@given(st.lists(POLICIES, min_size=1, max_size=4, unique_by=lambda item: item.key))
def test_w14_each_address_goes_by_the_longest_destination_of_those_that_do_not_exclude_it(
    policies: list[EgressPolicy],
) -> None:
    made = make_rule_set(policies)
    for address in IPv4Network("8.8.8.0/27"):
        lengths = [own_length(item, address) for item in policies]
        best = max(lengths)
        expected = policies[lengths.index(best)].egress_source_ip if best >= 0 else None
        matching = [(network.prefixlen, found) for network, found in made.entries if address in network]
        assert max(matching, key=lambda entry: entry[0], default=(0, None))[1] == expected
        assert any(address in network for network in made.steered) == (expected is not None)


def test_the_same_entries_have_the_same_name_whoever_made_them() -> None:
    assert make_rule_set([policy("a")]).id == make_rule_set([policy("b")]).id
    assert make_rule_set([policy("a")]).id != 0


def test_a_combination_with_an_unknown_policy_is_not_resolved() -> None:
    catalog = RuleSetCatalog()
    first, second = policy("a"), policy("b", ip="192.168.1.101", to=("9.9.9.0/24",))
    one, two = policy_content(first), policy_content(second)
    catalog.learn(one, first)
    assert catalog.resolve((one, two)) is None
    assert catalog.resolve(()) is None
    catalog.learn(two, second)
    assert catalog.resolve([one, two]) == make_rule_set([first, second])
    catalog.forget(two)
    assert catalog.resolve((one, two)) is None
    assert catalog.resolve((one,)) == make_rule_set([first])


def test_the_cache_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(module, "_CACHE_MAX", 8)
    catalog, contents, resolved = RuleSetCatalog(), [], {}
    for number in range(30):
        item = policy(f"p{number}", to=(f"10.{number}.0.0/16",))
        contents.append(policy_content(item))
        catalog.learn(contents[-1], item)
        combination = tuple(contents)
        resolved[combination] = catalog.resolve(combination)
        assert catalog.resolve(combination) is resolved[combination], "the newest is kept"
    # What is kept comes back as the same object. The newest first: a miss may clear the cache.
    kept = [combination for combination in reversed(resolved) if catalog.resolve(combination) is resolved[combination]]
    assert 1 <= len(kept) <= 8
    # And what was dropped is made again, the same in content.
    assert all(catalog.resolve(combination) == rule_set for combination, rule_set in resolved.items())


def test_forgotten_policies_leave_nothing_in_the_catalog() -> None:
    items = [policy(f"p{number}", to=(f"10.{number}.0.0/16",)) for number in range(10)]
    catalog, contents = catalog_of(*items)
    for content in contents[1:]:
        catalog.forget(content)
    assert catalog.resolve(contents[:2]) is None
    # Byte for byte it is one that never knew the others.
    assert pickle.dumps(catalog) == pickle.dumps(catalog_of(items[0])[0])
    catalog.forget(contents[0])
    assert catalog.resolve(contents[:1]) is None
    assert pickle.dumps(catalog) == pickle.dumps(RuleSetCatalog())
