"""Rules W3, W4, W5, W6, G3 and the guards, with real packets: a pod, its node, and everything outside."""

import asyncio
import errno
import socket
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from service.model.errors import OperatorError, TransientError
from service.network.connection_life import ConnectionLives
from service.network.destinations import NOTHING, PART, Destinations
from service.network.netlink import Netlink
from service.network.nftables import Nftables, NftConfig, ruleset
from service.network.priority import CANDIDATE_PRIORITY, written
from service.policy.rule_set import make_rule_set
from tests.network.namespace import Namespace, namespaces
from tests.policy.objects import policy

MARK = 0x1000
TABLE = 9640
VNI_PORT = 9643
POD = IPv4Address("10.244.1.10")
OTHER_POD = "10.244.9.9"
NODE = "192.168.7.1"
OUTSIDE = IPv4Network("203.0.113.0/29")
SERVER, ELSEWHERE = "203.0.113.1", "203.0.113.9"
CONFIG = NftConfig(
    mark=MARK,
    cluster=(IPv4Network("10.96.0.0/16"), IPv4Network("192.168.7.0/24")),
    pods=(IPv4Network("10.244.0.0/16"),),
    uplinks=("up0",),
)
KEEPING_OUT = replace(CONFIG, keeps_out_pods=True)
"""While there are members whose steered frames have a pod's address."""
EXCLUDING = make_rule_set([policy(to=("203.0.113.0/24",), excluded=(f"{ELSEWHERE}/32",))])
CANDIDATES = f"""
table ip tc_stand_in {{
  chain candidates {{
    type filter hook prerouting priority -300;
    iifname "pod0" ip daddr {{ {OUTSIDE}, 10.96.0.0/16 }} meta priority set {written(CANDIDATE_PRIORITY)} \
      meta mark set meta mark | {MARK:#x}
  }}
}}
"""
MASQUERADE = """
table ip cni {
  chain postrouting {
    type nat hook postrouting priority 100;
    ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade
  }
}
"""
SERVICES = f"""
table ip kube_proxy {{
  chain prerouting {{
    type nat hook prerouting priority -100;
    ip daddr 10.96.0.1 udp dport 80 dnat to {SERVER}:8080
    ip daddr 10.96.0.2 udp dport 80 dnat to {ELSEWHERE}:8080
    ip daddr 10.96.0.3 udp dport 80 dnat to {OTHER_POD}:8080
    ip daddr {NODE} udp dport 30080 dnat to {POD}:80
    ip daddr {NODE} udp dport 30081 dnat to {OTHER_POD}:80
  }}
  chain postrouting {{
    type nat hook postrouting priority 99;
    ip daddr {OTHER_POD} udp dport 80 iifname "up0" masquerade
  }}
}}
"""


@dataclass(frozen=True)
class Site:
    pod: Namespace
    node: Namespace
    outside: Namespace


@pytest.fixture
def site() -> Iterator[Site]:
    with namespaces("p", "n", "o") as (pod, node, outside):
        node.link("pod0", pod, "eth0")
        node.link("up0", outside, "eth0")
        node.sysctl("ipv4/ip_forward", "1")
        node.ip("addr add 10.244.1.1/24 dev pod0")
        node.ip(f"addr add {NODE}/24 dev up0")
        node.ip("route add default via 192.168.7.2")
        node.ip("route add 10.244.9.0/24 via 192.168.7.2")
        pod.ip(f"addr add {POD}/24 dev eth0")
        pod.ip("route add default via 10.244.1.1")
        outside.ip("addr add 192.168.7.2/24 dev eth0")
        for address in (SERVER, ELSEWHERE, OTHER_POD):
            outside.ip(f"addr add {address}/32 dev lo")
        outside.ip("route add 10.244.0.0/16 via 192.168.7.1")
        node.run("nft -f -", CANDIDATES + MASQUERADE + SERVICES)
        with node.entered():
            yield Site(pod, node, outside)


def to(*networks: IPv4Network) -> Destinations:
    """The pod is selected for these."""
    return Destinations({POD: name_of(networks)}, {name_of(networks): networks}) if networks else NOTHING


def name_of(networks: tuple[IPv4Network, ...]) -> int:
    return zlib.crc32(repr(networks).encode())


def listed(site: Site) -> str:
    """Our table, as somebody sees it who looks."""
    return site.node.run("nft list table ip egressgw")


async def protect(config: NftConfig = CONFIG, steer: bool = True) -> Nftables:
    async with Netlink() as netlink:
        await netlink.ensure_steering_device(vni_port=VNI_PORT, table=TABLE, mark=MARK, uplinks=["up0"])
    nftables = Nftables()
    await nftables.apply(config)
    if steer:
        await nftables.replace_steer(to(OUTSIDE))
    return nftables


def send(sender: Namespace, payload: bytes, to: tuple[str, int], host: str = "0.0.0.0") -> None:
    with sender.udp(host) as opened:
        opened.sendto(payload, to)


@pytest.mark.root
async def test_w3_a_marked_packet_goes_to_the_steering_device_from_its_own_source(site: Site) -> None:
    nftables = await protect()
    with site.node.capture("egw0") as steered, site.node.capture("up0") as uplink:
        send(site.pod, b"selected", (SERVER, 53))
        send(site.pod, b"other destination", (ELSEWHERE, 53))
        packet = steered.until(b"selected")[-1]
        assert (packet.source, packet.destination) == (str(POD), SERVER)
        assert [seen.source for seen in uplink.until(b"other destination")] == [NODE]
    assert (await nftables.counters())["steered"] == 1


@pytest.mark.root
async def test_w4_the_destination_after_dnat_decides(site: Site) -> None:
    await protect()
    with site.node.capture("egw0") as steered, site.node.capture("up0") as uplink:
        send(site.pod, b"service outside", ("10.96.0.1", 80))
        send(site.pod, b"service elsewhere", ("10.96.0.2", 80))
        send(site.pod, b"service of pods", ("10.96.0.3", 80))
        send(site.pod, b"last", (SERVER, 80))
        on_egw0 = [(seen.destination, seen.destination_port) for seen in steered.until(b"last")]
        assert on_egw0 == [(SERVER, 8080), (SERVER, 80)]
        assert [(seen.source, seen.payload) for seen in uplink.until(b"service of pods")] == [
            (NODE, b"service elsewhere"),
            (str(POD), b"service of pods"),
        ]


@pytest.mark.root
async def test_w4_the_reply_of_a_connection_from_outside_is_not_steered(site: Site) -> None:
    await protect()
    with site.pod.udp(port=80) as server, site.outside.udp(SERVER) as client:
        client.sendto(b"question", (NODE, 30080))
        _, caller = server.recvfrom(100)
        assert caller[0] == SERVER
        server.sendto(b"answer", caller)
        assert client.recvfrom(100) == (b"answer", (NODE, 30080))


@pytest.mark.root
async def test_w4_a_policy_for_everything_does_not_touch_the_cluster(site: Site) -> None:
    nftables = await protect()
    await nftables.replace_steer(to(IPv4Network("0.0.0.0/0")))
    with site.node.capture("egw0") as steered, site.node.capture("up0") as uplink:
        send(site.pod, b"service of pods", ("10.96.0.3", 80))
        send(site.pod, b"last", (SERVER, 80))
        assert [seen.payload for seen in steered.until(b"last")] == [b"last"]
        assert uplink.until(b"service of pods")[-1].source == str(POD)


@pytest.mark.root
async def test_w4_other_mark_bits_are_left_alone(site: Site) -> None:
    await protect()
    site.node.run(
        "nft -f -",
        """table ip probe { counter kept { }
        chain early { type filter hook prerouting priority -299; meta mark set meta mark | 0xabcd0000; }
        chain late { type filter hook prerouting priority -80; iifname "pod0" meta mark 0xabcd0000 counter name kept; }
        }""",
    )
    with site.node.capture("up0") as uplink:
        send(site.pod, b"service elsewhere", ("10.96.0.2", 80))
        uplink.until(b"service elsewhere")
    assert "packets 1 " in site.node.run("nft list counter ip probe kept")


@pytest.mark.root
async def test_w5_c8_masquerade_at_the_head_does_not_change_the_source(site: Site) -> None:
    await protect()
    site.node.run("iptables -t nat -I POSTROUTING 1 -s 10.244.0.0/16 -j MASQUERADE")
    with site.node.capture("egw0") as steered, site.node.capture("up0") as uplink:
        send(site.pod, b"first", (SERVER, 53))
        site.node.run("nft insert rule ip cni postrouting masquerade")
        send(site.pod, b"second", (SERVER, 53))
        assert [seen.source for seen in steered.until(b"second")] == [str(POD), str(POD)]
        send(site.pod, b"unselected", (ELSEWHERE, 53))
        assert [seen.source for seen in uplink.until(b"unselected")] == [NODE]


@pytest.mark.root
async def test_w6_a_pod_that_somebody_else_marks_goes_as_without_us_and_so_does_its_flow_afterwards(site: Site) -> None:
    """At the steering device its connection got a source for good, with which it left bare once the mark was gone."""
    await protect()
    rule = f"ip daddr {ELSEWHERE} meta mark set meta mark | {MARK:#x}"
    chain = f"chain marker {{ type filter hook prerouting priority mangle; {rule}; }}"
    site.node.run("nft -f -", f"table ip marker {{ {chain}\n}}")
    with site.node.capture("up0") as uplink, site.pod.udp() as client:
        client.sendto(b"marked", (ELSEWHERE, 53))
        assert [seen.source for seen in uplink.until(b"marked")] == [NODE]
        site.node.run("nft delete table ip marker")
        client.sendto(b"unmarked", (ELSEWHERE, 53))
        assert [seen.source for seen in uplink.until(b"unmarked")] == [NODE]


@pytest.mark.root
async def test_a_marked_packet_leaves_by_the_steering_device_or_not_at_all(site: Site) -> None:
    nftables = await protect()
    site.node.ip("rule del priority 97")
    with site.node.capture("up0") as uplink:
        send(site.pod, b"leak", (SERVER, 53))
        send(site.pod, b"allowed", (ELSEWHERE, 53))
        assert [seen.payload for seen in uplink.until(b"allowed")] == [b"allowed"]
    assert (await nftables.counters())["guard_marked"] == 1


@pytest.mark.root
async def test_a_marked_packet_has_nowhere_else_to_go_when_device_and_table_are_gone(site: Site) -> None:
    nftables = await protect()
    site.node.ip("link del egw0")
    await nftables.remove()
    with site.node.capture("up0") as uplink:
        send(site.pod, b"leak", (SERVER, 53))
        send(site.pod, b"allowed", (ELSEWHERE, 53))
        assert [seen.payload for seen in uplink.until(b"allowed")] == [b"allowed"]


@pytest.mark.root
async def test_a_selected_pod_without_its_program_is_dropped_and_counted(site: Site) -> None:
    nftables = await protect()
    site.node.run("nft delete table ip tc_stand_in")
    with site.node.capture("up0") as uplink:
        send(site.pod, b"leak", (SERVER, 53))
        send(site.pod, b"allowed", (ELSEWHERE, 53))
        assert [seen.payload for seen in uplink.until(b"allowed")] == [b"allowed"]
    assert (await nftables.counters())["guard_unmarked"] == 1


@pytest.mark.root
async def test_w14_what_a_policy_excludes_is_neither_kept_marked_nor_guarded(site: Site) -> None:
    """Right inside of what is steered: left to the CNI, as without a policy."""
    nftables = await protect(steer=False)
    await nftables.replace_steer(to(*EXCLUDING.steered))
    with site.node.capture("egw0") as steered, site.node.capture("up0") as uplink:
        send(site.pod, b"service elsewhere", ("10.96.0.2", 80))
        send(site.pod, b"service outside", ("10.96.0.1", 80))
        assert [seen.payload for seen in steered.until(b"service outside")] == [b"service outside"]
        assert [(seen.source, seen.destination) for seen in uplink.until(b"service elsewhere")] == [(NODE, ELSEWHERE)]
    site.node.run("nft delete table ip tc_stand_in")
    with site.node.capture("up0") as uplink:
        send(site.pod, b"leak", (SERVER, 53))
        send(site.pod, b"excluded", (ELSEWHERE, 53))
        assert [(seen.source, seen.payload) for seen in uplink.until(b"excluded")] == [(NODE, b"excluded")]
    assert (await nftables.counters())["guard_unmarked"] == 1


@pytest.mark.root
async def test_g3_another_nodes_pod_does_not_pass_untranslated(site: Site) -> None:
    site.outside.ip("route add 198.51.100.0/24 via 192.168.7.1")
    with site.outside.capture("eth0") as wire:
        send(site.outside, b"before", ("198.51.100.1", 53), OTHER_POD)
        wire.until(b"before")
        assert wire.until(b"before")[-1].source == NODE, "the walk the rule closes: masqueraded to the node's address"

        nftables = await protect(KEEPING_OUT)
        send(site.outside, b"after", ("198.51.100.1", 53), OTHER_POD)
        send(site.outside, b"not a pod", ("198.51.100.1", 53))
        wire.until(b"not a pod")
        seen = wire.until(b"not a pod")
    assert b"after" not in [packet.payload for packet in seen]
    assert (await nftables.counters())["guard_transit"] == 1


@pytest.mark.root
async def test_a_pod_of_another_node_passes_untouched_where_all_members_translate(site: Site) -> None:
    """Somebody routes it through this node; that is none of our business."""
    site.outside.ip("route add 198.51.100.0/24 via 192.168.7.1")
    with site.outside.capture("eth0") as wire:
        nftables = await protect()
        send(site.outside, b"routed", ("198.51.100.1", 53), OTHER_POD)
        wire.until(b"routed")
        assert wire.until(b"routed")[-1].source == NODE, "as without us: masqueraded"
    assert (await nftables.counters())["guard_transit"] == 0


@pytest.mark.root
async def test_g3_pods_of_different_nodes_still_reach_each_other(site: Site) -> None:
    nftables = await protect(KEEPING_OUT)
    with site.pod.udp(port=7000) as server:
        send(site.outside, b"pod to pod", (str(POD), 7000), OTHER_POD)
        assert server.recv(100) == b"pod to pod"
    assert (await nftables.counters())["guard_transit"] == 0


@pytest.mark.root
async def test_g3_a_nodeport_reply_of_another_nodes_pod_passes(site: Site) -> None:
    nftables = await protect(KEEPING_OUT)
    with site.outside.udp(OTHER_POD, 80) as server, site.outside.udp(SERVER) as client:
        client.sendto(b"question", (NODE, 30081))
        _, caller = server.recvfrom(100)
        assert caller[0] == NODE
        server.sendto(b"answer", caller)
        assert client.recvfrom(100) == (b"answer", (NODE, 30081))
    assert (await nftables.counters())["guard_transit"] == 0


@pytest.mark.root
async def test_a_restart_carries_steered_pods_over(site: Site) -> None:
    await protect()
    again = Nftables()
    await again.apply(CONFIG)
    assert str(OUTSIDE) in listed(site)
    assert f"{POD} : jump" in listed(site)
    assert await again.is_intact()
    await again.replace_steer(NOTHING)
    assert str(OUTSIDE) not in listed(site)
    assert str(POD) not in listed(site)
    assert await again.is_intact()


@pytest.mark.root
async def test_the_pairs_of_a_former_versions_table_are_carried_over(site: Site) -> None:
    old = "set steer { type ipv4_addr . ipv4_addr; flags interval; elements = { %s . %s, %s . 9.0.0.0/8 }; }"
    site.node.run("nft -f -", f"table ip egressgw {{ {old % (POD, OUTSIDE, POD)}; }}")
    nftables = await protect(steer=False)
    site.node.run("nft delete table ip tc_stand_in")
    with site.node.capture("up0") as uplink:
        send(site.pod, b"leak", (SERVER, 53))
        send(site.pod, b"allowed", (ELSEWHERE, 53))
        assert [seen.payload for seen in uplink.until(b"allowed")] == [b"allowed"]
    assert (await nftables.counters())["guard_unmarked"] == 1


@pytest.mark.root
async def test_overlapping_destinations_are_merged(site: Site) -> None:
    nftables = await protect(steer=False)
    wide, narrow = IPv4Network("203.0.113.0/24"), IPv4Network("203.0.113.64/26")
    await nftables.replace_steer(to(wide, narrow))
    await nftables.replace_steer(to(narrow))
    assert str(narrow) in listed(site)
    assert str(wide) not in listed(site)
    await nftables.replace_steer(to(narrow, IPv4Network("0.0.0.0/0")))
    assert "0.0.0.0/0" in listed(site)
    again = Nftables()
    await again.apply(CONFIG)
    assert "0.0.0.0/0" in listed(site)


@pytest.mark.root
async def test_i3_pods_share_a_set_and_the_last_one_takes_it_away(site: Site) -> None:
    nftables = await protect()
    both = Destinations({POD: 1, IPv4Address("10.244.1.11"): 1}, {1: [OUTSIDE]})
    await nftables.replace_steer(both)
    assert listed(site).count(str(OUTSIDE)) == 1
    await nftables.replace_steer(Destinations({POD: 1}, {1: [OUTSIDE]}))
    assert listed(site).count(str(OUTSIDE)) == 1
    await nftables.replace_steer(NOTHING)
    assert str(OUTSIDE) not in listed(site)
    assert await nftables.is_intact()


@pytest.mark.root
async def test_i3_a_large_set_is_guarded_in_all_of_its_parts(site: Site) -> None:
    nftables = await protect()
    many = [IPv4Network((f"8.{index >> 7}.{index % 128 * 2}.0", 24)) for index in range(2 * PART)]
    await nftables.replace_steer(Destinations({POD: 1}, {1: [*many, OUTSIDE]}))
    site.node.run("nft delete table ip tc_stand_in")
    with site.node.capture("up0") as uplink:
        send(site.pod, b"leak", (SERVER, 53))
        send(site.pod, b"leak too", ("8.0.2.1", 53))
        send(site.pod, b"allowed", (ELSEWHERE, 53))
        assert [seen.payload for seen in uplink.until(b"allowed")] == [b"allowed"]
    assert (await nftables.counters())["guard_unmarked"] == 2
    assert await nftables.is_intact()


@pytest.mark.root
async def test_i3_no_transaction_is_long_and_at_none_is_a_pod_without_its_destinations(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    nftables = await protect()
    sizes: list[int] = []
    guarded: list[bool] = []
    run = Nftables._run

    async def watched(self: Nftables, *arguments: str, text: str = "", program: str = "nft") -> str:
        answer = await run(self, *arguments, text=text, program=program)
        sizes.append(text.count("/"))
        guarded.append(f"{POD} : jump" in listed(site))
        return answer

    monkeypatch.setattr(Nftables, "_run", watched)
    many = [IPv4Network((f"8.{index >> 7}.{index % 128 * 2}.0", 24)) for index in range(3 * PART)]
    await nftables.replace_steer(Destinations({POD: 1}, {1: [*many, OUTSIDE]}))
    await nftables.replace_steer(to(OUTSIDE))
    assert max(sizes) == PART
    assert all(guarded)
    assert await nftables.is_intact()


@pytest.mark.root
async def test_a_refused_transaction_changes_nothing_and_the_next_one_fits(site: Site) -> None:
    nftables = await protect()
    site.node.run("nft flush map ip egressgw guarded")
    with pytest.raises(TransientError):
        await nftables.replace_steer(NOTHING)
    await nftables.replace_steer(to(OUTSIDE))
    assert f"{POD} : jump" in listed(site)
    assert f"{POD} : goto" in listed(site)


@pytest.mark.root
async def test_i2_a_set_that_was_made_in_part_is_made_whole_by_the_next_call(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    nftables = await protect(steer=False)
    many = [IPv4Network((f"8.{index >> 7}.{index % 128 * 2}.0", 24)) for index in range(PART + 9)]
    run, failing = Nftables._run, [f"_1 {{ {many[PART]}"]

    async def refuse(self: Nftables, *arguments: str, text: str = "", program: str = "nft") -> str:
        if failing and failing[0] in text:
            failing.clear()
            raise TransientError("not now")
        return await run(self, *arguments, text=text, program=program)

    monkeypatch.setattr(Nftables, "_run", refuse)
    with pytest.raises(TransientError):
        await nftables.replace_steer(to(*many))
    assert not failing
    await nftables.replace_steer(to(*many))
    assert str(many[-1]) in listed(site)
    await nftables.replace_steer(NOTHING)
    assert await nftables.is_intact()
    assert "to_" not in listed(site)


@pytest.mark.root
async def test_sets_change_without_resetting_counters(site: Site) -> None:
    nftables = await protect()
    with site.node.capture("egw0") as steered:
        send(site.pod, b"selected", (SERVER, 53))
        steered.until(b"selected")
    more = NftConfig(MARK, (*CONFIG.cluster, IPv4Network("198.18.0.0/15")), CONFIG.pods, ("up0", "up1"))
    await nftables.update_sets(more)
    assert "198.18.0.0/15" in site.node.run("nft list set ip egressgw cluster")
    assert (await nftables.counters())["steered"] == 1


@pytest.mark.root
async def test_a_flushed_ruleset_is_noticed(site: Site) -> None:
    nftables = await protect()
    assert await nftables.present()
    site.node.run("nft flush ruleset")
    assert not await nftables.present()
    assert not await nftables.is_intact()
    await nftables.remove()


@pytest.mark.root
@pytest.mark.parametrize("chain", ["after_dstnat", "guard", "keep_source", "lives", "steered_connections"])
async def test_a_flushed_chain_is_noticed(site: Site, chain: str) -> None:
    nftables = await protect()
    assert await nftables.is_intact()
    site.node.run(f"nft flush chain ip egressgw {chain}")
    assert not await nftables.is_intact()
    await nftables.remove()


class Listed:
    """Nftables that says how often its table was listed."""

    def __init__(self, nftables: Nftables, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.runs, self._run = 0, 0, nftables._run
        monkeypatch.setattr(nftables, "_run", self.run)

    async def run(self, *arguments: str, text: str = "", program: str = "nft") -> str:
        self.runs += 1
        self.count += arguments[-4:] == ("list", "table", "ip", "egressgw")
        return await self._run(*arguments, text=text, program=program)


@pytest.mark.root
async def test_the_table_is_listed_only_where_somebody_else_has_changed_nftables(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    nftables = await protect(steer=False)
    listed = Listed(nftables, monkeypatch)
    for _ in range(3):
        assert await nftables.is_intact()
    assert listed.count == 1
    await nftables.replace_steer(to(OUTSIDE))
    await nftables.update_sets(CONFIG)
    assert await nftables.is_intact()
    assert listed.count == 1, "a change of our own"
    site.node.run("nft add table ip somebody")
    assert await nftables.is_intact()
    assert listed.count == 2
    await nftables.replace_steer(NOTHING)
    site.node.run("nft flush chain ip egressgw guard")
    await nftables.replace_steer(to(OUTSIDE))
    assert not await nftables.is_intact(), "a change of our own hides nobody else's"
    assert not await nftables.is_intact(), "until it is written again"


@pytest.mark.root
async def test_drops_of_guards_are_counted_though_the_table_is_not_listed(site: Site) -> None:
    nftables = await protect()
    assert await nftables.is_intact()
    before = nftables.dropped["guard_unmarked"]
    site.node.run("nft delete table ip tc_stand_in")
    assert await nftables.is_intact()
    with site.node.capture("up0") as uplink:
        send(site.pod, b"leak", (SERVER, 53))
        send(site.pod, b"allowed", (ELSEWHERE, 53))
        uplink.until(b"allowed")
    assert await nftables.is_intact()
    assert nftables.dropped["guard_unmarked"] == before + 1


@pytest.mark.root
async def test_many_small_sets_are_few_transactions(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    nftables = await protect(steer=False)
    listed = Listed(nftables, monkeypatch)
    many = {identity: (IPv4Network((0xCB000000 + (identity << 8), 24)),) for identity in range(200)}
    pods = {POD + identity: identity for identity in many}
    await nftables.replace_steer(Destinations(pods, many))
    assert listed.runs <= 200 / 32 + 2
    assert await nftables.is_intact()
    listed.runs = 0
    await nftables.replace_steer(NOTHING)
    assert listed.runs <= 200 / 32 + 2
    assert "to_" not in site.node.run("nft list sets")


@pytest.mark.root
async def test_d2_a_pods_packet_does_not_pass_for_an_answer_to_what_a_reply_of_ours_began(site: Site) -> None:
    """Connection tracking had forgotten the flow, the server spoke first, and then the flow ended."""
    nftables = await protect(replace(CONFIG, steering_device="up0"))
    with site.node.capture("up0") as uplink, site.pod.udp(str(POD), 4000) as pod:
        with site.outside.udp(SERVER, 53) as server:
            server.sendto(b"a reply of ours", (str(POD), 4000))
            assert pod.recv(99) == b"a reply of ours"
        pod.sendto(b"the pod again", (SERVER, 53))
        send(site.pod, b"last", (ELSEWHERE, 53))
        seen = [packet.payload for packet in uplink.until(b"last")]
    assert seen == [b"a reply of ours", b"last"], "never bare"
    assert (await nftables.counters())["guard_marked"] == 1, "it was on its way to the steering device"


@pytest.mark.root
async def test_d3_an_answer_to_somebody_outside_is_left_alone(site: Site) -> None:
    await protect()
    with site.node.capture("up0") as uplink, site.pod.udp(str(POD), 4000) as pod:
        with site.outside.udp(SERVER, 53) as server:
            server.sendto(b"from outside", (str(POD), 4000))
            assert pod.recv(99) == b"from outside"
        pod.sendto(b"answer", (SERVER, 53))
        assert uplink.until(b"answer")[-1].source == str(POD)


def tracked_for_s(site: Site, protocol: str, destination: str) -> list[int]:
    """For how long the pod's connections there will be remembered."""
    lines = site.node.run(f"conntrack -L -p {protocol} --orig-src {POD} --orig-dst {destination}").splitlines()
    return [int(line.split()[2]) for line in lines]


@pytest.mark.root
async def test_b3_connection_tracking_forgets_no_steered_connection_sooner_than_we_do(site: Site) -> None:
    nftables = await protect()
    send(site.pod, b"steered", (SERVER, 9))
    send(site.pod, b"other", (ELSEWHERE, 9))
    send(site.pod, b"question", (SERVER, 53))
    with site.pod.entered(), socket.socket() as opening:
        opening.setblocking(False)
        assert opening.connect_ex((SERVER, 9)) == errno.EINPROGRESS
    assert max(tracked_for_s(site, "udp", ELSEWHERE)) <= 30
    assert 170 <= max(tracked_for_s(site, "udp", SERVER)) <= 180
    assert min(tracked_for_s(site, "udp", SERVER)) <= 30, "a question of DNS is short"
    assert 290 <= max(tracked_for_s(site, "tcp", SERVER)) <= 300
    await nftables.update_sets(replace(CONFIG, lives=ConnectionLives(udp_new_s=600)))
    assert await nftables.is_intact()
    send(site.pod, b"steered", (SERVER, 9))
    assert 650 <= max(tracked_for_s(site, "udp", SERVER)) <= 660


@pytest.mark.root
async def test_w6_the_rule_that_uses_our_bit_is_named(site: Site) -> None:
    nftables = await protect()
    await nftables.check_marks(0x2000, 0x4000)
    site.node.run("iptables -t mangle -A FORWARD -m mark --mark 0x2000/0x2000 -j ACCEPT")
    with pytest.raises(OperatorError, match=r"datapath\.mark: 0x2000 is in use.*(FORWARD|mangle)"):
        await nftables.check_marks(0x2000, 0x4000)
    await nftables.check_marks(0x8000, 0x2000)
    site.node.run("iptables -t mangle -A FORWARD -m connmark --mark 0x2000/0x2000 -j ACCEPT")
    with pytest.raises(OperatorError, match=r"datapath\.connection_mark: 0x2000 is in use.*(FORWARD|mangle)"):
        await nftables.check_marks(0x8000, 0x2000)


async def test_without_nft_the_operator_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(OperatorError, match="nft is not installed"):
        await Nftables().present()


@pytest.mark.root
async def test_a_table_that_is_just_being_changed_is_not_taken_for_damaged(site: Site) -> None:
    """A look between a transaction and the note of it had everything written anew, and all flows forgotten."""
    nftables = await protect(steer=False)
    many = {identity: (IPv4Network(f"203.0.{identity}.0/24"),) for identity in range(1, 9)}
    pods = {POD + identity: identity for identity in many}
    changing = asyncio.create_task(nftables.replace_steer(Destinations(pods, many)))
    looks = 0
    while not changing.done():
        await asyncio.sleep(0)
        assert await nftables.is_intact()
        looks += 1
    await changing
    assert looks
    assert await nftables.is_intact()


async def test_a_look_at_the_table_waits_for_what_is_being_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look came between a transaction and the note of it: everything was written anew, and flows were forgotten."""
    asked: list[tuple[str, ...]] = []

    async def run(*arguments: str, text: str = "") -> str:
        asked.append(arguments)
        await asyncio.sleep(0)
        return '{"nftables": [{"table": {"family": "ip", "name": "egressgw"}}]}'

    nftables = Nftables()
    monkeypatch.setattr(nftables, "_run", run)
    many = {identity: [IPv4Network(f"10.{identity}.0.0/16")] for identity in range(5)}
    async with asyncio.TaskGroup() as group:
        group.create_task(nftables.replace_named(many))
        group.create_task(nftables.is_intact())
    assert asked == [("-f", "-")] * 6 + [("-j", "list", "tables"), ("-j", "-t", "list", "table", "ip", "egressgw")]


def test_empty_sets_render_without_elements() -> None:
    text = ruleset(NftConfig(MARK, (), (), ()))
    assert "elements" not in text
    assert "0xffffefff" in text


@pytest.mark.root
@pytest.mark.parametrize("chain", ["after_dstnat", "guard", "keep_source"])
async def test_a_chain_that_somebody_flushes_right_behind_our_writing_is_missed(
    site: Site, monkeypatch: pytest.MonkeyPatch, chain: str
) -> None:
    """Read back after it, the table without that chain's rules passed for the whole one, for good."""
    nftables, run = Nftables(), Nftables._run

    async def disturbed(self: Nftables, *arguments: str, text: str = "", program: str = "nft") -> str:
        answer = await run(self, *arguments, text=text, program=program)
        if "chain keep_source" in text:
            site.node.run(f"nft flush chain ip egressgw {chain}")
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(Nftables, "_run", disturbed)
        await nftables.apply(CONFIG)
    assert not await nftables.is_intact()
    await nftables.apply(CONFIG)
    assert await nftables.is_intact()


@pytest.mark.root
async def test_x2_what_comes_for_the_tunnels_port_by_no_uplink_is_dropped_and_counted(site: Site) -> None:
    """A pod that plays another node, to its own node: neither an uplink nor its fence is on that way."""
    nftables = await protect()
    site.pod.ip("addr add 192.168.7.2/32 dev lo")
    for name in ("all", "pod0"):
        site.node.sysctl(f"ipv4/conf/{name}/rp_filter", "0")
    send(site.pod, b"as another node", (NODE, VNI_PORT), "192.168.7.2")
    send(site.pod, b"to the pods' gateway", ("10.244.1.1", VNI_PORT))
    send(site.pod, b"another port", (NODE, VNI_PORT + 1))
    send(site.outside, b"by an uplink", (NODE, VNI_PORT))
    assert (await nftables.counters())["guard_tunnel"] == 2
