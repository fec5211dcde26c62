"""Program and netfilter together, with real packets: pods that nobody has classified, and those that are (rule W11)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

import pytest

from service.datapath.loader import LoadedDatapath
from service.model.span import number_of
from service.network.netlink import Netlink
from service.network.nftables import Nftables, NftConfig
from service.network.unclassified import Named, NamedSets
from tests.datapath.node import MARK, Node
from tests.datapath.program import Device
from tests.network.namespace import Namespace, namespaces

pytestmark = [pytest.mark.bpf, pytest.mark.root]

BARE, BRIDGED, OTHER_POD = (IPv4Address(f"10.244.{last}") for last in ("1.10", "2.20", "9.9"))
NODE_IP = "192.168.7.1"
NAMED = IPv4Network("203.0.113.0/29")
SERVER, ELSEWHERE = "203.0.113.1", "203.0.113.9"
CONFIG = NftConfig(
    mark=MARK,
    cluster=(IPv4Network("10.96.0.0/16"), IPv4Network("192.168.7.0/24")),
    pods=(IPv4Network("10.244.0.0/16"),),
    uplinks=("up0",),
)
CNI = f"""
table ip cni {{
  chain prerouting {{
    type nat hook prerouting priority -100;
    ip daddr 10.96.0.1 udp dport 80 dnat to {SERVER}:8080
    ip daddr 10.96.0.3 udp dport 80 dnat to {OTHER_POD}:8080
    ip daddr {NODE_IP} udp dport 30080 dnat to {BARE}:80
  }}
  chain postrouting {{
    type nat hook postrouting priority 100;
    ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade
  }}
}}
"""
PRIVATE = "10.244.2.21"
"""On the bridge, at the second port."""


@dataclass(frozen=True)
class Site:
    maps: Node
    loaded: LoadedDatapath
    node: Namespace
    outside: Namespace
    bare: Namespace
    bridged: Namespace
    neighbour: Namespace
    """At another port of the same bridge."""

    def device(self, name: str) -> Device:
        return Device(name, int(self.node.ip(f"-o link show {name}").split(":")[0]), bytes(6))

    async def watch(self, *names: str) -> None:
        """The agent has found these devices."""
        async with Netlink() as netlink:
            for name in names:
                await netlink.attach(
                    self.device(name).ifindex, "ingress", self.loaded.programs["pod_ingress"], "pod_ingress"
                )

    def pod(self, address: IPv4Address) -> tuple[Namespace, str]:
        return (self.bare, "ptp0") if address == BARE else (self.bridged, "port1")

    async def sources(self, pod: Namespace, *destinations: tuple[str, str]) -> dict[str, str]:
        """Of one packet to each (its name, destination): as what address it left by the uplink."""
        with self.node.capture("up0") as uplink, pod.udp() as opened:
            for name, destination in (*destinations, ("last", OTHER_POD.exploded)):
                opened.sendto(name.encode(), (destination, 80))
            seen = {packet.payload.decode(): packet.source for packet in uplink.until(b"last")}
        return {name: source for name, source in seen.items() if name != "last"}


def named_sets(networks: Iterable[IPv4Network]) -> Named:
    made = NamedSets()
    made.renew(tuple(sorted(set(map(number_of, networks)))))
    return made.value


@pytest.fixture
def site(node: Node, loaded: LoadedDatapath) -> Iterator[Site]:
    with namespaces("n", "o", "a", "b", "c") as (host, outside, bare, bridged, neighbour):
        host.link("up0", outside, "eth0")
        host.link("ptp0", bare, "eth0")
        host.ip("link add cni0 type bridge")
        for port, pod in (("port1", bridged), ("port2", neighbour)):
            host.link(port, pod, "eth0")
            host.ip(f"link set {port} master cni0")
        host.ip("link set cni0 up")
        host.sysctl("ipv4/ip_forward", "1")
        host.ip(f"addr add {NODE_IP}/24 dev up0")
        host.ip("route add default via 192.168.7.2")
        host.ip("addr add 10.244.2.1/24 dev cni0")
        host.ip("addr add 169.254.1.1/32 dev ptp0")
        host.ip(f"route add {BARE}/32 dev ptp0")
        bare.ip(f"addr add {BARE}/32 dev eth0")
        bare.ip("route add 169.254.1.1 dev eth0")
        bare.ip("route add default via 169.254.1.1")
        for pod, address in ((bridged, str(BRIDGED)), (neighbour, PRIVATE)):
            pod.ip(f"addr add {address}/24 dev eth0")
            pod.ip("route add default via 10.244.2.1")
        outside.ip("addr add 192.168.7.2/24 dev eth0")
        for address in (SERVER, ELSEWHERE, str(OTHER_POD)):
            outside.ip(f"addr add {address}/32 dev lo")
        outside.ip("route add 10.244.0.0/16 via 192.168.7.1")
        host.run("nft -f -", CNI)
        with host.entered():
            yield Site(node, loaded, host, outside, bare, bridged, neighbour)


async def closed(config: NftConfig = CONFIG) -> Nftables:
    nftables = Nftables()
    await nftables.apply(config)
    await nftables.replace_named(named_sets([NAMED]))
    return nftables


async def dropped(nftables: Nftables) -> int:
    assert await nftables.is_intact()
    return nftables.dropped["unclassified"]


TO = (("named", SERVER), ("elsewhere", ELSEWHERE), ("service outside", "10.96.0.1"), ("service of pods", "10.96.0.3"))


@pytest.mark.parametrize("is_watched", [False, True], ids=["no agent", "agent"])
@pytest.mark.parametrize("address", [BARE, BRIDGED], ids=["bare", "bridged"])
async def test_a_pod_that_nobody_has_classified_reaches_nothing_that_a_policy_names_and_all_else(
    site: Site, address: IPv4Address, is_watched: bool
) -> None:
    nftables = await closed()
    pod, device = site.pod(address)
    if is_watched:
        await site.watch(device)
    assert await site.sources(pod, *TO) == {"elsewhere": NODE_IP, "service of pods": str(address)}
    assert await dropped(nftables) == 2


async def test_under_a_policy_for_everything_an_unclassified_pod_still_reaches_the_cluster(site: Site) -> None:
    nftables = await closed()
    await nftables.replace_named(named_sets([IPv4Network("0.0.0.0/0")]))
    assert await site.sources(site.bridged, *TO) == {"service of pods": str(BRIDGED)}
    assert await dropped(nftables) == 3


@pytest.mark.parametrize("bridge_netfilter", ["0", "1"], ids=["without br_netfilter", "with br_netfilter"])
@pytest.mark.parametrize("address", [BARE, BRIDGED], ids=["bare", "bridged"])
async def test_a_pod_that_no_policy_selects_is_left_as_it_was_once_it_is_known(
    site: Site, address: IPv4Address, bridge_netfilter: str
) -> None:
    try:
        site.node.sysctl("bridge/bridge-nf-call-iptables", bridge_netfilter)
    except FileNotFoundError:
        pytest.skip("this kernel has no br_netfilter")
    nftables = await closed()
    pod, device = site.pod(address)
    await site.watch(device)
    site.maps.leave_alone(address, device=site.device(device))
    assert await site.sources(pod, *TO) == {
        "named": NODE_IP,
        "elsewhere": NODE_IP,
        "service outside": NODE_IP,
        "service of pods": str(address),
    }
    assert await dropped(nftables) == 0


async def test_a_known_address_behind_another_port_of_the_same_bridge_is_unknown(site: Site) -> None:
    """Netfilter sees the bridge in both cases."""
    nftables = await closed()
    await site.watch("port1", "port2")
    site.maps.leave_alone(BRIDGED, device=site.device("port1"))
    site.bridged.ip("link set eth0 down")
    site.neighbour.ip(f"addr del {PRIVATE}/24 dev eth0")
    site.neighbour.ip(f"addr add {BRIDGED}/24 dev eth0")
    site.neighbour.ip("route add default via 10.244.2.1")
    site.node.ip(f"neigh flush to {BRIDGED}")
    assert await site.sources(site.neighbour, *TO[:2]) == {"elsewhere": NODE_IP}
    assert await dropped(nftables) == 1


async def test_a_new_device_under_the_address_of_a_known_pod_is_unknown_without_an_agent(site: Site) -> None:
    nftables = await closed()
    await site.watch("ptp0")
    site.maps.leave_alone(BARE, device=site.device("ptp0"))
    assert await site.sources(site.bare, TO[0]) == {"named": NODE_IP}
    site.node.ip("link del ptp0")
    site.node.link("ptp0", site.bare, "eth0")
    site.node.ip("addr add 169.254.1.1/32 dev ptp0")
    site.node.ip(f"route add {BARE}/32 dev ptp0")
    site.bare.ip(f"addr add {BARE}/32 dev eth0")
    site.bare.ip("route add 169.254.1.1 dev eth0")
    site.bare.ip("route add default via 169.254.1.1")
    assert await site.sources(site.bare, *TO[:2]) == {"elsewhere": NODE_IP}
    assert await dropped(nftables) == 1


async def test_a_selected_pods_packets_to_where_only_others_policies_point_leave_as_ever(site: Site) -> None:
    nftables = await closed()
    await site.watch("ptp0")
    site.maps.rule("198.51.100.0/24")
    site.maps.select(BARE, device=site.device("ptp0"))
    assert await site.sources(site.bare, TO[0]) == {"named": NODE_IP}
    assert await dropped(nftables) == 0


async def test_a_pod_cannot_say_of_its_own_packets_that_they_are_known(site: Site) -> None:
    nftables = await closed()
    site.bare.run(
        "nft -f -",
        "table ip forged { chain out { type filter hook output priority 0; meta priority set 6567:7730\n}\n}\n",
    )
    assert await site.sources(site.bare, *TO[:2]) == {"elsewhere": NODE_IP}
    assert await dropped(nftables) == 1


async def test_an_unclassified_pod_answers_who_has_opened_a_connection_from_outside(site: Site) -> None:
    """As by a node port: where the answer goes was not the pod's choice, and its source is the node port's."""
    nftables = await closed()
    with site.bare.udp(port=80) as server, site.outside.udp(SERVER) as client:
        client.sendto(b"question", (NODE_IP, 30080))
        _, caller = server.recvfrom(100)
        assert caller[0] == SERVER
        server.sendto(b"answer", caller)
        assert client.recvfrom(100) == (b"answer", (NODE_IP, 30080))
    assert await dropped(nftables) == 0


async def test_the_nodes_own_traffic_other_addresses_and_pods_of_other_nodes_are_not_asked_about(site: Site) -> None:
    nftables = await closed()
    site.bare.ip("addr add 172.17.0.5/32 dev eth0")
    site.node.ip("route add 172.17.0.5/32 dev ptp0")
    for sender, host in ((site.node, NODE_IP), (site.bare, "172.17.0.5")):
        with site.node.capture("up0") as uplink, sender.udp(host) as opened:
            opened.sendto(b"named", (SERVER, 53))
            assert uplink.until(b"named")[-1].source == host
    site.outside.ip("route add 203.0.113.3/32 via 192.168.7.1")
    with site.outside.udp(str(OTHER_POD)) as opened, site.bare.udp(port=7000) as server:
        opened.sendto(b"through the node", ("203.0.113.3", 53))
        opened.sendto(b"pod to pod", (str(BARE), 7000))
        assert server.recv(100) == b"pod to pod"
    assert await dropped(nftables) == 0


async def test_a_pod_of_another_node_that_comes_by_a_cnis_tunnel_is_not_asked_about(site: Site) -> None:
    nftables = await closed()
    for end, own, other in ((site.node, NODE_IP, "192.168.7.2"), (site.outside, "192.168.7.2", NODE_IP)):
        end.ip(f"link add vx0 type vxlan id 7 dstport 4790 local {own} remote {other}")
        end.ip(f"addr add 10.99.0.{own[-1]}/24 dev vx0")
        end.ip("link set vx0 up")
    for scope in ("all", "vx0"):
        site.node.sysctl(f"ipv4/conf/{scope}/rp_filter", "0")
    site.outside.ip("route add 203.0.113.3/32 via 10.99.0.1")
    with site.node.capture("up0") as uplink, site.outside.udp(str(OTHER_POD)) as opened:
        opened.sendto(b"by the tunnel", ("203.0.113.3", 53))
        assert uplink.until(b"by the tunnel")[-1].source == NODE_IP
    assert await dropped(nftables) == 0


async def test_a_restarted_agent_takes_over_what_is_closed_and_what_was_counted(site: Site) -> None:
    first = await closed()
    await site.watch("port1")
    site.maps.leave_alone(BRIDGED, device=site.device("port1"))
    assert await site.sources(site.bare, TO[0]) == {}
    again = Nftables()
    await again.apply(CONFIG)
    assert await site.sources(site.bare, TO[0]) == {}
    assert await site.sources(site.bridged, TO[0]) == {"named": NODE_IP}
    assert await dropped(again) == 2
    assert first.dropped["unclassified"] == 0, "as of its last look"
    await again.replace_named({})
    assert await site.sources(site.bare, TO[0]) == {"named": NODE_IP}
    assert await again.is_intact()


async def test_an_edit_of_what_policies_name_is_in_force_and_leaves_no_sets_behind(site: Site) -> None:
    nftables = await closed()
    many = [IPv4Network((index << 12, 24)) for index in range(4096, 9096)]
    await nftables.replace_named(named_sets([*many, IPv4Network(f"{ELSEWHERE}/32")]))
    assert await site.sources(site.bare, *TO[:2]) == {"named": NODE_IP}
    await nftables.replace_named(named_sets([*many, NAMED]))
    assert await site.sources(site.bare, *TO[:2]) == {"elsewhere": NODE_IP}
    assert await nftables.is_intact()
    await nftables.replace_named({})
    assert "named_" not in site.node.run("nft list table ip egressgw")
    assert await nftables.is_intact()


async def test_rules_that_somebody_flushes_are_missed(site: Site) -> None:
    nftables = await closed()
    site.node.run("nft flush chain ip egressgw named")
    assert not await nftables.is_intact()
