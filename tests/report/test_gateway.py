"""What is told of the gateway object: whether its addresses are held, and everything that is wrong."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from service.gateway.row import MemberMetadata
from service.gossip.member import Member, MemberState
from service.model.gateway_node import NodeRole, NodeState
from service.model.machine import Address
from service.model.objects import Delete, Upsert
from service.report.gateway import Problem, gateway_problems, gateway_status
from tests.policy.objects import pod, policy
from tests.report.facts import FIRST, SECOND, Site, node, two_held


def problems(site: Site) -> dict[str, Problem]:
    return {problem.reason: problem for problem in gateway_problems(site.facts())}


def conditions(site: Site, refused: str = "") -> dict[str, dict[str, str]]:
    facts = site.facts()
    assert facts.gateway is not None
    return {item["type"]: item for item in gateway_status(facts, facts.gateway, refused)["conditions"]}


def test_a_gateway_whose_addresses_are_all_held_is_ready_and_nothing_is_wrong() -> None:
    site = two_held()
    assert not problems(site)
    assert list(conditions(site)) == ["Ready"]
    assert (conditions(site)["Ready"]["status"], conditions(site)["Ready"]["reason"]) == ("True", "AllHeld")


def test_without_a_gateway_nothing_is_wrong_with_it() -> None:
    assert gateway_problems(Site((node("worker1", 1),)).facts()) == []


def test_a_node_thought_dead_is_shown_as_the_holder_while_its_lease_lives() -> None:
    site = two_held()
    site.nodes = (node("worker1", 1, state=NodeState.DOWN), node("worker2", 2))
    facts = site.facts()
    assert facts.gateway is not None
    status = gateway_status(facts, facts.gateway, "")
    assert status["nodes"] == {"worker1": "Down", "worker2": "Up"}
    assert status["floatingIPs"] == {FIRST: "worker1", SECOND: "worker2"}


def test_an_address_between_two_holders_is_not_held_though_nothing_is_wrong() -> None:
    site = two_held()
    del site.held[FIRST]
    ready = conditions(site)["Ready"]
    assert (ready["status"], ready["reason"], ready["message"]) == ("False", "NotHeld", f"no node holds {FIRST}")


def test_an_address_for_which_there_is_no_node_is_told_with_why() -> None:
    site = two_held()
    del site.held[FIRST]
    site.place(FIRST, None, "no node has an interface in its subnet")
    assert problems(site)["NoEligibleNode"].subject == FIRST
    assert "no node has an interface" in conditions(site)["NoEligibleNode"]["message"]
    assert (conditions(site)["Ready"]["status"], conditions(site)["Ready"]["reason"]) == ("False", "NoEligibleNode")


def test_o1_an_address_that_stays_where_it_should_not_is_told_with_why() -> None:
    site = two_held()
    site.place(FIRST, "worker1", "node worker1 is drained, and no other node can take it: 1 down")
    assert problems(site)["FloatingIPStays"].message == (
        f"{FIRST} stays on worker1: node worker1 is drained, and no other node can take it: 1 down"
    )
    assert conditions(site)["Ready"]["status"] == "True", "it serves"


def test_a_stranger_at_a_floating_ip_is_told_by_its_mac_and_one_elsewhere_is_not() -> None:
    site = two_held()
    del site.held[FIRST]
    site.conflicts = {IPv4Address("192.168.1.77"): b"\x02\0\0\0\0\x01"}
    assert not problems(site)
    site.conflicts = {IPv4Address(FIRST): b"\x02\0\0\0\0\x63"}
    assert "02:00:00:00:00:63, which is no node's, answers" in problems(site)["FloatingIPConflict"].message
    assert conditions(site)["Ready"]["reason"] == "FloatingIPConflict"


def test_a2_who_else_uses_a_held_address_is_told_and_by_whose_mac() -> None:
    site = two_held()
    site.conflicts = {IPv4Address(FIRST): b"\x02\0\0\0\0\x63"}
    message = conditions(site)["FloatingIPConflict"]["message"]
    assert message.startswith("02:00:00:00:00:63, which is no node's, uses 192.168.1.100 too, which worker1 holds and")
    assert conditions(site)["Ready"]["status"] == "True"
    site.conflicts = {IPv4Address(FIRST): site.nodes[1].segments[0].mac}
    assert f"the MAC of node {site.nodes[1].name}, uses" in conditions(site)["FloatingIPConflict"]["message"]
    site.conflicts = {}
    assert "FloatingIPConflict" not in conditions(site)


def test_a1_an_address_of_a_members_interface_is_told_with_its_node() -> None:
    site = two_held()
    site.nodes = (replace(site.nodes[0], own_addresses=(IPv4Address(FIRST),)), *site.nodes[1:])
    assert "is an address of an interface of node worker1" in conditions(site)["InvalidFloatingIP"]["message"]


def test_a_floating_ip_that_is_a_nodes_own_address_is_told_with_its_place_in_the_spec() -> None:
    site = two_held()
    site.list_only(FIRST, SECOND, "192.168.1.2")
    assert problems(site)["InvalidFloatingIP"].subject == "spec.floatingIPs[2]"


def test_addresses_with_the_same_fault_share_one_condition() -> None:
    site = two_held()
    others = [f"192.168.1.{index}" for index in range(110, 120)]
    site.list_only(FIRST, SECOND, *others)
    for address in others:
        site.place(address, None, "no node is ready")
    found = conditions(site)
    assert list(found) == ["Ready", "NoEligibleNode"]
    assert all(address in found["NoEligibleNode"]["message"] for address in others)


def test_removing_a_floating_ip_that_a_policy_uses_is_told_until_it_is_listed_again() -> None:
    site = two_held()
    site.take(Upsert(policy("egress", ip=FIRST)))
    assert not problems(site)
    site.list_only(SECOND, "192.168.1.102")
    assert f"{FIRST} is in use by EgressNATPolicy egress" in problems(site)["FloatingIPInUse"].message
    assert "list the address, or change the policy" in conditions(site)["FloatingIPInUse"]["message"]
    site.list_only(FIRST, SECOND)
    assert not problems(site)


@pytest.mark.parametrize(("floating_ips", "is_told"), [((FIRST,), True), ((FIRST, SECOND), False), ((), False)])
def test_a_single_floating_ip_in_a_subnet_is_told_and_none_at_all_is_a_choice(
    floating_ips: tuple[str, ...], is_told: bool
) -> None:
    site = two_held()
    site.list_only(*floating_ips)
    assert ("FewFloatingIPs" in problems(site)) is is_told
    if is_told:
        assert f"only one floating IP, {FIRST}, is in 192.168.1.0/24" in problems(site)["FewFloatingIPs"].message


def test_a_pod_outside_the_known_ranges_is_told_with_what_to_set() -> None:
    site = two_held()
    stray = pod("a", "10.9.0.1")
    site.take(Upsert(pod("b", "10.244.1.5")), Upsert(stray))
    message = problems(site)["PodOutsideRanges"].message
    assert "pod shop/a has 10.9.0.1" in message
    assert "set datapath.pod_cidrs" in message
    site.take(Delete(stray.key))
    assert not problems(site)


def told_by(name: str, *unrouted: str) -> tuple[Member, MemberMetadata]:
    """A member, and the floating IPs whose packets find no route at it."""
    metadata = MemberMetadata(NodeRole.WORKER, True, True, (), "1", 1, unrouted=tuple(map(IPv4Address, unrouted)))
    return Member(name, Address("10.0.0.1", 9640), MemberState.ALIVE, b"", 1), metadata


def test_h1_an_address_whose_holder_has_no_route_for_it_is_told_by_that_holder_alone() -> None:
    site = two_held()
    site.members = {"worker1": told_by("worker1", FIRST), "worker2": told_by("worker2", FIRST, "192.168.1.109")}
    found = conditions(site)
    assert f"{FIRST}: its holder worker1 drops packets from it" in found["NoRoute"]["message"]
    assert "worker2" not in found["NoRoute"]["message"]
    site.members["worker1"] = told_by("worker1")
    assert "NoRoute" not in conditions(site), "it was so where the address was before"


def test_q2_nodes_that_lack_ports_of_an_address_are_told_while_it_is_listed() -> None:
    site = two_held()
    site.lacking_ports = {IPv4Address(FIRST): {"worker2": 3, "worker1": 1}}
    assert f"{FIRST}: too few ports are left for nodes worker1, worker2" in problems(site)["FewPorts"].message
    site.list_only(SECOND, "192.168.1.102")
    assert "FewPorts" not in problems(site)


def test_a_version_that_cannot_be_used_leaves_the_last_good_one_in_force_and_is_told() -> None:
    found = conditions(two_held(), "spec.floatingIPs[0]: not an address")
    assert found["Outdated"]["message"] == "the last good version is in force: spec.floatingIPs[0]: not an address"
