"""What one agent's view makes of the maps, above all while it knows little (start, failover, bad addresses)."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from weakref import WeakKeyDictionary

import pytest

from service.datapath import desired, layout
from service.datapath.classification import SETTLED_NS
from service.datapath.desired import LocalUplink, Rows
from service.datapath.formerly_listed import STAYS_NS
from service.datapath.layout import ClusterFlag, MapName, SelectedState, WayKind
from service.datapath.reconciler import Reconciler
from service.datapath.steering import Phase
from service.model.assignment import Assignment, Location
from service.model.gateway_node import GatewayNode, NodeRole, NodeState, Segment
from service.model.lease import Stamp, Token
from service.model.objects import (
    Delete,
    EgressPolicy,
    EgressRule,
    FlowTimeouts,
    Kind,
    LabelSelector,
    Namespace,
    NetworkGateway,
    ObjectKey,
    Pod,
    Upsert,
)
from service.policy.index import PolicyIndex
from service.policy.rule_set import RuleSet
from service.settings import DatapathSettings, GossipSettings, Settings
from tests.datapath.stand_in import StandInPool, grant

FLOATING_IP, SECOND_IP = IPv4Address("192.168.1.100"), IPv4Address("192.168.1.101")
POD_IP = IPv4Address("10.244.1.10")
SECOND_POD = IPv4Address("10.244.1.11")
NETWORK = IPv4Network("192.168.1.0/24")
UPLINK = LocalUplink(2, "eth0", b"\2\0\0\0\0\1", IPv4Interface("192.168.1.21/24"), True)
THEIR_MAC = b"\2\0\0\0\0\2"
TOKEN = Token(1, 1, 1)
POOLS = WeakKeyDictionary[Reconciler, StandInPool]()
"""The maps of each one: a wish is what differs from the last one."""


def node(name: str, last: int, mac: bytes = THEIR_MAC, state: NodeState = NodeState.UP) -> GatewayNode:
    segment = Segment(NETWORK, IPv4Address(f"192.168.1.{last}"), mac)
    return GatewayNode(name, NodeRole.WORKER, state, True, (segment,))


def objects(*floating_ips: IPv4Address) -> list[Upsert]:
    rule = EgressRule(LabelSelector(), LabelSelector())
    key = ObjectKey(Kind.GATEWAY, "kube-system", "default")
    return [
        Upsert(NetworkGateway(key, floating_ips)),
        Upsert(Namespace(ObjectKey(Kind.NAMESPACE, "", "alice"), ())),
        Upsert(Pod(ObjectKey(Kind.POD, "alice", "pod"), "uid", (), "worker1", POD_IP)),
        Upsert(EgressPolicy(ObjectKey(Kind.POLICY, "", "egress"), (rule,), (IPv4Network("8.8.8.0/24"),), FLOATING_IP)),
    ]


def reconciler(*floating_ips: IPv4Address, index: PolicyIndex | None = None) -> Reconciler:
    index = index or PolicyIndex(pod_cidrs_known=True)
    index.apply(objects(*(floating_ips or (FLOATING_IP,))))
    made = Reconciler(Settings(node="worker1"), index)
    made.learn_uplinks((UPLINK,))
    made.learn_steering_device(9)
    made.learn_members((node("worker1", 21, UPLINK.mac), node("worker2", 22)), {})
    return made


def rows(known: Reconciler, maps: StandInPool | None = None) -> dict[str, Rows]:
    """What is wanted once all that it depends on is in the kernel, as far as there is room."""
    maps = POOLS.setdefault(known, maps or StandInPool())
    for _ in range(3):
        grant(known, maps)
    return {name: dict(maps.wanted(name)) for name in maps.wishes}


def test_a_nodes_own_address_never_becomes_a_floating_ip_of_the_fence() -> None:
    """Seen end to end: the fence would drop everything the node sends and receives."""
    known = reconciler(FLOATING_IP, IPv4Address("192.168.1.21"), IPv4Address("192.168.1.22"))
    assert list(rows(known)[MapName.FLOATING_IPS]) == [FLOATING_IP.packed]
    known.learn_members((), {})
    assert IPv4Address("192.168.1.21").packed not in rows(known)[MapName.FLOATING_IPS]


def test_g2_an_address_that_is_taken_from_the_list_stays_behind_the_fence_for_a_while() -> None:
    """Other nodes may steer here by the old list yet, and this node's stack would send it on."""
    index = PolicyIndex(pod_cidrs_known=True)
    known = reconciler(FLOATING_IP, SECOND_IP, index=index)
    known.classify(now_ns=0)
    index.apply(objects(SECOND_IP)[:1])
    for now_ns, is_fenced in ((1, True), (STAYS_NS, True), (1 + STAYS_NS, False)):
        known.classify(now_ns=now_ns)
        rows = known.wish(POOLS.setdefault(known, StandInPool())).whole[MapName.FLOATING_IPS]
        assert (FLOATING_IP.packed in rows, SECOND_IP.packed in rows) == (is_fenced, True)
        assert known.floating_ips() == (SECOND_IP,), "nobody is to hold it"


def test_an_address_that_is_this_nodes_own_now_is_not_fenced_even_then() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    known = reconciler(FLOATING_IP, SECOND_IP, index=index)
    known.classify(now_ns=0)
    index.apply(objects(SECOND_IP)[:1])
    known.classify(now_ns=1)
    known.learn_addresses(frozenset((FLOATING_IP,)))
    assert known.fenced() == (SECOND_IP,)


def test_an_address_that_comes_to_any_interface_leaves_the_fence_at_once_and_comes_back_with_its_going() -> None:
    """The fence would cut off whoever put it there, such as kube-vip."""
    known = reconciler()
    assert known.learn_addresses(frozenset((FLOATING_IP,)))
    assert FLOATING_IP not in known.floating_ips()
    assert known.own_addresses() == (FLOATING_IP,)
    assert not known.learn_addresses(frozenset((FLOATING_IP,)))
    assert known.learn_addresses(frozenset())
    assert FLOATING_IP in known.floating_ips()
    assert known.own_addresses() == ()


def test_the_api_servers_address_is_never_behind_the_fence() -> None:
    """A virtual IP that is on its way from one node to another is on nobody's interface."""
    known = reconciler()
    known.learn_server(FLOATING_IP)
    assert FLOATING_IP not in known.floating_ips()
    assert known.own_addresses() == (FLOATING_IP,)


def test_a_members_own_address_is_not_behind_the_fence_here() -> None:
    known = reconciler()
    owner = replace(node("worker2", 22), own_addresses=(FLOATING_IP,))
    known.learn_members((node("worker1", 21, UPLINK.mac), owner), {})
    assert FLOATING_IP not in known.floating_ips()


def test_a_broadcast_address_never_becomes_a_floating_ip_of_the_fence() -> None:
    known = reconciler(FLOATING_IP, IPv4Address("192.168.1.255"))
    assert list(rows(known)[MapName.FLOATING_IPS]) == [FLOATING_IP.packed]


def test_the_word_with_the_higher_token_wins() -> None:
    known = reconciler()
    assert known.learn_location(Location(FLOATING_IP, "worker2", Token(1, 1, 2)))
    assert not known.learn_location(Location(FLOATING_IP, "worker1", TOKEN))
    assert known.holder_of(FLOATING_IP) == "worker2"


def test_after_a_restart_the_way_stands_until_the_holder_is_heard_of() -> None:
    inherited = {FLOATING_IP.packed: layout.way_value(7, WayKind.L2, 2, UPLINK.mac, THEIR_MAC)}
    known = reconciler()
    known.inherit(inherited, ())
    assert rows(known)[MapName.WAYS] == inherited
    known.learn_location(Location(FLOATING_IP, "worker1", TOKEN))
    assert rows(known)[MapName.WAYS][FLOATING_IP.packed][8] == WayKind.LOCAL


def test_what_nobody_has_confirmed_is_let_go_in_the_end() -> None:
    known = reconciler()
    known.inherit({FLOATING_IP.packed: b"way"}, ())
    known.disinherit()
    assert rows(known)[MapName.WAYS] == {}


def exempt(known: Reconciler) -> set[str]:
    """Single addresses that the programs never steer and netfilter leaves alone, which must be the same ones."""
    hosts = {network for network in known.cluster_networks() if network.prefixlen == 32}
    written = {layout.parse_cluster(*row)[0] for row in rows(known)[MapName.CLUSTER].items()}
    assert written == set(known.cluster_networks())
    return {str(network.network_address) for network in hosts} - {"255.255.255.255"}


def test_w12_of_the_nodes_subnet_only_their_own_addresses_and_floating_ips_are_in_the_cluster() -> None:
    """A server in the nodes' subnet was not steered, without a word."""
    known = reconciler(FLOATING_IP, SECOND_IP)
    assert exempt(known) == {"192.168.1.21", "192.168.1.22", "192.168.1.100", "192.168.1.101"}
    assert not any(IPv4Address("192.168.1.50") in network for network in known.cluster_networks())


def test_w12_a_node_that_has_left_and_an_address_that_is_no_floating_ip_any_more_are_like_any_host() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    known = reconciler(FLOATING_IP, SECOND_IP, index=index)
    known.learn_members((node("worker1", 21, UPLINK.mac),), {})
    index.apply(objects(FLOATING_IP)[:1])
    assert exempt(known) == {"192.168.1.21", "192.168.1.100"}


def test_w12_the_api_server_is_never_steered_by_its_address_or_by_its_services() -> None:
    """In a pod it is known by its service's address: what that is translated to is judged after that."""
    known = reconciler()
    for address in ("203.0.113.9", "10.96.0.1"):
        known.learn_server(IPv4Address(address))
        assert address in exempt(known)
        row = layout.cluster_key(IPv4Network(address))
        assert rows(known)[MapName.CLUSTER][row] == layout.cluster_value(ClusterFlag.SERVICE)


def test_w12_nodes_are_known_before_gossip_has_told_of_them() -> None:
    """By the settings, and of what a former agent knew until that has had its time: no flow to a node may begin as one
    to the outside."""
    settings = Settings(node="worker1", gossip=GossipSettings(seeds=("192.168.1.5", "192.168.1.6:9640")))
    known = Reconciler(settings, PolicyIndex(pod_cidrs_known=True))
    known.learn_uplinks((UPLINK,))
    known.inherit({}, (), (IPv4Address("192.168.1.22"),))
    assert exempt(known) == {"192.168.1.5", "192.168.1.6", "192.168.1.21", "192.168.1.22"}
    known.disinherit()
    assert exempt(known) == {"192.168.1.5", "192.168.1.6", "192.168.1.21"}


def test_a_floating_ip_that_was_removed_has_no_way_and_is_behind_the_fence_only_while_it_is_leased_here() -> None:
    """Seen end to end: pods' packets went on to the former holder, with the bare pod address, for ever.

    And the address, given to a host or to MetalLB, was dead on every node that had ever heard of it.
    """
    index = PolicyIndex(pod_cidrs_known=True)
    known = reconciler(index=index)
    known.learn_location(Location(FLOATING_IP, "worker2", TOKEN))
    assert known.learn_held(frozenset({FLOATING_IP}))
    assert not known.learn_held(frozenset({FLOATING_IP}))
    assert FLOATING_IP.packed in rows(known)[MapName.WAYS]
    index.apply([Delete(ObjectKey(Kind.GATEWAY, "kube-system", "default"))])
    wanted = rows(known)
    assert (wanted[MapName.WAYS], list(wanted[MapName.FLOATING_IPS])) == ({}, [FLOATING_IP.packed])
    assert known.learn_held(frozenset())
    assert rows(known)[MapName.FLOATING_IPS] == {}


def test_where_an_address_was_is_forgotten_once_nobody_lists_it() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    known = reconciler(index=index)
    known.learn_location(Location(FLOATING_IP, "worker2", TOKEN))
    known.learn_members((), {})
    assert FLOATING_IP in known.locations
    index.apply([Delete(ObjectKey(Kind.GATEWAY, "kube-system", "default"))])
    known.learn_members((), {})
    assert known.locations == {}


def test_where_an_address_is_is_known_again_once_somebody_lists_it_again() -> None:
    """Gossip has nothing new to say of it."""
    index = PolicyIndex(pod_cidrs_known=True)
    known = reconciler(index=index)
    told = {FLOATING_IP: Location(FLOATING_IP, "worker2", TOKEN)}
    known.learn_locations(told)
    index.apply([Delete(ObjectKey(Kind.GATEWAY, "kube-system", "default"))])
    known.learn_members((), {})
    assert known.locations == {}
    index.apply(objects(FLOATING_IP)[:1])
    known.learn_members((), {})
    known.learn_locations(told)
    assert known.locations == told


def test_what_the_leader_still_assigns_stays_behind_the_fence() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    known = reconciler(index=index)
    index.apply([Delete(ObjectKey(Kind.GATEWAY, "kube-system", "default"))])
    known.learn_members((), {FLOATING_IP: Assignment(FLOATING_IP, "worker1", None, Stamp(1, 1))})
    assert list(rows(known)[MapName.FLOATING_IPS]) == [FLOATING_IP.packed]


def test_netfilter_leaves_alone_what_the_programs_never_steer() -> None:
    """Seen end to end: under a policy for 0.0.0.0/0 the guard dropped 169.254.169.254, which nothing had marked."""
    assert IPv4Network("169.254.0.0/16") in reconciler().cluster_networks()


def test_w14_what_a_policy_excludes_is_neither_guarded_by_netfilter_nor_steered_by_the_programs() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    known, maps = reconciler(FLOATING_IP, SECOND_IP, index=index), StandInPool()
    wide, hole = IPv4Network("9.9.9.0/24"), IPv4Network("9.9.9.9/32")
    gateway, _, _, old = objects(FLOATING_IP, SECOND_IP)
    policy = replace(old.object, destinations=(wide,), excluded=(hole,))
    index.apply([gateway, Upsert(policy)])
    steering(known, maps)
    rule_set = known.local_selections()[POD_IP].rule_set.id
    assert maps.rows[MapName.RULES] == {
        layout.rule_key(rule_set, wide): layout.rule_value(FLOATING_IP),
        layout.rule_key(rule_set, hole): layout.rule_value(None),
    }
    assert set(known.destinations().sets[rule_set]) == set(wide.address_exclude(hole))


def test_b3_a_policys_timeouts_are_a_row_of_its_rule_set_over_the_nodes_own() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    known, maps = reconciler(FLOATING_IP, SECOND_IP, index=index), StandInPool()
    steering(known, maps)
    node = layout.Limits(7440, 240, 240, 300, 120, 60, 32_768)
    assert maps.rows[MapName.LIMITS] == {layout.limits_key(0): node.packed()}
    gateway, _, _, old = objects(FLOATING_IP, SECOND_IP)
    assert known.connection_lives().udp_s == node.udp_s
    index.apply([gateway, Upsert(replace(old.object, timeouts=FlowTimeouts(udp_s=900)))])
    assert known.connection_lives().udp_s == 900, "connection tracking forgets none sooner"
    index.apply([gateway, Upsert(replace(old.object, timeouts=FlowTimeouts(udp_s=30)))])
    assert known.connection_lives().udp_s == node.udp_s
    steering(known, maps)
    rule_set = known.local_selections()[POD_IP].rule_set.id
    assert {key: layout.parse_limits(value) for key, value in maps.rows[MapName.LIMITS].items()} == {
        layout.limits_key(0): node,
        layout.limits_key(rule_set): replace(node, udp_s=30),
    }


def test_x1_who_holds_the_address_now_or_comes_next_is_asked_and_the_same_question_is_not_made_twice() -> None:
    known = reconciler()
    row = Assignment(FLOATING_IP, "worker2", None, Stamp(1, 1))
    known.learn_members((*known.nodes, node("worker3", 23)), {FLOATING_IP: row})
    known.learn_location(Location(FLOATING_IP, "worker2", TOKEN))
    asked = known.probed()
    assert asked == (("worker2", FLOATING_IP),)
    assert known.probed() is asked
    known.learn_location(Location(FLOATING_IP, "worker3", Token(1, 1, 2)))
    assert known.probed() == (("worker3", FLOATING_IP),)
    known.learn_members(known.nodes, {FLOATING_IP: Assignment(FLOATING_IP, "worker3", "worker2", Stamp(1, 1))})
    assert known.probed() == (("worker3", FLOATING_IP), ("worker2", FLOATING_IP))
    known.learn_members(known.nodes[:2], known.assignments)
    assert known.probed() == (("worker2", FLOATING_IP),), "whoever is gone is not asked"
    known.learn_members(known.nodes, {})
    assert known.probed() == (), "nor is anybody of an address that is in no row: it may be another machine's"


def test_b6_a_policy_counts_from_its_coming_on_and_nothing_is_worked_out_twice() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    known = reconciler(FLOATING_IP, SECOND_IP, index=index)
    first = known.attribution()
    assert known.attribution() is first
    old = objects(FLOATING_IP)[3].object
    index.apply([Upsert(replace(old, egress_source_ip=SECOND_IP))])
    assert known.attribution().label_of(SECOND_IP.packed) == ("egress", SECOND_IP.packed)
    assert known.attribution().label_of(FLOATING_IP.packed) == ("", FLOATING_IP.packed)


def steering(known: Reconciler, maps: StandInPool) -> dict[IPv4Address, Phase]:
    """Run the pods of this node as far as they come."""
    for _ in range(8):
        known.select()
        rows(known, maps)
        known.steering.cleared(known.to_clear(maps))
    return known.steering.phases()


BYSTANDER = IPv4Address("10.244.1.12")


def with_bystander(index: PolicyIndex) -> None:
    """The policy is narrowed to what it selects already, and a pod comes that it does not select."""
    chosen = ("app", "chosen")
    rule = EgressRule(LabelSelector(), LabelSelector((chosen,)))
    index.apply(
        [
            Upsert(Pod(ObjectKey(Kind.POD, "alice", "pod"), "uid", (chosen,), "worker1", POD_IP)),
            Upsert(Pod(ObjectKey(Kind.POD, "alice", "bystander"), "uid-3", (), "worker1", BYSTANDER)),
            Upsert(Pod(ObjectKey(Kind.POD, "alice", "remote"), "uid-4", (), "worker2", IPv4Address("10.244.2.1"))),
            Upsert(
                EgressPolicy(ObjectKey(Kind.POLICY, "", "egress"), (rule,), (IPv4Network("8.8.8.0/24"),), FLOATING_IP)
            ),
        ]
    )


def left_alone(selected: Rows) -> dict[IPv4Address, int]:
    parsed = (layout.parse_selected(key, value) for key, value in selected.items())
    return {pod_ip: device for pod_ip, device, _, state in parsed if state == SelectedState.NOT}


def test_w11_an_unselected_pod_of_this_node_has_a_row_with_its_device_and_no_other() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    known, maps = reconciler(index=index), StandInPool()
    with_bystander(index)
    known.learn_devices({POD_IP: 7, BYSTANDER: 8})
    steering(known, maps)
    known.classify(now_ns=9)
    selected = rows(known, maps)[MapName.SELECTED]
    assert left_alone(selected) == {BYSTANDER: 8}
    assert len(selected) == 3, "two of the selected pod"


def test_w11_behind_a_device_that_is_doubted_a_pod_is_unknown_whether_selected_or_not() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    known, maps = reconciler(index=index), StandInPool()
    with_bystander(index)
    known.learn_devices({POD_IP: 7, BYSTANDER: 8})
    steering(known, maps)
    known.classify(now_ns=0)
    known.learn_devices({POD_IP: 17, BYSTANDER: 18})
    known.classify(now_ns=2 * SETTLED_NS)
    parsed = (layout.parse_selected(key, value) for key, value in rows(known, maps)[MapName.SELECTED].items())
    assert [(pod_ip, device) for pod_ip, device, _, _ in parsed] == [(POD_IP, 0)]


def test_w11_an_agent_that_starts_anew_doubts_a_device_that_its_former_did_not_know() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    known, maps = reconciler(index=index), StandInPool()
    with_bystander(index)
    known.learn_devices({BYSTANDER: 8})
    known.inherit({}, ())
    known.learn_devices({BYSTANDER: 18})
    known.classify(now_ns=0)
    assert left_alone(rows(known, maps)[MapName.SELECTED]) == {}


def test_w10_a_pod_whose_device_is_doubted_has_its_connections_cleared_all_the_same() -> None:
    known, maps = reconciler(), StandInPool()
    known.learn_devices({POD_IP: 7})
    known.inherit({}, ())
    known.learn_devices({POD_IP: 8})
    known.classify(now_ns=0)
    assert steering(known, maps) == {POD_IP: Phase.STEERING}
    assert list(rows(known, maps)[MapName.SELECTED]) == [layout.selected_key(POD_IP, 0)]


def no_longer_steered(gone: ObjectKey) -> tuple[Reconciler, StandInPool]:
    """The pod was steered, and then went, or its policy did."""
    index = PolicyIndex(pod_cidrs_known=True)
    known, maps = reconciler(index=index), StandInPool()
    known.learn_devices({POD_IP: 7})
    steering(known, maps)
    index.apply([Delete(gone)])
    known.select()
    return known, maps


def test_w11_a_pod_that_leaves_its_policy_drops_until_its_connections_are_cleared() -> None:
    """Its row with its device is one and the same key: it changes in place, and the pod is never unknown."""
    known, maps = no_longer_steered(ObjectKey(Kind.POLICY, "", "egress"))
    known.classify(now_ns=9)
    assert left_alone(rows(known, maps)[MapName.SELECTED]) == {}
    known.steering.cleared(known.to_clear(maps))
    known.classify(now_ns=9)
    left = rows(known, maps)[MapName.SELECTED]
    assert {layout.parse_selected(key, value)[2:] for key, value in left.items()} == {(0, SelectedState.STEER)}, "E2"
    assert known.steering.forget([POD_IP])
    assert left_alone(rows(known, maps)[MapName.SELECTED]) == {POD_IP: 7}


def test_w11_whoever_has_the_address_of_a_pod_that_has_gone_is_not_known_by_what_is_left_of_that_one() -> None:
    known, maps = no_longer_steered(ObjectKey(Kind.POD, "alice", "pod"))
    rows(known, maps)
    known.steering.cleared(known.to_clear(maps))
    known.learn_devices({POD_IP: 8})
    known.classify(now_ns=9)
    assert (known.steering.left(), rows(known, maps)[MapName.SELECTED]) == ((POD_IP,), {})


def test_w11_pods_that_are_left_alone_take_no_room_from_selected_ones() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    known, maps = reconciler(index=index), StandInPool()
    with_bystander(index)
    maps.rooms[MapName.SELECTED] = 2
    known.learn_devices({POD_IP: 7, BYSTANDER: 8})
    steering(known, maps)
    known.classify(now_ns=9)
    assert left_alone(rows(known, maps)[MapName.SELECTED]) == {}
    assert known.steering.phases() == {POD_IP: Phase.STEERING}


def test_w11_what_policies_name_is_closed_to_the_unclassified_unless_the_operator_says_otherwise() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    known = reconciler(index=index)
    assert list(known.named().values()) == [(IPv4Network("8.8.8.0/24"),)]
    assert known.named() is known.named(), "made anew only with what policies name"
    lenient = Settings(node="worker1", datapath=DatapathSettings(unclassified="pass"))
    assert Reconciler(lenient, index).named() == {}


def second_pod(*destinations: str) -> list[Upsert]:
    """Another pod of this node, under a policy of its own beside the one for all."""
    label = ("app", "wide")
    rule = EgressRule(LabelSelector(), LabelSelector((label,)))
    networks = tuple(map(IPv4Network, destinations))
    return [
        Upsert(Pod(ObjectKey(Kind.POD, "alice", "second"), "uid-2", (label,), "worker1", SECOND_POD)),
        Upsert(EgressPolicy(ObjectKey(Kind.POLICY, "", "wide"), (rule,), networks, SECOND_IP)),
    ]


def test_i1_a_rule_set_that_does_not_fit_whole_costs_its_own_pods_only_and_is_told() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    known, maps = reconciler(FLOATING_IP, SECOND_IP, index=index), StandInPool()
    maps.rooms[MapName.RULES] = 3
    index.apply(second_pod("9.0.0.0/8", "9.9.0.0/16", "9.9.9.0/24"))
    assert steering(known, maps) == {POD_IP: Phase.STEERING, SECOND_POD: Phase.SETTING}
    (shortage,) = known.shortages(maps)
    assert (shortage.map, shortage.pods) == (MapName.RULES, (SECOND_POD,))
    assert len(maps.rows[MapName.RULES]) == 1, "no part of it is written: by half of it a pod gets a wrong address"
    maps.rooms[MapName.RULES] = 8
    assert steering(known, maps) == {POD_IP: Phase.STEERING, SECOND_POD: Phase.STEERING}
    assert known.shortages(maps) == ()


def test_i1_a_pod_whose_own_row_finds_no_room_is_not_steered_and_others_are() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    known, maps = reconciler(FLOATING_IP, SECOND_IP, index=index), StandInPool()
    maps.rooms[MapName.SELECTED] = 2
    assert steering(known, maps) == {POD_IP: Phase.STEERING}
    index.apply(second_pod("9.9.9.0/24"))
    assert steering(known, maps) == {POD_IP: Phase.STEERING, SECOND_POD: Phase.SETTING}
    assert [(shortage.map, shortage.pods) for shortage in known.shortages(maps)] == [(MapName.SELECTED, (SECOND_POD,))]


@pytest.mark.parametrize("name", [MapName.WAYS, MapName.FLOATING_IPS])
def test_i1_an_address_without_a_row_is_told_with_the_pods_that_it_costs(name: str) -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    known, maps = reconciler(FLOATING_IP, SECOND_IP, index=index), StandInPool()
    known.learn_location(Location(FLOATING_IP, "worker2", TOKEN))
    maps.rooms[name] = 0
    steering(known, maps)
    assert [(shortage.map, shortage.pods) for shortage in known.shortages(maps)] == [(name, (POD_IP,))]


def test_i1_rules_stay_while_a_row_in_the_kernel_can_still_name_them() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    known, maps = reconciler(FLOATING_IP, SECOND_IP, index=index), StandInPool()
    steering(known, maps)
    old = dict(maps.rows[MapName.RULES])
    index.apply([Delete(ObjectKey(Kind.POLICY, "", "egress"))])
    maps.stuck = {MapName.SELECTED}
    known.select()
    known.steering.cleared(known.steering.to_clear())
    assert rows(known, maps)[MapName.RULES] == old
    maps.release(MapName.SELECTED)
    assert rows(known, maps)[MapName.RULES] == {}


def test_e1_the_turn_that_finds_the_new_rules_whole_in_the_kernel_lets_the_pod_go_by_them() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    known, maps = reconciler(FLOATING_IP, SECOND_IP, index=index), StandInPool()
    steering(known, maps)
    maps.stuck = {MapName.RULES}
    gateway, _, _, old = objects(FLOATING_IP, SECOND_IP)
    index.apply([gateway, Upsert(replace(old.object, destinations=(IPv4Network("9.9.9.0/24"),)))])
    known.select()
    before = dict(rows(known, maps)[MapName.SELECTED])
    maps.release(MapName.RULES)
    grant(known, maps)
    (after,) = maps.wanted(MapName.SELECTED).values()
    assert after not in before.values()
    assert layout.parse_selected(layout.selected_key(POD_IP, 0), after)[3] == SelectedState.STEER


def test_e1_rules_that_a_former_agent_left_stay_until_it_is_known_who_goes_by_them() -> None:
    known, maps = reconciler(), StandInPool()
    left = RuleSet(5, ((IPv4Network("9.9.9.0/24"), FLOATING_IP),))
    known.inherit({}, (left,))
    assert rows(known, maps)[MapName.RULES].items() >= desired.rule_rows(left).items()
    known.disinherit()
    assert not rows(known, maps)[MapName.RULES].keys() & desired.rule_rows(left).keys()


def test_a_pod_adopted_with_half_of_its_rules_gets_the_rest() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    known, maps = reconciler(FLOATING_IP, SECOND_IP, index=index), StandInPool()
    index.apply(second_pod("9.0.0.0/8", "9.9.9.0/24"))
    whole = known.local_selections()[SECOND_POD].rule_set
    half = RuleSet(whole.id, whole.entries[:1])
    known.inherit({}, (half,))
    known.steering.adopt(SECOND_POD, half)
    steering(known, maps)
    assert len(maps.rows[MapName.RULES]) == 1 + 3
