"""What Node and ServiceCIDR objects mean, and which pods show that the known ranges are not all."""

from ipaddress import IPv4Address, IPv4Network

from service.gateway.inventory import Inventory
from service.model.cluster_range import ClusterRanges
from service.model.gateway_node import GatewayNode, NodeRole, NodeState
from service.model.objects import ApiServers, ClusterNode, Delete, Kind, ObjectKey, Pod, ServiceRange, Upsert


def node(name: str, number: int, **fields: bool) -> ClusterNode:
    return ClusterNode(
        ObjectKey(Kind.CLUSTER_NODE, "", name),
        NodeRole.WORKER,
        addresses=(IPv4Address(f"192.168.1.{number}"),),
        pod_ranges=(IPv4Network(f"10.244.{number}.0/24"),),
        **fields,
    )


def pod(name: str, ip: str | None) -> Pod:
    return Pod(ObjectKey(Kind.POD, "shop", name), f"uid-{name}", (), "w1", IPv4Address(ip) if ip else None)


def inventory_of(*items: object, configured: ClusterRanges | None = None) -> Inventory:
    inventory = Inventory(configured or ClusterRanges())
    inventory.apply([Upsert(item) for item in items])  # type: ignore[arg-type]
    return inventory


def networks(*texts: str) -> tuple[IPv4Network, ...]:
    return tuple(IPv4Network(text) for text in texts)


def test_node_objects_give_pod_ranges_node_addresses_and_seeds() -> None:
    inventory = inventory_of(node("w2", 22), node("w1", 21))
    assert inventory.ranges.pods == networks("10.244.21.0/24", "10.244.22.0/24")
    assert inventory.ranges.nodes == networks("192.168.1.21/32", "192.168.1.22/32")
    assert inventory.addresses() == (IPv4Address("192.168.1.21"), IPv4Address("192.168.1.22"))


def test_service_ranges_come_and_go_with_their_objects() -> None:
    extra = ServiceRange(ObjectKey(Kind.SERVICE_RANGE, "", "extra"), networks("10.97.0.0/16"))
    inventory = inventory_of(
        ServiceRange(ObjectKey(Kind.SERVICE_RANGE, "", "kubernetes"), networks("10.96.0.0/16")), extra
    )
    assert inventory.ranges.services == networks("10.96.0.0/16", "10.97.0.0/16")
    inventory.apply([Delete(extra.key)])
    assert inventory.ranges.services == networks("10.96.0.0/16")


def test_w12_api_servers_are_known_by_their_own_word_and_go_with_it() -> None:
    key = ObjectKey(Kind.API_SERVERS, "default", "kubernetes")
    inventory = inventory_of(ApiServers(key, (IPv4Address("203.0.113.9"), IPv4Address("192.168.1.2"))))
    assert inventory.ranges.servers == networks("192.168.1.2/32", "203.0.113.9/32")
    assert inventory.ranges.nodes == ()
    inventory.apply([Delete(key)])
    assert inventory.ranges.servers == ()


def test_configured_ranges_win_but_a_node_is_always_in_the_cluster() -> None:
    configured = ClusterRanges(networks("10.0.0.0/8"), networks("172.16.0.0/16"), networks("192.168.9.0/24"))
    service = ServiceRange(ObjectKey(Kind.SERVICE_RANGE, "", "kubernetes"), networks("10.96.0.0/16"))
    ranges = inventory_of(node("w1", 21), service, configured=configured).ranges
    assert ranges.pods == networks("10.0.0.0/8")
    assert ranges.services == networks("172.16.0.0/16")
    assert ranges.nodes == networks("192.168.1.21/32", "192.168.9.0/24")


def test_a_node_that_is_re_addressed_is_known_by_its_new_address_only() -> None:
    inventory = inventory_of(node("w1", 21))
    inventory.apply([Upsert(node("w1", 31))])
    assert inventory.ranges.nodes == networks("192.168.1.31/32")
    assert inventory.addresses() == (IPv4Address("192.168.1.31"),)


def test_a_cordoned_node_and_one_that_shuts_down_take_no_address_but_one_that_is_not_ready_may() -> None:
    inventory = inventory_of(
        node("cordoned", 1, is_cordoned=True), node("stopping", 2, is_shutting_down=True), node("silent", 3)
    )
    assert not inventory.is_schedulable("cordoned")
    assert not inventory.is_schedulable("stopping")
    assert inventory.is_schedulable("silent")
    assert inventory.is_schedulable("without-an-object")


def test_a_node_is_removed_only_where_there_are_node_objects_at_all() -> None:
    assert not inventory_of().is_removed("w1")
    inventory = inventory_of(node("w1", 21), node("w2", 22))
    inventory.apply([Delete(ObjectKey(Kind.CLUSTER_NODE, "", "w1"))])
    assert inventory.is_removed("w1")
    assert not inventory.is_removed("w2")
    assert inventory.ranges.pods == networks("10.244.22.0/24")


def test_a_pod_outside_every_known_range_is_a_stray_until_the_range_is_known() -> None:
    inventory = inventory_of(node("w1", 21), pod("in", "10.244.21.5"), pod("out", "10.244.22.5"), pod("host", None))
    assert [key.name for key in inventory.strays()] == ["out"]
    inventory.apply([Upsert(node("w2", 22))])
    assert not inventory.strays()


def test_a_stray_is_forgotten_with_its_pod_or_its_address() -> None:
    inventory = inventory_of(node("w1", 21), pod("a", "10.9.0.1"), pod("b", "10.9.0.2"))
    inventory.apply([Delete(pod("a", None).key), Upsert(pod("b", None))])
    assert not inventory.strays()


def test_with_no_range_known_no_pod_is_a_stray() -> None:
    assert not inventory_of(pod("a", "10.9.0.1")).strays()


def member(name: str, *, is_up: bool = True, schedulable: bool = True) -> GatewayNode:
    state = NodeState.UP if is_up else NodeState.DOWN
    return GatewayNode(name, NodeRole.WORKER, state, True, (), schedulable)


def test_a_removed_node_goes_only_when_it_is_down_and_its_leases_have_ended() -> None:
    inventory = inventory_of(node("other", 1))
    up, holding, gone = member("up"), member("holding", is_up=False), member("gone", is_up=False)
    assert inventory.complete((up, holding, gone), ["holding"]) == (up, holding)
    assert inventory.complete((up, holding, gone), []) == (up,)


def test_a_node_that_is_down_stays_for_as_long_as_the_cluster_has_it() -> None:
    down = member("w1", is_up=False)
    assert inventory_of(node("w1", 21)).complete((down,), []) == (down,)
    assert inventory_of().complete((down,), []) == (down,), "no Node objects at all: hosts without Kubernetes"


def test_a_renamed_node_is_a_new_one_beside_the_old_until_that_has_ended() -> None:
    inventory = inventory_of(node("new", 21))
    old, new = member("old", is_up=False), member("new")
    assert inventory.complete((new, old), ["old"]) == (new, old)
    assert inventory.complete((new, old), []) == (new,)


def test_a_node_is_unschedulable_if_its_object_or_its_own_word_says_so() -> None:
    inventory = inventory_of(node("a", 1, is_cordoned=True), node("b", 2), node("c", 3))
    found = inventory.complete((member("a"), member("b", schedulable=False), member("c")), [])
    assert [item.schedulable for item in found] == [False, False, True]
