"""What is told of policies whose pods get no new flows, by whose word, and of nothing else."""

from ipaddress import IPv4Address

import pytest

from service.gateway.row import MemberMetadata
from service.gossip.member import Member, MemberState
from service.model.gateway_node import NodeRole, NodeState
from service.model.machine import Address
from service.model.objects import Delete, Upsert
from service.report.exhaustion import NOT_EXHAUSTED, Exhaustion, refusals_of
from service.report.objects import object_problems, object_status
from tests.policy.objects import pod, pod_key, policy, selector
from tests.report.facts import FIRST, SECOND, Site, node, two_held

EGRESS = policy("egress").key
KINDS = ["QuotaReached", "PortsExhausted"]


def told_by(name: str, *, quota: tuple[str, ...] = (), ports: tuple[str, ...] = ()) -> tuple[Member, MemberMetadata]:
    """A member, and for which floating IPs it says that it drops new flows."""
    metadata = MemberMetadata(
        NodeRole.WORKER,
        True,
        True,
        (),
        "1",
        1,
        over_quota=tuple(map(IPv4Address, quota)),
        out_of_ports=tuple(map(IPv4Address, ports)),
    )
    return Member(name, Address("10.0.0.1", 9640), MemberState.ALIVE, b"", 1), metadata


def two_policies() -> Site:
    """`egress` from FIRST has a pod on each worker, `other` from SECOND has one on worker2 alone."""
    site = two_held()
    for number, (name, app, worker) in enumerate(
        (("a", "web", "worker1"), ("b", "web", "worker2"), ("c", "db", "worker2")), start=1
    ):
        site.take(Upsert(pod(name, f"10.244.0.{number}", node=worker, app=app)))
    web, database = selector({"app": "web"}), selector({"app": "db"})
    site.take(Upsert(policy("egress", ip=FIRST, pods=web)), Upsert(policy("other", ip=SECOND, pods=database)))
    return site


def told(site: Site) -> set[tuple[str, str, str]]:
    """(policy, reason, message) of all that is told of new flows; by conditions, and the same by Events."""
    facts = site.facts()
    found = {
        (key.name, item["type"], item["message"])
        for key, status in object_status(facts).items()
        for item in status["conditions"]
        if item["type"] in KINDS
    }
    events = {(event.regarding.name, event.reason, event.note) for event in object_problems(facts)}
    assert events == found
    return found


def reasons(site: Site) -> set[tuple[str, str]]:
    return {(name, reason) for name, reason, _ in told(site)}


def test_while_no_node_says_anything_no_policy_has_such_a_condition() -> None:
    site = two_policies()
    assert told(site) == set()
    site.members = {name: told_by(name) for name in ("worker1", "worker2")}
    assert told(site) == set()


@pytest.mark.parametrize(
    ("site_says", "reason", "words"),
    [
        ({"quota": (FIRST,)}, "QuotaReached", "pods on node worker1 have as many flows as a pod may have"),
        ({"ports": (FIRST,)}, "PortsExhausted", f"on node worker1 all ports of {FIRST} that the node has are taken"),
    ],
)
def test_b4_q4_a_policy_whose_pods_get_no_new_flows_says_where_and_why_and_the_others_say_nothing(
    site_says: dict[str, tuple[str, ...]], reason: str, words: str
) -> None:
    site = two_policies()
    site.members = {"worker1": told_by("worker1", **site_says)}
    ((name, found, message),) = told(site)
    assert (name, found) == ("egress", reason)
    assert words in message
    ready = {item["type"]: item["status"] for item in object_status(site.facts())[EGRESS]["conditions"]}
    assert (ready["Ready"], ready[reason]) == ("True", "True"), "what is open goes on"
    site.members["worker1"] = told_by("worker1")
    assert told(site) == set()


def test_b4_q4_a_node_is_not_believed_of_a_policy_that_has_no_pods_there() -> None:
    site = two_policies()
    site.members = {"worker1": told_by("worker1", quota=(SECOND,), ports=(SECOND,))}
    assert told(site) == set()
    site.take(Upsert(pod("d", "10.244.0.9", node="worker1", app="db")))
    assert reasons(site) == {("other", "QuotaReached"), ("other", "PortsExhausted")}
    site.take(Delete(pod_key("d")))
    assert told(site) == set()


def test_b4_q4_what_a_node_said_before_it_went_down_or_was_removed_is_not_told_for_ever() -> None:
    site = two_policies()
    site.members = {"worker1": told_by("worker1", quota=(FIRST,))}
    assert reasons(site) == {("egress", "QuotaReached")}
    site.nodes = (node("worker1", 1, state=NodeState.DOWN), node("worker2", 2))
    assert told(site) == set()
    site.nodes = (node("worker2", 2),)
    assert told(site) == set()


def test_b4_q4_a_policy_that_is_not_in_force_is_told_nothing_of_the_address_that_another_one_has() -> None:
    site = two_policies()
    site.take(Upsert(policy("younger", ip=FIRST, created="2030-01-01T00:00:00Z")))
    site.members = {"worker1": told_by("worker1", quota=(FIRST,))}
    facts = site.facts()
    assert facts.exhausted == {EGRESS: Exhaustion(over_quota=("worker1",))}


def test_b4_q4_both_are_told_each_with_its_nodes_of_many_some() -> None:
    names = tuple(f"worker{number}" for number in range(1, 8))
    (quota, ports) = refusals_of(IPv4Address(FIRST), Exhaustion(names[:2], names))
    assert "pods on nodes worker1, worker2 have" in quota.message
    assert "on nodes worker1, worker2, worker3 and 4 more all ports" in ports.message
    assert [quota.reason, ports.reason] == KINDS
    assert refusals_of(IPv4Address(FIRST), NOT_EXHAUSTED) == []
