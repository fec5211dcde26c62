"""The one intake of agents and controllers."""

import logging
from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from service.model.errors import ObjectError
from service.model.gateway_node import GatewayNode, NodeRole
from service.model.objects import ClusterNode, Delete, Errors, Kind, LabelSelector, ObjectKey, Synced, Upsert
from service.settings import DatapathSettings
from service.sources.intake import Intake
from tests.gateway.nodes import node
from tests.policy.objects import gateway, policy, policy_key

NODE = ClusterNode(ObjectKey(Kind.CLUSTER_NODE, "", "w1"), NodeRole.WORKER, pod_ranges=(IPv4Network("10.244.1.0/24"),))


def test_a_policy_for_everything_waits_for_the_first_known_pod_range_and_is_refused_again_without() -> None:
    intake = Intake(DatapathSettings())
    intake.take((Upsert(gateway()), Upsert(policy("all", to=("0.0.0.0/0",)))))
    assert not intake.index.policy_states()[policy_key("all")].accepted
    delta = intake.take((Upsert(NODE),))
    assert delta.policies[policy_key("all")].accepted  # type: ignore[union-attr]
    delta = intake.take((Delete(NODE.key),))
    assert delta.policies[policy_key("all")].reason == "ClusterCIDRsUnknown"  # type: ignore[union-attr]


def test_configured_pod_ranges_need_no_node_objects() -> None:
    intake = Intake(DatapathSettings(pod_cidrs=("10.0.0.0/8",)))
    intake.take((Upsert(gateway()), Upsert(policy("all", to=("0.0.0.0/0",)))))
    assert intake.index.policy_states()[policy_key("all")].accepted


def test_errors_are_kept_and_each_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    intake, error = Intake(DatapathSettings()), ObjectError("kubernetes", "EgressNATPolicy", "a", "spec", "is wrong")
    intake.take((Errors((error,)),))
    intake.take((Errors((error,)),))
    assert intake.errors == (error,)
    assert len(caplog.records) == 1
    intake.take((Errors(()),))
    assert intake.errors == ()


def test_synced_is_only_what_the_source_called_so() -> None:
    intake = Intake(DatapathSettings())
    intake.take((Upsert(gateway()),))
    assert not intake.is_synced
    intake.take((Synced(),))
    assert intake.is_synced


def test_what_a_source_that_begins_again_does_not_tell_until_it_is_synced_is_gone() -> None:
    intake = Intake(DatapathSettings(pod_cidrs=("10.0.0.0/8",)))
    intake.take((Upsert(gateway()), Upsert(policy("kept")), Upsert(policy("gone")), Synced()))
    intake.begin_again()
    intake.take((Upsert(gateway()), Upsert(policy("kept"))))
    assert set(intake.index.policy_states()) == {policy_key("kept"), policy_key("gone")}, "absence means nothing yet"
    intake.take((Synced(),))
    assert set(intake.index.policy_states()) == {policy_key("kept")}


def test_what_was_deleted_between_two_beginnings_is_not_deleted_twice() -> None:
    intake = Intake(DatapathSettings(pod_cidrs=("10.0.0.0/8",)))
    intake.take((Upsert(policy("gone")), Synced()))
    intake.begin_again()
    intake.take((Delete(policy_key("gone")), Synced()))
    intake.begin_again()
    intake.take((Synced(),))
    assert dict(intake.index.policy_states()) == {}


def selected(intake: Intake, *members: GatewayNode) -> dict[str, bool]:
    return {item.name: item.selected for item in intake.gateway_nodes(members, ())}


def test_o2_the_gateways_selector_is_asked_of_the_labels_of_node_objects() -> None:
    intake = Intake(DatapathSettings())
    members = (node("w1", "10.0.0.1/24"), node("w2", "10.0.0.2/24"))
    intake.take((Upsert(gateway()), Upsert(labelled("w1", rack="a")), Upsert(labelled("w2", rack="b"))))
    assert selected(intake, *members) == {"w1": True, "w2": True}
    intake.take((Upsert(replace(gateway(), node_selector=LabelSelector((("rack", "a"),)))),))
    assert selected(intake, *members) == {"w1": True, "w2": False}
    intake.take((Upsert(labelled("w2", rack="a")),))
    assert selected(intake, *members) == {"w1": True, "w2": True}
    intake.take((Upsert(replace(gateway(), node_selector=LabelSelector())),))
    assert selected(intake, *members) == {"w1": True, "w2": True}, "an empty selector matches everything"


def test_o2_without_a_node_object_the_labels_of_the_nodes_settings_count_and_its_name() -> None:
    intake = Intake(DatapathSettings())
    members = (replace(node("w1", "10.0.0.1/24"), labels=(("rack", "a"),)), node("w2", "10.0.0.2/24"))
    intake.take((Upsert(replace(gateway(), node_selector=LabelSelector((("rack", "a"),)))),))
    assert selected(intake, *members) == {"w1": True, "w2": False}
    intake.take((Upsert(replace(gateway(), node_selector=LabelSelector((("kubernetes.io/hostname", "w2"),)))),))
    assert selected(intake, *members) == {"w1": False, "w2": True}


def labelled(name: str, **labels: str) -> ClusterNode:
    return ClusterNode(ObjectKey(Kind.CLUSTER_NODE, "", name), NodeRole.WORKER, labels=tuple(sorted(labels.items())))
