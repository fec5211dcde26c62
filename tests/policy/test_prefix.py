"""Which policy decides for an address, where several list what it lies in."""

from service.model.objects import EgressPolicy
from service.policy.prefix import decider, prefixes_of
from tests.policy.objects import policy


def deciding(*policies: EgressPolicy) -> str:
    """For the addresses that lie in every prefix of these policies, which must be nested."""
    position = decider(prefixes_of(policies))
    return policies[position].key.name if position is not None else ""


def test_each_prefix_is_there_once_and_before_those_within_it() -> None:
    found = prefixes_of([policy("a", to=("8.8.8.0/24",), excluded=("8.8.8.8/32",)), policy("b", to=("8.8.8.0/24",))])
    assert [(prefix.length, prefix.owners, prefix.excluders) for prefix in found] == [(24, [0, 1], []), (32, [], [0])]
    assert found[0].end - found[0].first == found[0].size == 256


def test_the_longest_prefix_decides_and_of_equal_ones_the_older_policy() -> None:
    wide, narrow = policy("wide", to=("8.0.0.0/8",)), policy("narrow", to=("8.8.8.0/24",))
    assert deciding(wide, narrow) == deciding(narrow, wide) == "narrow"
    assert deciding(policy("older"), policy("younger")) == "older"


def test_w14_an_exclusion_silences_its_own_policy_only() -> None:
    wide = policy("wide", to=("8.0.0.0/8",), excluded=("8.8.8.0/24",))
    assert deciding(wide) == ""
    assert deciding(wide, policy("other", to=("8.0.0.0/7",))) == "other"


def test_w14_a_destination_within_ones_own_exclusion_is_steered() -> None:
    assert deciding(policy("a", to=("8.0.0.0/8", "8.8.8.8/32"), excluded=("8.8.8.0/24",))) == "a"
