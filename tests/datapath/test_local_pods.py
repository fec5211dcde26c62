"""The pods of one node by address, as they come, go, move and take each other's addresses."""

from ipaddress import IPv4Address

from hypothesis import given, settings
from hypothesis import strategies as st

from service.datapath.local_destinations import LocalDestinations
from service.datapath.local_pods import LocalPods
from service.model.objects import Change, Delete, EgressRule, Upsert
from service.policy.index import PolicyIndex
from tests.policy.objects import gateway, namespace, pod, pod_key, policy, selector

ONE, TWO = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
CHOSEN = policy(rules=[EgressRule(selector(), selector({"app": "a"}))])


def local(*changes: Change) -> tuple[LocalPods, PolicyIndex]:
    index = PolicyIndex(pod_cidrs_known=True)
    index.apply([Upsert(gateway("192.168.1.100")), Upsert(namespace()), Upsert(CHOSEN), *changes])
    return LocalPods("worker1", index), index


def test_only_pods_of_this_node_are_here_and_what_was_known_before_too() -> None:
    known, index = local(Upsert(pod("first", str(ONE), app="a")))
    index.apply([Upsert(pod("second", str(TWO))), Upsert(pod("far", "10.0.0.9", node="worker2", app="a"))])
    assert list(known.pods) == [ONE, TWO]
    assert list(known.selections) == [ONE]


def test_what_changed_is_told_once() -> None:
    known, index = local(Upsert(pod("first", str(ONE), app="a")), Upsert(pod("second", str(TWO))))
    assert list(known.take_changed()) == [ONE, TWO]
    index.apply([Upsert(pod("second", str(TWO), note="nobody selects by this"))])
    assert known.take_changed() == {}
    index.apply([Upsert(pod("second", str(TWO), app="a"))])
    assert list(known.take_changed()) == [TWO]
    assert list(known.take_changed()) == []


def test_an_address_that_passes_to_another_pod_is_the_other_ones_whatever_the_order() -> None:
    known, index = local(Upsert(pod("first", str(ONE), app="a")))
    index.apply([Upsert(pod("second", str(ONE)))])
    assert (known.pods[ONE].key, dict(known.selections)) == (pod_key("second"), {})
    index.apply([Delete(pod_key("first"))])
    assert known.pods[ONE].key == pod_key("second")
    index.apply([Upsert(pod("second", str(TWO))), Upsert(pod("third", str(ONE), app="a"))])
    assert (known.pods[ONE].key, known.pods[TWO].key) == (pod_key("third"), pod_key("second"))
    assert list(known.selections) == [ONE]


def test_a_pod_that_moves_to_another_node_is_gone() -> None:
    known, index = local(Upsert(pod("first", str(ONE), app="a")))
    index.apply([Upsert(pod("first", str(ONE), node="worker2", app="a"))])
    assert (dict(known.pods), dict(known.selections)) == ({}, {})


PODS = st.builds(
    lambda name, ip, uid, node, app: pod(name, ip, uid=uid, node=node, app=app),
    st.sampled_from(["u", "v", "w"]),
    st.sampled_from([None, str(ONE), str(TWO)]),
    st.sampled_from(["1", "2"]),
    st.sampled_from(["worker1", "worker2"]),
    st.sampled_from("ab"),
)
OBJECTS = st.one_of(PODS, PODS, PODS, st.just(CHOSEN), st.just(namespace()))
CHANGES = st.one_of(OBJECTS.map(Upsert), OBJECTS.map(lambda item: Delete(item.key)))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(CHANGES, min_size=1, max_size=5), max_size=12))
def test_it_is_at_all_times_what_a_look_at_all_pods_says(batches: list[list[Change]]) -> None:
    known, index = local()
    destinations = LocalDestinations(known)
    former = destinations.rule_sets
    for batch in batches:
        index.apply(batch)
        here = {one.ip: one.key for one in index.pods_on("worker1")}
        selected = {one.pod.ip: one.rule_set for one in index.selections().values() if one.pod.node == "worker1"}
        assert {place: one.key for place, one in known.pods.items()} == here
        assert {place: one.rule_set for place, one in known.selections.items()} == selected
        destinations.renew(known.take_changed())
        assert destinations.value.pods == {place: one.id for place, one in selected.items()}
        assert destinations.value.sets == {one.id: one.steered for one in selected.values()}
        assert destinations.rule_sets == {one.id: one for one in selected.values()}
        assert (destinations.rule_sets is former) == (destinations.rule_sets == former), "the same until others"
        former = destinations.rule_sets
        assert known.compare(known.keys()) == 0
