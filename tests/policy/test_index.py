"""The index against the user's words, and against a naive second implementation (hypothesis)."""

import pickle
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.model.objects import (
    Change,
    Delete,
    EgressPolicy,
    EgressRule,
    Errors,
    Kind,
    LabelSelector,
    Namespace,
    NetworkGateway,
    Object,
    ObjectKey,
    Operator,
    Pod,
    Synced,
    Upsert,
)
from service.policy.index import PolicyDelta, PolicyIndex
from tests.policy.objects import gateway, namespace, pod, pod_key, policy, policy_key, requirement, selector

ALICE, PAUL, FRONTEND = selector({"user": "alice"}), selector({"user": "paul"}), selector({"role": "frontend"})
EXAMPLE = policy(rules=(EgressRule(ALICE, FRONTEND), EgressRule(PAUL, FRONTEND)))


def index_of(*items: Object, pod_cidrs_known: bool = True) -> PolicyIndex:
    index = PolicyIndex(pod_cidrs_known=pod_cidrs_known)
    index.apply(map(Upsert, items))
    return index


@pytest.fixture
def example() -> PolicyIndex:
    return index_of(
        gateway("192.168.1.100", "192.168.1.101", "192.168.1.102"),
        namespace("a", user="alice"),
        namespace("p", user="paul"),
        namespace("z", user="zoe"),
        pod("web", "10.0.0.1", namespace="a", role="frontend"),
        pod("db", "10.0.0.2", namespace="a", role="backend"),
        pod("web", "10.0.0.3", namespace="p", role="frontend"),
        pod("web", "10.0.0.4", namespace="z", role="frontend"),
        EXAMPLE,
    )


def test_w14_an_exclusion_changes_the_rules_of_its_own_pods_and_of_no_others() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    mine, other = policy("mine", pods=selector({"app": "a"})), policy("other", ip="192.168.1.101", to=("9.9.9.0/24",))
    index.apply(map(Upsert, (mine, other, pod("a", "10.0.0.1", app="a"), pod("b", "10.0.0.2", app="b"))))
    delta = index.apply([Upsert(policy("mine", pods=selector({"app": "a"}), excluded=("8.8.8.8/32",)))])
    assert list(delta.selections) == [pod_key("a")]
    changed = delta.selections[pod_key("a")]
    assert changed is not None
    assert (IPv4Network("8.8.8.8/32"), None) in changed.rule_set.entries


def test_the_example_selects_alices_and_pauls_frontends(example: PolicyIndex) -> None:
    assert list(example.selections()) == [pod_key("web", "a"), pod_key("web", "p")]
    state = example.policy_states()[EXAMPLE.key]
    assert (state.accepted, state.reason, state.matched_pods) == (True, "Accepted", 2)
    chosen = example.selections()[pod_key("web", "a")]
    assert [(str(to), str(ip)) for to, ip in chosen.rule_set.entries] == [("8.8.8.0/24", "192.168.1.100")]


def test_a_pod_label_change_concerns_that_pod_only(example: PolicyIndex) -> None:
    delta = example.apply([Upsert(pod("db", "10.0.0.2", namespace="a", role="frontend"))])
    assert list(delta.selections) == [pod_key("db", "a")]
    assert delta.policies[EXAMPLE.key].matched_pods == 3
    delta = example.apply([Upsert(pod("db", "10.0.0.2", namespace="a", role="backend"))])
    assert delta.selections == {pod_key("db", "a"): None}


def test_a_label_nobody_selects_by_changes_nothing(example: PolicyIndex) -> None:
    changes = [
        Upsert(pod("web", "10.0.0.1", namespace="a", role="frontend", note="new")),
        Upsert(namespace("a", user="alice", note="new")),
    ]
    assert example.apply(changes) == PolicyDelta()
    assert dict(example.selections()[pod_key("web", "a")].pod.labels)["note"] == "new"


def test_a_namespace_label_change_selects_and_releases(example: PolicyIndex) -> None:
    delta = example.apply([Upsert(namespace("z", user="paul")), Delete(namespace("a").key)])
    assert delta.selections[pod_key("web", "a")] is None
    assert delta.selections[pod_key("web", "z")] is not None
    assert len(delta.selections) == 2


def test_a_new_address_or_node_is_told(example: PolicyIndex) -> None:
    moved = pod("web", "10.0.0.9", namespace="a", node="worker2", role="frontend")
    delta = example.apply([Upsert(moved)])
    assert delta.selections[moved.key].pod == moved
    delta = example.apply([Upsert(pod("web", None, namespace="a", role="frontend"))])
    assert delta.selections == {moved.key: None}


def test_an_unrelated_policy_leaves_a_rule_set_alone(example: PolicyIndex) -> None:
    before = dict(example.selections())
    other = policy("other", ip="192.168.1.101", namespaces=selector({"user": "zoe"}), created="2020")
    delta = example.apply([Upsert(other)])
    assert list(delta.selections) == [pod_key("web", "z")]
    assert {key: example.selections()[key] for key in before} == before
    delta = example.apply([Delete(other.key)])
    assert delta.selections == {pod_key("web", "z"): None}
    assert delta.policies == {other.key: None}


def test_the_younger_policy_takes_over_when_the_older_goes() -> None:
    older = policy("older", to=("1.0.0.0/8",), created="2024-01-01T00:00:00.000000000Z")
    younger = policy("younger", to=("2.0.0.0/8",), created="2024-01-02T00:00:00.000000000Z")
    index = index_of(gateway("192.168.1.100"), pod("web"), younger)
    # The older one arrives later: age decides, not arrival.
    delta = index.apply([Upsert(older)])
    assert delta.policies[younger.key].reason == "EgressIPConflict"
    assert delta.policies[older.key].accepted
    assert str(delta.selections[pod_key("web")].rule_set.entries[0][0]) == "1.0.0.0/8"
    delta = index.apply([Delete(older.key)])
    assert delta.policies[younger.key].accepted
    assert str(delta.selections[pod_key("web")].rule_set.entries[0][0]) == "2.0.0.0/8"


def test_equal_prefixes_follow_age_and_a_change_of_age() -> None:
    first = policy("first", ip="192.168.1.100", created="2024-01-01T00:00:00.000000000Z")
    second = policy("second", ip="192.168.1.101", created="2024-01-02T00:00:00.000000000Z")
    index = index_of(gateway("192.168.1.100", "192.168.1.101"), pod("web"), first, second)
    assert str(index.selections()[pod_key("web")].rule_set.entries[0][1]) == "192.168.1.100"
    recreated = policy("first", ip="192.168.1.100", created="2024-01-03T00:00:00.000000000Z")
    delta = index.apply([Upsert(recreated)])
    assert str(delta.selections[pod_key("web")].rule_set.entries[0][1]) == "192.168.1.101"


def test_floating_ips_change_states_but_never_selections(example: PolicyIndex) -> None:
    delta = example.apply([Upsert(gateway("192.168.1.101"))])
    assert (delta.selections, delta.gateway_changed) == ({}, True)
    assert delta.policies[EXAMPLE.key].reason == "UnknownEgressIP"
    assert delta.policies[EXAMPLE.key].accepted
    assert example.gateway() == gateway("192.168.1.101")
    delta = example.apply([Delete(gateway().key)])
    assert "no AnthosNetworkGateway" in delta.policies[EXAMPLE.key].message
    delta = example.apply([Upsert(gateway("192.168.1.100"))])
    assert delta.policies[EXAMPLE.key].reason == "Accepted"


def test_another_gateway_object_is_not_used(example: PolicyIndex) -> None:
    other = NetworkGateway(ObjectKey(Kind.GATEWAY, "shop", "default"), (IPv4Address("10.9.9.9"),))
    assert example.apply([Upsert(other), Delete(other.key)]) == PolicyDelta()


def test_w12_everything_is_refused_without_pod_ranges() -> None:
    index = index_of(policy(to=("0.0.0.0/0",)), pod("web"), pod_cidrs_known=False)
    assert index.policy_states()[policy_key("egress")].reason == "ClusterCIDRsUnknown"
    assert index.selections() == {}


def test_created_and_deleted_in_one_batch_is_no_news(example: PolicyIndex) -> None:
    brief = policy("brief", ip="192.168.1.102")
    changes = [Upsert(brief), Upsert(pod("x", "10.0.0.77")), Delete(pod_key("x")), Delete(brief.key)]
    delta = example.apply([*changes, Errors(()), Synced()])
    assert delta == PolicyDelta()


# A naive second implementation, written from the user's words and nothing else.


def naive_holds(chosen: LabelSelector, labels: Mapping[str, str]) -> bool:
    verdicts = [key in labels and labels[key] == value for key, value in chosen.match_labels]
    for entry in chosen.match_expressions:
        inside = key_value in entry.values if (key_value := labels.get(entry.key)) is not None else None
        verdicts.append(
            {
                Operator.IN: inside is True,
                Operator.NOT_IN: inside is not True,
                Operator.EXISTS: inside is not None,
                Operator.DOES_NOT_EXIST: inside is None,
            }[entry.operator]
        )
    return all(verdicts)


class Naive:
    """Remembers everything, computes everything anew."""

    def __init__(self) -> None:
        self.items: dict[ObjectKey, Object] = {}
        self.claims: list[tuple[IPv4Address, ObjectKey, str]] = []

    def apply(self, changes: Iterable[Change]) -> None:
        for change in changes:
            key = change.object.key if isinstance(change, Upsert) else change.key
            if isinstance(change, Delete):
                self.items.pop(key, None)
                self.claims = [claim for claim in self.claims if claim[1] != key]
                continue
            self.items[key] = change.object
            if isinstance(change.object, Pod):
                claim = (change.object.ip, key, change.object.uid)
                if claim not in self.claims:
                    self.claims = [*(c for c in self.claims if c[1] != key), claim]

    def labels_of(self, name: str) -> dict[str, str]:
        item = self.items.get(ObjectKey(Kind.NAMESPACE, "", name))
        labels = dict(item.labels) if isinstance(item, Namespace) else {}
        return labels | {"kubernetes.io/metadata.name": name}

    def pods(self) -> list[Pod]:
        owners = {ip: key for ip, key, _ in self.claims}
        pods = [item for item in self.items.values() if isinstance(item, Pod)]
        return [item for item in pods if item.ip is not None and owners[item.ip] == item.key]

    def policies(self) -> list[EgressPolicy]:
        found = [item for item in self.items.values() if isinstance(item, EgressPolicy)]
        return sorted(found, key=lambda item: (item.created, item.key.name))

    def accepted(self) -> list[EgressPolicy]:
        taken: dict[IPv4Address, EgressPolicy] = {}
        for item in self.policies():
            taken.setdefault(item.egress_source_ip, item)
        return [item for item in self.policies() if taken[item.egress_source_ip] is item]

    def does_match(self, item: EgressPolicy, chosen: Pod) -> bool:
        spaces = self.labels_of(chosen.key.namespace)
        return any(
            naive_holds(rule.namespace_selector, spaces) and naive_holds(rule.pod_selector, dict(chosen.labels))
            for rule in item.rules
        )

    def selections(self) -> dict[ObjectKey, tuple[Pod, dict[object, object]]]:
        result = {}
        for chosen in self.pods():
            entries: dict[object, object] = {}
            for item in self.accepted():
                if self.does_match(item, chosen):
                    entries = dict.fromkeys(item.destinations, item.egress_source_ip) | entries
            if entries:
                result[chosen.key] = (chosen, entries)
        return result

    def states(self) -> dict[ObjectKey, tuple[bool, str, int]]:
        gateways = [item for item in self.items.values() if isinstance(item, NetworkGateway)]
        listed = [ip for item in gateways for ip in item.floating_ips]
        states = {}
        for item in self.policies():
            reason = "Accepted" if item.egress_source_ip in listed else "UnknownEgressIP"
            if item not in self.accepted():
                reason = "EgressIPConflict"
            count = sum(self.does_match(item, chosen) for chosen in self.pods())
            states[item.key] = (reason != "EgressIPConflict", reason, count)
        return states


KEYS, VALUES, NAMES = st.sampled_from(["k", "l", "m"]), st.sampled_from(["1", "2", "3"]), st.sampled_from("abc")
LABELS = st.dictionaries(KEYS, VALUES, max_size=3)
REQUIREMENTS = st.one_of(
    st.builds(
        lambda key, operator, values: requirement(key, operator, *values),
        KEYS,
        st.sampled_from(["In", "NotIn"]),
        st.lists(VALUES, min_size=1, max_size=2, unique=True),
    ),
    st.builds(requirement, KEYS, st.sampled_from(["Exists", "DoesNotExist"])),
)
SELECTORS = st.builds(
    lambda labels, expressions: selector(labels, *expressions),
    st.dictionaries(KEYS, VALUES, max_size=1),
    st.lists(REQUIREMENTS, max_size=2),
)
IPS = st.sampled_from(["192.168.1.1", "192.168.1.2", "192.168.1.3"])
POLICIES = st.builds(
    lambda name, ip, to, rules, created: policy(name, ip=ip, to=to, rules=rules, created=created),
    st.sampled_from(["p", "q", "r", "s"]),
    IPS,
    st.lists(st.sampled_from(["8.0.0.0/8", "8.8.0.0/16", "9.0.0.0/8"]), min_size=1, max_size=2, unique=True),
    st.lists(st.builds(EgressRule, SELECTORS, SELECTORS), min_size=1, max_size=2),
    st.sampled_from(["2024-01-01T00:00:00.000000000Z", "2024-01-02T00:00:00.000000000Z"]),
)
PODS = st.builds(
    lambda name, ip, space, uid, labels: pod(name, ip, namespace=space, uid=uid, **labels),
    st.sampled_from(["u", "v", "w", "x"]),
    st.sampled_from([None, "10.0.0.1", "10.0.0.2"]),
    NAMES,
    st.sampled_from(["1", "2"]),
    LABELS,
)
NAMESPACES = st.builds(lambda name, labels: namespace(name, **labels), NAMES, LABELS)
GATEWAYS = st.builds(lambda ips: gateway(*ips), st.lists(IPS, max_size=3, unique=True))
OBJECTS = st.one_of(PODS, PODS, POLICIES, NAMESPACES, GATEWAYS)
CHANGES = st.one_of(OBJECTS.map(Upsert), OBJECTS.map(Upsert), OBJECTS.map(lambda item: Delete(item.key)))
BATCHES = st.lists(st.lists(CHANGES, max_size=6), max_size=8)


def view(index: PolicyIndex) -> tuple[object, object]:
    chosen = {key: (item.pod, dict(item.rule_set.entries)) for key, item in index.selections().items()}
    states = {key: (s.accepted, s.reason, s.matched_pods) for key, s in index.policy_states().items()}
    return chosen, states


@settings(max_examples=300, deadline=None)
@given(BATCHES)
def test_the_index_agrees_with_the_naive_matcher_after_every_batch(batches: list[list[Change]]) -> None:
    index, naive = PolicyIndex(pod_cidrs_known=True), Naive()
    followed: dict[ObjectKey, object] = {}
    states: dict[ObjectKey, object] = {}
    for batch in batches:
        delta = index.apply(batch)
        naive.apply(batch)
        assert view(index) == (naive.selections(), naive.states())
        # Whoever follows the deltas ends where the index is.
        for mirror, changed in ((followed, delta.selections), (states, delta.policies)):
            for key, value in changed.items():
                if value is None:
                    assert mirror.pop(key, None) is not None
                else:
                    assert mirror.get(key) != value
                    mirror[key] = value
        assert states == dict(index.policy_states())
        # A pod's labels may change without news; all else is told.
        rows = {key: (i.pod.uid, i.pod.ip, i.pod.node, i.rule_set) for key, i in index.selections().items()}
        assert {key: (i.pod.uid, i.pod.ip, i.pod.node, i.rule_set) for key, i in followed.items()} == rows


@settings(max_examples=200, deadline=None)
@given(BATCHES)
def test_incremental_equals_full_rebuild(batches: list[list[Change]]) -> None:
    index, naive = PolicyIndex(pod_cidrs_known=True), Naive()
    for batch in batches:
        index.apply(batch)
        naive.apply(batch)
    # Addresses go to the pod that brought them last, so a rebuild takes pods in that order.
    order = {key: rank for rank, (_, key, _) in enumerate(naive.claims)}
    rest = [item for item in naive.items.values() if item.key not in order]
    pods = sorted((item for item in naive.items.values() if item.key in order), key=lambda item: order[item.key])
    rebuilt = index_of(*rest, *pods)
    assert dict(index.selections()) == dict(rebuilt.selections())
    assert dict(index.policy_states()) == dict(rebuilt.policy_states())
    assert index.gateway() == rebuilt.gateway()


@settings(max_examples=100, deadline=None)
@given(BATCHES)
def test_nothing_is_left_when_everything_is_gone(batches: list[list[Change]]) -> None:
    index, naive = PolicyIndex(pod_cidrs_known=True), Naive()
    for batch in batches:
        index.apply(batch)
        naive.apply(batch)
    index.apply([Delete(key) for key in naive.items])
    assert (index.selections(), index.policy_states(), index.gateway()) == ({}, {}, None)
    # Byte for byte it is an index that never saw anything, so no table of it can have kept a trace.
    assert pickle.dumps(index) == pickle.dumps(PolicyIndex(pod_cidrs_known=True))
