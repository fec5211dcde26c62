import pickle

from service.policy.term_index import TermIndex
from tests.policy.objects import policy, policy_key, requirement, selector


def test_a_pod_event_asks_few_of_many_policies() -> None:
    index = TermIndex()
    for number in range(1000):
        index.add(
            policy(f"p{number}", pods=selector({"role": "frontend"}), namespaces=selector({"user": f"u{number}"}))
        )
    candidates = list(index.candidates({"role": "frontend", "app": "web"}, {"user": "u500"}))
    assert len(candidates) <= 2
    assert list(index.matching({"role": "frontend"}, {"user": "u500"})) == [policy_key("p500")]


def test_a_term_under_several_values_is_asked_once() -> None:
    index = TermIndex()
    index.add(policy("p", pods=selector({}, requirement("tier", "In", "a", "b"))))
    assert len(list(index.candidates({"tier": "a", "other": "b"}, {}))) == 1


def test_rules_of_absence_are_asked_of_every_pod() -> None:
    index = TermIndex()
    index.add(policy("p", pods=selector({}, requirement("legacy", "DoesNotExist"))))
    assert list(index.matching({}, {})) == [policy_key("p")]
    assert list(index.matching({"legacy": "yes"}, {})) == []


def test_only_policies_whose_namespace_side_flips_are_named() -> None:
    index = TermIndex()
    index.add(policy("by-user", namespaces=selector({"user": "alice"})))
    index.add(policy("not-bob", namespaces=selector({}, requirement("user", "NotIn", "bob"))))
    index.add(policy("by-team", namespaces=selector({"team": "blue"})))
    before, after = {"user": "alice", "note": "1"}, {"user": "carol", "note": "2"}
    assert list(index.flipped(["user", "note"], before, after)) == [policy_key("by-user")]


def test_removal_leaves_the_other_policies_alone() -> None:
    index = TermIndex()
    gone, kept = (policy(name, pods=selector({"a": "b"}), namespaces=selector({"user": "alice"})) for name in "gk")
    index.add(gone)
    index.add(kept)
    index.remove(gone)
    assert list(index.matching({"a": "b"}, {"user": "alice"})) == [policy_key("k")]
    assert list(index.flipped(["user"], {"user": "alice"}, {})) == [policy_key("k")]


def test_removal_leaves_nothing_behind() -> None:
    index = TermIndex()
    kept = policy("p", pods=selector({"a": "b"}), namespaces=selector({}, requirement("user", "Exists")))
    index.add(kept)
    assert list(index.flipped(["user"], {"user": "alice"}, {})) == [policy_key("p")]
    index.remove(kept)
    assert list(index.candidates({"a": "b"}, {"user": "alice"})) == []
    assert list(index.flipped(["user"], {"user": "alice"}, {})) == []
    # Not even an empty bucket: byte for byte it is one that never held anything.
    assert pickle.dumps(index) == pickle.dumps(TermIndex())
