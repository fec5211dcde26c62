"""What a controller knows, and when that is enough."""

from dataclasses import replace
from ipaddress import IPv4Address

from service.controller.holders import AGE_NS_MAX
from service.controller.placement import PATIENCE_NS
from service.lease.observer import Observation
from service.model.assignment import Assignment, PlannedMove
from service.model.gateway_node import NodeRole, NodeState
from service.model.lease import Stamp, Token
from service.model.objects import ClusterNode, Delete, Kind, LabelSelector, NetworkGateway, ObjectKey, Upsert
from service.report.exhaustion import Exhaustion
from service.report.objects import GATEWAY
from tests.controller.cluster import member
from tests.controller.site import MS, A, B, Site
from tests.policy.objects import pod, policy
from tests.report.facts import node

EGRESS = policy("egress").key


def known() -> Site:
    site = Site()
    site.list_only(A, B)
    site.answer(a="worker1")
    return site


def say(site: Site, name: str) -> None:
    """There is a Node object of that name."""
    site.intake.take((Upsert(ClusterNode(ObjectKey(Kind.CLUSTER_NODE, "", name), NodeRole.WORKER)),))


def test_what_is_missing_to_lead_is_named_and_nothing_else() -> None:
    site = Site()
    assert site.knowledge.gaps() == ["objects have not been read yet", "no majority of electors answers"]
    site.list_only(A)
    assert site.knowledge.gaps() == ["no majority of electors answers"]
    site.answer()
    assert site.knowledge.gaps() == []
    site.now_ns += AGE_NS_MAX
    assert site.knowledge.gaps() == ["no majority of electors answers"]


def test_there_are_no_facts_for_who_does_not_lead_or_knows_too_little() -> None:
    site = known()
    assert site.knowledge.facts(None) is None
    assert site.knowledge.facts(7) is not None
    site.now_ns += AGE_NS_MAX
    assert site.knowledge.facts(7) is None


def test_a_controller_without_sight_of_an_elector_waits_from_its_start() -> None:
    site = known()
    site.cluster.known = {}
    assert not site.knowledge.has_caught_up()
    site.now_ns += PATIENCE_NS + 1
    site.answer()
    assert site.knowledge.has_caught_up()


def test_facts_are_of_the_moment_at_which_they_were_made() -> None:
    site = known()
    stray = pod("a", "10.9.0.1")
    say(site, "worker1")
    site.intake.take((Upsert(policy("egress")), Upsert(stray)))
    facts = site.knowledge.facts(7)
    say(site, "worker2")
    site.intake.take((Delete(EGRESS), Delete(stray.key)))
    site.list_only(A)
    site.answer(a="worker2")
    assert facts is not None
    assert (facts.term, list(facts.policies), list(facts.created)) == (7, [EGRESS], [EGRESS])
    assert (list(facts.cluster_nodes), list(facts.strays)) == (["worker1"], [stray.key])
    assert facts.holders == {A: ("worker1", Token(7, 1, 1))}
    assert facts.gateway is not None
    assert facts.gateway.floating_ips == (A, B)


def test_w12_facts_tell_which_policies_name_what_is_never_steered() -> None:
    site = known()
    site.server = IPv4Address("203.0.113.9")
    site.intake.take((Upsert(policy("egress", to=("203.0.113.0/24",))), Upsert(policy("other"))))
    facts = site.knowledge.facts(7)
    assert facts is not None
    assert {key.name: exempted.parts for key, exempted in facts.exempted.items()} == {
        "egress": ("203.0.113.9/32 (API server)",),
        "other": (),
    }


def test_b4_q4_facts_tell_which_policies_pods_get_no_new_flows_by_the_word_of_their_nodes() -> None:
    site = known()
    site.intake.take((Upsert(policy("egress", ip=str(A))), Upsert(pod("web", "10.244.0.1", node="worker1"))))
    alive, metadata = member("worker1")
    site.cluster.known = {"worker1": (alive, replace(metadata, over_quota=(A,)))}
    facts = site.knowledge.facts(7)
    assert facts is not None
    assert facts.exhausted == {EGRESS: Exhaustion(over_quota=("worker1",))}


def test_facts_tell_how_old_a_policy_is_and_what_gossip_says() -> None:
    site = known()
    site.intake.take((Upsert(policy("egress", created="2024-05-05T00:00:00.000000000Z")),))
    site.cluster.strangers = {A: b"\x02\0\0\0\0\x63"}
    site.cluster.known = {"worker1": member("worker1")}
    facts = site.knowledge.facts(7)
    assert facts is not None
    assert facts.created == {EGRESS: "2024-05-05T00:00:00.000000000Z"}
    assert (facts.conflicts, facts.members) == (site.cluster.strangers, site.cluster.known)


def test_a_dead_node_that_was_removed_is_none_any_more_unless_it_holds_an_address() -> None:
    site = known()
    say(site, "worker2")
    site.cluster.nodes = (node("worker1", 1, state=NodeState.DOWN), node("worker2", 2))
    assert [found.name for found in site.knowledge.nodes()] == ["worker1", "worker2"]
    site.answer()
    assert [found.name for found in site.knowledge.nodes()] == ["worker2"]


def test_sightings_are_there_for_who_does_not_lead_and_tell_when_each_holder_renewed() -> None:
    site = known()
    site.now_ns += 100 * MS
    seen = site.knowledge.sightings()
    assert (dict(seen.holders), dict(seen.renewed_ns)) == ({A: ("worker1", Token(7, 1, 1))}, {A: 0})
    assert [found.name for found in seen.nodes] == ["worker1", "worker2"]


def test_a_controller_that_loses_sight_of_the_electors_sees_no_holder() -> None:
    site = known()
    site.now_ns += AGE_NS_MAX
    assert site.knowledge.sightings().holders == {}


def test_what_is_lost_is_named_the_gravest_first() -> None:
    site = known()
    assert site.knowledge.loss(is_leading=False).reason == "NoLeader"
    site.table.observe({"leader": Observation("controller9", Token(7, 0, 1), 0)}, now_ns=0)
    assert site.knowledge.loss(is_leading=False).reason == "LeaderSilent"
    assert "controller9" in site.knowledge.loss(is_leading=False).message
    site.cluster.known = {}
    assert site.knowledge.loss(is_leading=True).reason == "LeaderUnready"
    site.now_ns += AGE_NS_MAX
    lost = site.knowledge.loss(is_leading=True)
    assert lost.reason == "MajorityLost"
    assert lost.message == "no majority of electors answers"
    site.silent = ("worker1",)
    assert site.knowledge.loss(is_leading=False).message == (
        "no majority of electors answers: of worker1 are silent: worker1"
    )


def test_why_an_address_is_on_no_node_is_said_in_the_words_of_whoever_knows() -> None:
    site = known()
    why = site.knowledge.why(wall_ns=0)
    assert why == {A: "", B: f"no leader has assigned {B} to a node yet; and no controller leads"}
    site.cluster.rows = {B: Assignment(B, None, None, Stamp(7, 1), "no node has an interface in its subnet")}
    site.table.observe({"leader": Observation("controller9", Token(7, 0, 1), 0)}, now_ns=0)
    assert site.knowledge.why(wall_ns=0)[B] == "no node has an interface in its subnet"
    site.cluster.strangers = {B: b"\x02\0\0\0\0\x63"}
    assert "02:00:00:00:00:63 answers" in site.knowledge.why(wall_ns=0)[B]


def test_why_names_the_end_of_the_lease_that_a_dead_node_leaves_behind() -> None:
    site = known()
    site.cluster.nodes = (node("worker1", 1, state=NodeState.DOWN), node("worker2", 2))
    assert site.knowledge.why(wall_ns=1_700_000_000_000_000_000)[A] == (
        "node worker1 is down, and holds its lease until 2023-11-14T22:13:20Z at the latest, unless it renews it"
    )


def test_with_the_majority_lost_why_says_so_and_who_held_the_address_last() -> None:
    site = known()
    site.now_ns += AGE_NS_MAX
    why = site.knowledge.why(wall_ns=0)
    assert why[A] == "no majority of electors answers; node worker1 held it last"
    assert why[B] == "no majority of electors answers"
    # What is wrong with the address itself is so whoever votes.
    site.list_only(A, IPv4Address("192.168.1.2"))
    assert "the own address of node worker2" in site.knowledge.why(wall_ns=0)[IPv4Address("192.168.1.2")]


def test_o2_nodes_are_known_with_what_the_gateways_selector_says_of_them() -> None:
    site = Site()
    site.list_only(A)
    selector = LabelSelector((("kubernetes.io/hostname", "worker2"),))
    site.intake.take((Upsert(NetworkGateway(GATEWAY, (A,), 2, selector)),))
    assert {node.name: node.selected for node in site.knowledge.nodes()} == {"worker1": False, "worker2": True}


def test_o5_facts_tell_what_is_to_move_on_purpose() -> None:
    site = Site()
    site.list_only(A)
    site.answer(a="worker1")
    site.moves = (PlannedMove(A, "worker1", "worker2", "node worker1 is drained"),)
    facts = site.knowledge.facts(7)
    assert facts is not None
    assert facts.moves == site.moves


def test_o3_who_empties_a_node_is_told_apart_and_nobody_is_before_objects_are_read() -> None:
    site = Site()
    site.cluster.nodes = (
        replace(node("worker1", 1), schedulable=False, drained=True),
        node("worker2", 2),
        node("worker3", 3),
        node("worker4", 4),
    )
    for name, fields in (("worker1", {}), ("worker2", {"is_cordoned": True}), ("worker3", {"is_shutting_down": True})):
        site.intake.take((Upsert(ClusterNode(ObjectKey(Kind.CLUSTER_NODE, "", name), NodeRole.WORKER, **fields)),))
    assert site.knowledge.drains() is None
    site.list_only(A)
    said = {"worker1": "by egressgw drain", "worker2": "cordoned", "worker3": "its kubelet shuts it down"}
    assert site.knowledge.drains() == said
