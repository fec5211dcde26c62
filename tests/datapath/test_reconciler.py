"""What one agent's view makes of the maps, above all while it knows little (start, failover, bad addresses)."""

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from service.datapath import layout
from service.datapath.desired import LocalUplink
from service.datapath.layout import MapName, WayKind
from service.datapath.reconciler import Reconciler
from service.model.assignment import Assignment, Location
from service.model.gateway_node import GatewayNode, NodeRole, NodeState, Segment
from service.model.lease import Stamp, Token
from service.model.objects import (
    Delete,
    EgressPolicy,
    EgressRule,
    Kind,
    LabelSelector,
    Namespace,
    NetworkGateway,
    ObjectKey,
    Pod,
    Upsert,
)
from service.policy.index import PolicyIndex
from service.settings import Settings

FLOATING_IP = IPv4Address("192.168.1.100")
POD_IP = IPv4Address("10.244.1.10")
NETWORK = IPv4Network("192.168.1.0/24")
UPLINK = LocalUplink(2, "eth0", b"\2\0\0\0\0\1", IPv4Interface("192.168.1.21/24"), True)
THEIR_MAC = b"\2\0\0\0\0\2"
TOKEN = Token(1, 1, 1)


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


def test_a_nodes_own_address_never_becomes_a_floating_ip_of_the_fence() -> None:
    """Seen end to end: the fence would drop everything the node sends and receives."""
    known = reconciler(FLOATING_IP, IPv4Address("192.168.1.21"), IPv4Address("192.168.1.22"))
    assert list(known.rows()[MapName.FLOATING_IPS]) == [FLOATING_IP.packed]
    known.learn_members((), {})
    assert IPv4Address("192.168.1.21").packed not in known.rows()[MapName.FLOATING_IPS]


def test_a_broadcast_address_never_becomes_a_floating_ip_of_the_fence() -> None:
    known = reconciler(FLOATING_IP, IPv4Address("192.168.1.255"))
    assert list(known.rows()[MapName.FLOATING_IPS]) == [FLOATING_IP.packed]


def test_the_word_with_the_higher_token_wins() -> None:
    known = reconciler()
    assert known.learn_location(Location(FLOATING_IP, "worker2", Token(1, 1, 2)))
    assert not known.learn_location(Location(FLOATING_IP, "worker1", TOKEN))
    assert known.holder_of(FLOATING_IP) == "worker2"


def test_after_a_restart_the_way_stands_until_the_holder_is_heard_of() -> None:
    inherited = {FLOATING_IP.packed: layout.way_value(7, WayKind.L2, 2, UPLINK.mac, THEIR_MAC)}
    known = reconciler()
    known.inherit({}, inherited, ())
    assert known.rows()[MapName.WAYS] == inherited
    known.learn_location(Location(FLOATING_IP, "worker1", TOKEN))
    assert known.rows()[MapName.WAYS][FLOATING_IP.packed][8] == WayKind.LOCAL


def test_what_nobody_has_confirmed_is_let_go_in_the_end() -> None:
    known = reconciler()
    known.inherit({b"endpoint": b"row"}, {FLOATING_IP.packed: b"way"}, ())
    known.disinherit()
    assert known.rows()[MapName.WAYS] == {}
    assert b"endpoint" not in known.rows()[MapName.ENDPOINTS]


def test_a_pod_must_be_known_to_the_holder_and_to_a_successor_that_is_up() -> None:
    known = reconciler()
    table = {FLOATING_IP: Assignment(FLOATING_IP, "worker2", "worker3", Stamp(1, 1))}
    two = known.nodes
    known.learn_members((*two, node("worker3", 23, b"\2\0\0\0\0\3")), table)
    selection = known.local_selections()[POD_IP]
    assert known.audience(selection).holders == ("worker2",)
    assert known.audience(selection).successors == ("worker3",)
    known.learn_members((*two, node("worker3", 23, b"\2\0\0\0\0\3", NodeState.DOWN)), table)
    assert known.audience(selection).successors == ()


def test_a_node_tells_nobody_of_pods_it_serves_itself() -> None:
    known = reconciler()
    known.learn_location(Location(FLOATING_IP, "worker1", TOKEN))
    assert known.audience(known.local_selections()[POD_IP]).holders == ()
    known.steering.select(known.local_selections(), now_ns=0)
    assert layout.endpoint_key(POD_IP, 9) in known.rows()[MapName.ENDPOINTS]


def test_subnets_of_members_are_in_the_cluster() -> None:
    assert NETWORK in reconciler().cluster_networks()


def test_a_floating_ip_that_was_removed_has_no_way_and_is_behind_the_fence_only_while_it_is_leased_here() -> None:
    """Seen end to end: pods' packets went on to the former holder, with the bare pod address, for ever.

    And the address, given to a host or to MetalLB, was dead on every node that had ever heard of it.
    """
    index = PolicyIndex(pod_cidrs_known=True)
    known = reconciler(index=index)
    known.learn_location(Location(FLOATING_IP, "worker2", TOKEN))
    assert known.learn_held(frozenset({FLOATING_IP}))
    assert not known.learn_held(frozenset({FLOATING_IP}))
    assert FLOATING_IP.packed in known.rows()[MapName.WAYS]
    index.apply([Delete(ObjectKey(Kind.GATEWAY, "kube-system", "default"))])
    rows = known.rows()
    assert (rows[MapName.WAYS], list(rows[MapName.FLOATING_IPS])) == ({}, [FLOATING_IP.packed])
    assert known.learn_held(frozenset())
    assert known.rows()[MapName.FLOATING_IPS] == {}


def test_where_an_address_was_is_forgotten_once_nobody_lists_it() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    known = reconciler(index=index)
    known.learn_location(Location(FLOATING_IP, "worker2", TOKEN))
    known.learn_members((), {})
    assert FLOATING_IP in known.locations
    index.apply([Delete(ObjectKey(Kind.GATEWAY, "kube-system", "default"))])
    known.learn_members((), {})
    assert known.locations == {}


def test_what_the_leader_still_assigns_stays_behind_the_fence() -> None:
    index = PolicyIndex(pod_cidrs_known=True)
    known = reconciler(index=index)
    index.apply([Delete(ObjectKey(Kind.GATEWAY, "kube-system", "default"))])
    known.learn_members((), {FLOATING_IP: Assignment(FLOATING_IP, "worker1", None, Stamp(1, 1))})
    assert list(known.rows()[MapName.FLOATING_IPS]) == [FLOATING_IP.packed]


def test_netfilter_leaves_alone_what_the_programs_never_steer() -> None:
    """Seen end to end: under a policy for 0.0.0.0/0 the guard dropped 169.254.169.254, which nothing had marked."""
    assert IPv4Network("169.254.0.0/16") in reconciler().cluster_networks()
