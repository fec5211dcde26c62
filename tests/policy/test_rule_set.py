import os
import pickle
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network

from service.model.objects import EgressPolicy
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
