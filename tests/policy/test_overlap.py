"""Which policies decide in another's place: against a model that asks for every single address."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.model.objects import Change, Delete, EgressPolicy, ObjectKey, Pod, Upsert
from service.policy.acceptance import precedence
from service.policy.index import PolicyIndex
from service.policy.overlap import NAMES_MAX, NO_OVERLAP, Overlap, OverlapIndex, find_overlaps
from service.policy.rule_set import make_rule_set
from tests.policy.objects import pod, policy, policy_key, selector

OLD, NEW = "2024-01-01T00:00:00.000000000Z", "2024-01-02T00:00:00.000000000Z"


def overlap_of(name: str, *policies: EgressPolicy) -> Overlap:
    return find_overlaps(sorted(policies, key=precedence)).get(policy_key(name), NO_OVERLAP)


def test_of_equal_destinations_the_older_policy_decides_and_the_younger_is_in_its_shadow() -> None:
    older, younger = policy("older", created=OLD), policy("younger", ip="192.168.1.101", created=NEW)
    assert overlap_of("older", older, younger) == NO_OVERLAP
    assert overlap_of("younger", older, younger) == Overlap(("older",), is_whole=True)


def test_a_longer_prefix_takes_its_part_whoever_is_older() -> None:
    wide, narrow = policy("wide", to=("0.0.0.0/0",), created=OLD), policy("narrow", created=NEW)
    assert overlap_of("wide", wide, narrow) == Overlap(("narrow",))
    assert overlap_of("narrow", wide, narrow) == NO_OVERLAP


def test_a_prefix_that_longer_ones_cover_wholly_decides_nothing_and_is_nobodys_decider() -> None:
    outer, middle = policy("outer", to=("8.0.0.0/7",)), policy("middle", to=("8.0.0.0/8",))
    halves = policy("halves", to=("8.0.0.0/9", "8.128.0.0/9"))
    assert overlap_of("middle", outer, middle, halves) == Overlap(("halves",), is_whole=True)
    assert overlap_of("outer", outer, middle, halves) == Overlap(("halves",))


def test_a_policy_does_not_overlap_itself() -> None:
    assert overlap_of("one", policy("one", to=("8.0.0.0/8", "8.8.0.0/16"))) == NO_OVERLAP
    wide = policy("wide", to=("9.0.0.0/8",))
    assert find_overlaps([policy("one", to=("8.0.0.0/8", "8.8.0.0/16")), wide]) == {}


def test_of_many_others_a_few_are_named_and_that_there_are_more_is_said() -> None:
    others = [policy(f"p{index}", to=(f"8.8.{index}.0/24",)) for index in range(NAMES_MAX + 1)]
    wide = policy("a-wide", to=("8.0.0.0/8", *(f"8.8.{index}.0/25" for index in range(4))))
    assert overlap_of("a-wide", wide, *others[:NAMES_MAX]) == Overlap(("p0", "p1", "p2"))
    assert overlap_of("a-wide", wide, *others) == Overlap(("p0", "p1", "p2"), has_more=True)


def test_w14_what_a_policy_excludes_is_nobodys_overlap_of_it() -> None:
    wide = policy("wide", to=("8.0.0.0/8",), excluded=("8.8.0.0/16",))
    inner = policy("inner", to=("8.8.8.0/24",), created=NEW)
    assert overlap_of("wide", wide, inner) == NO_OVERLAP
    assert overlap_of("wide", policy("wide", to=("8.0.0.0/8",)), inner) == Overlap(("inner",))


def test_w14_an_older_policy_that_excludes_a_destination_leaves_it_to_the_younger() -> None:
    older = policy("older", to=("8.8.8.0/24",), excluded=("8.8.8.0/25",), created=OLD)
    younger = policy("younger", to=("8.8.8.0/24",), created=NEW)
    assert overlap_of("younger", older, younger) == Overlap(("older",))
    assert overlap_of("older", older, younger) == NO_OVERLAP


NETWORKS = st.builds(
    lambda address, length: str(IPv4Network((address, length), strict=False)),
    st.integers(0x08080800, 0x0808080F),
    st.integers(27, 32),
)
POLICIES = st.builds(
    lambda name, to, excluded, created: policy(
        name, ip=f"192.168.1.{ord(name)}", to=to, excluded=sorted(set(excluded) - set(to)), created=created
    ),
    st.sampled_from("pqrstu"),
    st.lists(NETWORKS, min_size=1, max_size=4, unique=True),
    st.one_of(st.just([]), st.lists(NETWORKS, max_size=3)),
    st.sampled_from([OLD, NEW]),
)


def model(policies: Sequence[EgressPolicy]) -> dict[ObjectKey, tuple[set[str], bool]]:
    """Who decides for each address, by asking for each."""
    found = {}
    for one in policies:
        deciders = {
            decider(policies, address)
            for network in one.destinations
            for address in network
            if is_steered_by(one, address)
        }
        others = deciders - {one.key.name}
        if others:
            found[one.key] = (others, one.key.name not in deciders)
    return found


def is_steered_by(one: EgressPolicy, address: IPv4Address) -> bool:
    """By itself: the longest of its own prefixes is a destination."""
    prefixes = [(to.prefixlen, True) for to in one.destinations if address in to]
    prefixes += [(to.prefixlen, False) for to in one.excluded if address in to]
    return max(prefixes, default=(0, False))[1]


def decider(policies: Sequence[EgressPolicy], address: IPv4Address) -> str:
    """By the rule set that the datapath gets: the longest prefix counts."""
    entries = [(to.prefixlen, ip) for to, ip in make_rule_set(policies).entries if address in to]
    _, chosen = max(entries, key=lambda entry: entry[0])
    return next(one.key.name for one in policies if one.egress_source_ip == chosen)


def said(names: set[str], *, is_whole: bool) -> Overlap:
    few = tuple(sorted(names)[:NAMES_MAX])
    return Overlap(few, len(names) > NAMES_MAX, is_whole)


@settings(max_examples=300, deadline=None)
@given(st.lists(POLICIES, max_size=6, unique_by=lambda one: one.key))
def test_the_sweep_agrees_with_the_rule_sets_address_by_address(policies: list[EgressPolicy]) -> None:
    policies.sort(key=precedence)
    expected = {key: said(names, is_whole=whole) for key, (names, whole) in model(policies).items()}
    assert find_overlaps(policies) == expected


def labelled(name: str, ip: str, labels: Sequence[str]) -> Pod:
    return pod(name, ip, **{f"k{label}": "1" for label in labels})


def choosing(one: EgressPolicy) -> EgressPolicy:
    """Selects the pods that have its name as a label."""
    narrowed = policy("x", pods=selector({f"k{one.key.name}": "1"})).rules
    return replace(one, rules=narrowed)


PODS = st.builds(
    lambda number, labels: labelled(f"pod{number}", f"10.0.0.{number}", labels),
    st.integers(1, 4),
    st.lists(st.sampled_from("pqrstu"), max_size=4, unique=True),
)
OBJECTS = st.one_of(PODS, POLICIES.map(choosing))
CHANGES = st.one_of(OBJECTS.map(Upsert), OBJECTS.map(Upsert), OBJECTS.map(lambda item: Delete(item.key)))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(CHANGES, max_size=6), max_size=8))
def test_what_the_index_says_of_each_policy_is_true_of_its_pods_after_every_batch(batches: list[list[Change]]) -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    told: dict[ObjectKey, Overlap] = {}
    for batch in batches:
        delta = index.apply(batch)
        for key, state in delta.policies.items():
            told[key] = state.overlap if state is not None else NO_OVERLAP
        for key, state in index.policy_states().items():
            assert told[key] == state.overlap == _of_all_pods(index, key)


def _of_all_pods(index: PolicyIndex, key: ObjectKey) -> Overlap:
    names: set[str] = set()
    wholes = []
    for chosen in index.selections().values():
        accepted = [name for name, state in index.policy_states().items() if state.accepted]
        found = [item for name in accepted if (item := index.policy(name)) and _is_of(chosen.pod, item)]
        policies = sorted(found, key=precedence)
        if key not in {item.key for item in policies}:
            continue
        others, is_whole = model(policies).get(key, (set[str](), False))
        names |= others
        wholes.append(is_whole)
    return said(names, is_whole=all(wholes)) if names else NO_OVERLAP


def _is_of(chosen: Pod, item: EgressPolicy) -> bool:
    return (f"k{item.key.name}", "1") in chosen.labels


def test_a_policy_is_whole_in_the_shadow_only_if_it_is_for_each_of_its_pods() -> None:
    older = policy("older", pods=selector({"app": "a"}), created=OLD)
    younger = policy("younger", ip="192.168.1.101", created=NEW)
    index = PolicyIndex(pod_cidrs_known=True)
    index.apply(map(Upsert, (older, younger, pod("a", "10.0.0.1", app="a"))))
    assert index.policy_states()[younger.key].overlap == Overlap(("older",), is_whole=True)
    index.apply([Upsert(pod("b", "10.0.0.2", app="b"))])
    assert index.policy_states()[younger.key].overlap == Overlap(("older",))
    index.apply([Delete(older.key)])
    assert index.policy_states()[younger.key].overlap == NO_OVERLAP


def test_a_pod_more_of_a_known_combination_is_no_work_and_no_news() -> None:
    index, policies = OverlapIndex(), [policy("older"), policy("younger", created=NEW)]
    assert index.add((1, 2), policies) == (policies[1].key,)
    assert index.add((1, 2), []) == ()
    assert index.remove((1, 2)) == ()
    assert index.of(policies[1].key).is_whole
    assert policies[1].key in index.remove((1, 2))
    assert index.of(policies[1].key) == NO_OVERLAP


@pytest.mark.parametrize("shape", ["equal", "nested", "apart", "two levels", "excluding", "excluding apart"])
def test_the_work_for_a_thousand_policies_of_one_pod_grows_with_them_and_not_with_their_pairs(shape: str) -> None:
    """Each shape but one has 250,000 pairs and more."""
    few, many = _work(shape, 250), _work(shape, 1000)
    assert many < 4.5 * few


def _work(shape: str, count: int) -> int:
    """Lines of the module that are run, and names that are kept."""
    policies = [
        policy(f"p{index:04}", to=_destinations(shape, index), excluded=_exclusions(shape, index))
        for index in range(count)
    ]
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., object] | None:
        nonlocal lines
        if frame.f_globals["__name__"] != find_overlaps.__module__:
            return None
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        found = find_overlaps(policies)
    finally:
        sys.settrace(before)
    return lines + sum(len(overlap.by) for overlap in found.values())


def _destinations(shape: str, index: int) -> tuple[str, ...]:
    match shape:
        case "equal":
            return ("8.0.0.0/8",)
        case "nested":
            return tuple(str(IPv4Network((0x08080808, length), strict=False)) for length in range(8, 32, 3))
        case "excluding":
            return ("0.0.0.0/0", f"8.{index // 256}.{index % 256}.0/24")
        case "apart" | "excluding apart":
            return tuple(f"{8 + part}.{index // 256}.{index % 256}.0/24" for part in range(8))
        case _:
            return ("8.0.0.0/8",) if index % 2 else (f"8.{index // 256}.{index % 256}.0/24",)


def _exclusions(shape: str, index: int) -> tuple[str, ...]:
    match shape:
        case "excluding":
            return ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
        case "excluding apart":
            return (f"8.{index // 256}.{index % 256}.8/32",)
        case _:
            return ()
