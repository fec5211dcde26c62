"""Policies that decide nothing, compared with what a pod's rule set would be."""

from collections.abc import Iterable
from ipaddress import IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from service.model.objects import EgressPolicy, EgressRule, LabelSelector, Operator, Requirement
from service.policy.acceptance import precedence
from service.policy.rule_set import make_rule_set
from service.policy.shadow import idle_exclusions, shadows
from tests.policy.objects import policy

ALL = EgressRule(LabelSelector(), LabelSelector())
WEB = EgressRule(LabelSelector(), LabelSelector((("tier", "web"),)))
WEB_OF_SHOP = EgressRule(LabelSelector((("kubernetes.io/metadata.name", "shop"),)), LabelSelector((("tier", "web"),)))
SOME = EgressRule(LabelSelector(), LabelSelector((), (Requirement("tier", Operator.IN, ("db", "web")),)))


def made(
    name: str,
    *cidrs: str,
    excluded: Iterable[str] = (),
    rules: tuple[EgressRule, ...] = (ALL,),
    age: int = 0,
    ip: str = "",
) -> EgressPolicy:
    networks = tuple(sorted(IPv4Network(cidr) for cidr in cidrs))
    holes = tuple(sorted(IPv4Network(cidr) for cidr in excluded))
    base = policy(name, ip=ip or f"192.0.2.{ord(name[-1])}")
    return EgressPolicy(base.key, rules, networks, base.egress_source_ip, f"2024-01-0{age + 1}T00:00:00Z", 1, holes)


def test_the_same_destination_of_an_older_policy_with_wider_rules_leaves_nothing() -> None:
    wide, narrow = made("a", "10.0.0.0/8", "8.8.8.0/24"), made("b", "8.8.8.0/24", rules=(WEB,), age=1)
    assert shadows([narrow, wide]) == {"b": ("a",)}


def test_the_older_one_is_not_shadowed_by_the_younger() -> None:
    assert shadows([made("a", "8.8.8.0/24"), made("b", "8.8.8.0/24", age=1)]) == {"b": ("a",)}


def test_longer_prefixes_that_together_are_the_whole_leave_nothing_however_young() -> None:
    halves = made("b", "8.8.8.0/25", "8.8.8.128/25", age=1)
    assert shadows([made("a", "8.8.8.0/24"), halves]) == {"a": ("b",)}
    assert shadows([made("a", "8.8.8.0/24"), made("b", "8.8.8.0/25", age=1)]) == {}


def test_a_shorter_prefix_is_in_nobodys_way() -> None:
    assert shadows([made("a", "0.0.0.0/0"), made("b", "8.8.8.0/24", age=1)]) == {}


def test_pods_that_the_other_does_not_surely_have_are_left() -> None:
    assert shadows([made("a", "8.8.8.0/24", rules=(WEB,)), made("b", "8.8.8.0/24", age=1)]) == {}
    assert shadows([made("a", "8.8.8.0/24", rules=(SOME,)), made("b", "8.8.8.0/24", rules=(WEB,), age=1)]) == {}
    both = made("a", "8.8.8.0/24", rules=(WEB, SOME)), made("b", "8.8.8.0/24", rules=(SOME, WEB_OF_SHOP), age=1)
    assert shadows(both) == {"b": ("a",)}


def test_policies_apart_are_not_shadows_of_each_other() -> None:
    assert shadows([made("a", "8.8.8.0/24"), made("b", "8.8.4.0/24", age=1)]) == {}
    assert shadows([]) == {}


def test_w14_what_the_other_excludes_is_left() -> None:
    other = made("a", "8.8.8.0/24", excluded=["8.8.8.0/25"])
    assert shadows([other, made("b", "8.8.8.0/24", age=1)]) == {}
    assert shadows([other, made("b", "8.8.8.0/24", excluded=["8.8.8.0/25", "8.8.8.128/25"], age=1)]) == {"b": ("a",)}


def test_w14_an_exclusion_outside_all_destinations_does_nothing() -> None:
    found = idle_exclusions(made("a", "8.8.8.0/24", excluded=["8.8.8.8/32", "8.8.0.0/16", "9.9.9.9/32"]))
    assert found == (IPv4Network("8.8.0.0/16"), IPv4Network("9.9.9.9/32"))


CIDRS = st.sets(st.sampled_from(["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "0.0.0.0/2", "64.0.0.0/2", "128.0.0.0/2"]))


@given(
    st.lists(
        st.tuples(CIDRS.filter(bool), CIDRS, st.integers(0, 3)),
        min_size=1,
        max_size=4,
    )
)
def test_w14_with_exclusions_nobody_is_named_who_decides_anything(
    drawn: list[tuple[set[str], set[str], int]],
) -> None:
    policies = [made(f"p{n}", *to, excluded=out - to, age=age) for n, (to, out, age) in enumerate(drawn)]
    assert not deciding(policies) & set(shadows(policies))


@given(st.lists(st.tuples(CIDRS.filter(bool), st.integers(0, 3)), min_size=1, max_size=4))
def test_of_policies_with_the_same_pods_those_are_named_that_no_address_goes_by(
    drawn: list[tuple[set[str], int]],
) -> None:
    policies = [made(f"p{index}", *cidrs, age=age) for index, (cidrs, age) in enumerate(drawn)]
    assert set(shadows(policies)) == {one.key.name for one in policies} - deciding(policies)


def deciding(policies: list[EgressPolicy]) -> set[str]:
    """Names of policies by which some address goes."""
    entries = make_rule_set(sorted(policies, key=precedence)).entries
    found = set()
    for eighth in range(8):
        address = IPv4Network((eighth << 29, 32))
        matching = [entry for entry in entries if address.subnet_of(entry[0])]
        if matching:
            found.add(max(matching, key=lambda entry: entry[0].prefixlen)[1])
    return {one.key.name for one in policies if one.egress_source_ip in found}
