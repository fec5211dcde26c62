import pickle
from collections.abc import Mapping

import pytest

from service.model.objects import EgressRule
from service.policy import pod_table as module
from service.policy.pod_table import PodTable
from service.policy.selector import is_rule_match
from tests.policy.objects import namespace, pod, pod_key, policy, requirement, selector


def test_the_newest_pod_owns_a_reused_address() -> None:
    table = PodTable()
    table.put(pod("old", "10.0.0.1"))
    assert table.put(pod("new", "10.0.0.1")) == (pod_key("new"), pod_key("old"))
    assert table.get(pod_key("old")) is None
    assert table.get(pod_key("new")) == pod("new", "10.0.0.1")


def test_a_stale_pod_does_not_take_its_address_back() -> None:
    table = PodTable()
    table.put(pod("old", "10.0.0.1"))
    table.put(pod("new", "10.0.0.1"))
    assert table.put(pod("old", "10.0.0.1", phase="terminating")) == ()
    assert table.get(pod_key("new")) is not None


def test_another_uid_is_another_pod() -> None:
    table = PodTable()
    table.put(pod("db-0", "10.0.0.1", uid="1"))
    table.put(pod("web", "10.0.0.1"))
    table.put(pod("db-0", "10.0.0.1", uid="2"))
    assert table.get(pod_key("db-0")) is not None
    assert table.get(pod_key("web")) is None


def test_when_the_owner_goes_the_other_claimant_has_the_address() -> None:
    table = PodTable()
    table.put(pod("old", "10.0.0.1"))
    table.put(pod("new", "10.0.0.1"))
    assert table.remove(pod_key("new")) == (pod_key("new"), pod_key("old"))
    assert table.get(pod_key("old")) is not None


def test_when_the_owner_moves_away_the_other_claimant_has_the_address() -> None:
    table = PodTable()
    table.put(pod("old", "10.0.0.1"))
    table.put(pod("new", "10.0.0.1"))
    assert table.put(pod("new", "10.0.0.2")) == (pod_key("new"), pod_key("old"))
    assert table.get(pod_key("old")) is not None


def test_pods_without_address_are_not_candidates() -> None:
    table = PodTable()
    assert table.put(pod("pending", None, role="x")) == ()
    assert table.matching(policy(pods=selector({"role": "x"})).rules) == {}


def test_a_namespace_without_object_has_its_name_as_label() -> None:
    table = PodTable()
    table.put(pod("web"))
    by_name = policy(namespaces=selector({"kubernetes.io/metadata.name": "shop"})).rules
    assert list(table.matching(by_name)) == [pod_key("web")]
    table.put_namespace("shop", namespace("shop", **{"kubernetes.io/metadata.name": "forged"}).labels)
    assert list(table.matching(by_name)) == [pod_key("web")]


def test_candidates_come_from_the_smaller_side(monkeypatch: pytest.MonkeyPatch) -> None:
    table = PodTable()
    for number in range(50):
        table.put(pod(f"p{number}", f"10.0.1.{number}", namespace="big", role="frontend"))
    table.put(pod("one", "10.0.2.1", namespace="small", role="frontend"))
    table.put_namespace("small", namespace("small", user="alice").labels)
    (rule,) = policy(pods=selector({"role": "frontend"}), namespaces=selector({}, requirement("user", "Exists"))).rules
    asked = []

    def is_asked(rule: EgressRule, labels: Mapping[str, str], namespace_labels: Mapping[str, str]) -> bool:
        asked.append(namespace_labels["kubernetes.io/metadata.name"])
        return is_rule_match(rule, labels, namespace_labels)

    monkeypatch.setattr(module, "is_rule_match", is_asked)
    assert list(table.matching((rule,))) == [pod_key("one", "small")]
    assert asked == ["small"], "fifty others carry the label, and none of them was looked at"


def test_removal_leaves_nothing_behind() -> None:
    table = PodTable()
    table.put(pod("a", role="x"))
    table.put_namespace("shop", (("user", "alice"),))
    table.put_namespace("shop", None)
    table.remove(pod_key("a"))
    assert table.matching(policy().rules) == {}
    # Byte for byte it is a table that never held anything.
    assert pickle.dumps(table) == pickle.dumps(PodTable())
