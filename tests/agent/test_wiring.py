"""Whole agents on loopback, with folders of manifests and keepers of paper; only the kernel's datapath is not there.

What each piece decides is tested beside it. Here is what was wired to what.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import aiohttp
import msgspec
import pytest

from service.agent.agent import Agent
from service.audit.recorder import LeaderRecorder
from service.controller.knowledge import Knowledge
from service.controller.port_blocks import LeaderPortBlocks
from service.datapath import formerly_listed, layout
from service.datapath.layout import BlockKind, MapName, SelectedState, WayKind
from service.datapath.steering import Phase
from service.electorate.follower import ElectorateFollower
from service.gossip.event import MemberChanged
from service.gossip.member import Member, MemberState
from service.host import clock
from service.model.assignment import Assignment, Location
from service.model.gateway_node import Hearing, NodeRole
from service.model.keeper_message import LeaseReport
from service.model.lease import HeldBy, Stamp, Token
from service.model.machine import Address
from service.model.objects import Change, ClusterNode, Kind, ObjectKey, Synced, Upsert
from service.network.announcer import Announcer
from service.network.arp import ArpPacket, ArpSender, gratuitous_arp_frames, parse_arp
from service.network.arp_listener import ArpListener
from service.port_block.block import base_blocks
from service.settings import GossipSettings, KafkaSettings, Settings
from service.sources.manifests.source import ManifestsSource
from service.wire.cluster_view import ClusterView
from tests.agent.site import FLOATING_IP, SECOND
from tests.agent.whole_agent import DEVICE, MANIFESTS, NODE, OTHER, POD_IP, Site, free_ports, until
from tests.datapath.stand_in import NOTHING_INHERITED


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path, 1, free_ports())
    made.select()
    return made


async def test_r3_an_agent_vouches_for_its_rows_before_it_says_that_an_address_is_here(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever hears of it sends at once, and what comes before is dropped."""
    vouched: list[bytes | None] = []
    trusts = site.datapath.maps[MapName.TRUSTS]

    def publish(self: ClusterView, told: Location) -> None:
        vouched.append(trusts.lookup(told.floating_ip.packed))

    monkeypatch.setattr(ClusterView, "publish_location", publish)
    async with site.running():
        await until(lambda: bool(site.carriers()))
        site.hold()
        await until(lambda: bool(vouched))
    assert vouched[0] == Token(1, 1, 1).packed().to_bytes(8, "little")


async def test_before_objects_are_known_nothing_is_written(site: Site) -> None:
    async with AsyncExitStack() as stack:
        agent = Agent(site.settings, site.datapath)
        await agent.enter(stack)
        task = asyncio.create_task(agent._turn.run())
        agent._uplinks_changed()
        await asyncio.sleep(0.1)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert site.datapath.calls == []
    assert agent.not_ready_reasons()[0] == "objects have not been read yet"


async def test_w2_what_the_keeper_holds_is_this_nodes_way_and_told_to_all_members(site: Site) -> None:
    async with site.running() as agent:
        site.hold()
        await until(lambda: site.way_kind() == WayKind.LOCAL)
        assert agent._cluster.locations()[FLOATING_IP].node == NODE
        assert agent.status()["held"] == [str(FLOATING_IP)]
        site.keeper.send(LeaseReport((), elector=True, voting=True, scheduling="fifo"))
        await until(lambda: agent.status()["held"] == [])
        assert agent.status()["floatingIPs"][str(FLOATING_IP)]["holder"] is None


def is_fenced(site: Site) -> bool:
    return FLOATING_IP.packed in site.datapath.content.get(MapName.FLOATING_IPS, {})


def unlist(site: Site) -> None:
    """Take the address out of the spec."""
    (site.manifests / "cluster.yaml").write_text(MANIFESTS.replace("[192.168.1.100]", "[]"), encoding="ascii")


@pytest.fixture
def no_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is neither listed nor leased is not fenced for a while longer."""
    monkeypatch.setattr(formerly_listed, "STAYS_NS", 0)


@pytest.mark.usefixtures("no_stay")
async def test_an_address_that_is_listed_no_more_is_behind_the_fence_while_it_is_leased_here(site: Site) -> None:
    async with site.running() as agent:
        site.hold()
        await until(lambda: agent.status()["held"] and is_fenced(site))
        unlist(site)
        await until(lambda: not agent._reconciler._index.gateway().floating_ips)
        await asyncio.sleep(0.3)
        assert is_fenced(site)
        site.keeper.send(LeaseReport((), elector=True, voting=True, scheduling="fifo"))
        await until(lambda: not is_fenced(site))


@pytest.mark.usefixtures("no_stay")
async def test_a_lease_whose_keeper_is_gone_keeps_an_address_behind_the_fence_no_longer_than_it_lasts(
    site: Site,
) -> None:
    async with site.running() as agent:
        site.hold(lasts_ns=2 * SECOND)
        await until(lambda: agent.status()["held"] and is_fenced(site))
        unlist(site)
        await until(lambda: not agent._reconciler._index.gateway().floating_ips)
        assert is_fenced(site)
        await until(lambda: not is_fenced(site))


async def test_w10_a_newly_selected_pod_is_cleared_before_it_is_steered(site: Site) -> None:
    async with site.running():
        site.hold()
        await until(lambda: site.state() == SelectedState.STEER)
    cleared = [index for index, call in enumerate(site.datapath.calls) if call[0] == "find"]
    written = [index for index, call in enumerate(site.datapath.calls) if call[0] == "write"]
    assert site.datapath.named("find") == [(POD_IP,)]
    assert written[0] < cleared[0] < written[-1]


async def test_w4_netfilter_has_the_pairs_before_the_map_has_the_pod(site: Site) -> None:
    async with site.running():
        await until(lambda: site.state() is not None)
    names = [call[0] for call in site.datapath.calls]
    assert names.index("set_netfilter") < names.index("write")
    assert site.datapath.named("set_netfilter")[0] == (("none0",), {POD_IP: [IPv4Network("8.8.8.0/24")]})


async def test_a_turn_that_fails_is_taken_again(site: Site) -> None:
    site.datapath.failing["set_netfilter"] = 2
    async with site.running():
        await until(lambda: site.datapath.content)
    assert len(site.datapath.named("set_netfilter")) == 3


async def test_others_that_were_at_the_rules_make_all_of_them_written_again(site: Site) -> None:
    site.datapath.repairs = [12]
    async with site.running():
        await until(lambda: len(site.datapath.named("set_netfilter")) == 2)


async def test_the_keeper_hears_of_an_assignment_and_where_the_address_is_announced(site: Site) -> None:
    async with site.running() as agent:
        site.hold()
        await until(lambda: site.way_kind() is not None)
        agent._cluster.publish_assignment(Assignment(FLOATING_IP, NODE, None, Stamp(3, 4)))
        await until(lambda: site.heartbeats and site.heartbeats[-1].claims)
        (claim,), (uplink,) = site.heartbeats[-1].claims, site.heartbeats[-1].uplinks
        assert (claim.role, claim.term, claim.version, uplink.ifname) == ("holder", 3, 4, "none0")
        assert site.heartbeats[-1].ready


async def test_an_address_that_nobody_has_held_and_that_cannot_be_asked_about_is_not_claimed(site: Site) -> None:
    async with site.running() as agent:
        agent._cluster.publish_assignment(Assignment(FLOATING_IP, NODE, None, Stamp(3, 4)))
        await until(lambda: site.heartbeats and site.heartbeats[-1].uplinks)
        await asyncio.sleep(0.1)
        assert site.heartbeats[-1].claims == ()


async def test_a1_an_address_of_an_interface_is_told_to_keeper_and_members_and_left_to_its_owner(
    tmp_path: Path,
) -> None:
    ports = free_ports()
    one, two = Site(tmp_path, 1, ports), Site(tmp_path, 2, ports)
    two.datapath._addresses = frozenset((FLOATING_IP,))
    async with one.running() as first, two.running() as second:
        one.hold()
        first._cluster.publish_assignment(Assignment(FLOATING_IP, NODE, OTHER, Stamp(3, 4)))
        for site in (one, two):
            await until(lambda site=site: site.carriers() == [False])
            assert site.heartbeats[-1].claims == ()
            await until(lambda site=site: site.datapath.content.get(MapName.FLOATING_IPS) == {})
        assert "is an address of an interface of this node" in str(second.status()["troubles"])


async def test_a1_the_address_of_the_api_server_is_nobodys_to_hold(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ManifestsSource, "server_address", lambda source: FLOATING_IP)
    async with site.running():
        await until(lambda: site.carriers() == [False])


async def test_a2_who_else_uses_a_held_address_is_heard_told_and_answered(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    listened: list[list[tuple[str, int]]] = []
    sent: list[bytes] = []
    stranger = b"\2\0\0\0\0\x63"
    monkeypatch.setattr(ArpListener, "listen", lambda listener, interfaces: listened.append(list(interfaces)))
    monkeypatch.setattr(ArpSender, "send", lambda sender, interface, frame: sent.append(frame))
    async with site.running() as agent:
        site.hold()
        await until(lambda: agent._segment_watch._defence.holds(FLOATING_IP))
        sent.clear()
        agent._segment_watch.hear("none0", ArpPacket(1, stranger, FLOATING_IP, bytes(6), FLOATING_IP))
        await until(lambda: agent._cluster.conflicts() == {FLOATING_IP: stranger})
        await until(lambda: gratuitous_arp_frames(agent._datapath.uplinks[0].mac, FLOATING_IP)[0] in sent)
        assert "FloatingIPConflict" in str(agent.status()["troubles"])
        url = f"http://{site.settings.http.address}:{site.settings.ports.http}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            assert "egressgw_floating_ip_defences_total 1.0" in await answer.text()
        assert listened[-1] == [("none0", 2)]


async def test_the_start_is_on_record(site: Site) -> None:
    async with site.running() as agent:
        await until(lambda: agent._outbox.state.written >= 1)


async def test_a_silent_keeper_makes_the_node_unready_and_what_it_said_void(site: Site) -> None:
    async with site.running() as agent:
        assert "the lease keeper of this node does not report" in agent.not_ready_reasons()
        site.hold()
        await until(lambda: agent.not_ready_reasons() == [])
        assert agent.status()["keeper"]["alive"]


@asynccontextmanager
async def leading(site: Site, cluster: ClusterView, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """A controller leads, which knows what that agent's gossip says; OTHER holds the address."""
    host = "127.0.0.9"
    sockets = ClusterView.sockets

    def found(self: ClusterView, port: int) -> Mapping[str, Address]:
        return {**sockets(self, port), "controller1": Address(host, port)}

    monkeypatch.setattr(ClusterView, "leader", lambda self: ("controller1", 7))
    monkeypatch.setattr(ClusterView, "sockets", found)
    assert site.agent is not None
    knowledge = SimpleNamespace(
        has_caught_up=lambda: True,
        holders=lambda: {FLOATING_IP: HeldBy(OTHER, Token(1, 1, 1))},
        intake=site.agent._intake,
    )
    settings = msgspec.structs.replace(site.settings, node="controller1", bind_address=host)
    recorder = cast(
        LeaderRecorder, SimpleNamespace(ports_moved=lambda *_, **__: None, ports_table=lambda *_, **__: None)
    )
    leader = LeaderPortBlocks(settings, cluster, cast(Knowledge, knowledge), clock=clock.boot_ns, recorder=recorder)
    async with leader.socket, asyncio.TaskGroup() as group:
        tasks = [group.create_task(leader.pump.run()), group.create_task(_inform(leader))]
        yield
        for task in tasks:
            task.cancel()


async def _inform(leader: LeaderPortBlocks) -> None:
    while True:
        leader.lead(7, clock.boot_ns() + 60 * SECOND)
        leader.update()
        await asyncio.sleep(0.05)


async def test_q3_w2_two_agents_a_pods_node_has_ports_that_the_holder_knows_and_follows_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = free_ports()
    one, two = Site(tmp_path, 1, ports), Site(tmp_path, 2, ports)
    two.datapath.devices = {}
    async with one.running() as first, two.running():
        await until(lambda: {node.name for node in first._cluster.gateway_nodes()} == {NODE, OTHER})
        first._cluster.publish_assignment(Assignment(FLOATING_IP, OTHER, None, Stamp(1, 1)))
        two.hold()
        await until(lambda: one.way_kind() == WayKind.L2)
        one.select()
        await until(lambda: one.state() == SelectedState.STEER)
        async with leading(one, first._cluster, monkeypatch):
            await until(lambda: one.datapath.maps[MapName.OWN_BLOCKS].rows)
            kinds = {row[-4] for row in two.datapath.maps[MapName.BLOCKS].rows.values()}
            assert kinds == {BlockKind.L2}
        one.hold(counter=2)
        await until(lambda: one.way_kind() == WayKind.LOCAL and two.way_kind() == WayKind.L2)
        await until(lambda: len(one.datapath.maps[MapName.BLOCKS].rows) == base_blocks(2))
        assert first._reconciler.steering.phases() == {POD_IP: Phase.STEERING}


async def test_r3_rows_of_blocks_count_under_the_lease_that_the_keeper_says_it_has(site: Site) -> None:
    async with site.running() as agent:
        await until(lambda: agent._intake.is_synced)
        for counter in (1, 2):
            site.hold(counter)
            token = Token(1, 1, counter).packed().to_bytes(8, "little")
            await until(lambda: site.datapath.maps[MapName.TRUSTS].rows == {FLOATING_IP.packed: token})  # noqa: B023


async def test_i1_a_full_map_costs_the_pods_that_find_no_room_and_status_names_them(site: Site) -> None:
    other = IPv4Address("10.244.1.11")
    second = MANIFESTS.split("---")[1].replace("name: pod", "name: second").replace("uid-1", "uid-2")
    (site.manifests / "second.yaml").write_text(second.replace(str(POD_IP), str(other)), encoding="ascii")
    site.datapath.devices[other] = DEVICE
    site.datapath.pool.rooms[MapName.SELECTED] = 2
    async with site.running() as agent:
        site.hold()
        await until(lambda: Phase.STEERING in agent._reconciler.steering.phases().values())
        await until(lambda: agent.status()["troubles"])
        phases = agent._reconciler.steering.phases()
        _, unserved = sorted(phases, key=lambda pod_ip: phases[pod_ip] is not Phase.STEERING)
        assert phases[unserved] is Phase.SETTING
        (trouble,) = agent.status()["troubles"]
        assert trouble == f"map selected: 2 entries wait (no room); dropped are packets of pods {unserved}"
        assert 'egressgw_map_unserved_pods{map="selected"} 1.0' in await site.metrics()
        site.datapath.pool.rooms[MapName.SELECTED] = 4
        await until(lambda: set(agent._reconciler.steering.phases().values()) == {Phase.STEERING})
        assert agent.status()["troubles"] == []


async def test_i1_rows_that_are_written_late_are_waited_for_and_not_asked_for_each_second(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.agent.agent.REFRESH_S", 3600)
    site.datapath.pool.stuck = {MapName.RULES, MapName.SELECTED}
    async with site.running() as agent:
        site.hold()
        await until(lambda: site.state() == SelectedState.CHANGING)
        await asyncio.sleep(0.3)
        assert agent._reconciler.steering.phases() == {POD_IP: Phase.SETTING}
        site.datapath.pool.release(MapName.SELECTED)
        site.datapath.pool.release(MapName.RULES)
        await until(lambda: agent._reconciler.steering.phases() == {POD_IP: Phase.STEERING}, within_s=5)


async def test_s3_the_heartbeat_is_repeated_and_says_when_the_datapath_is_ready(site: Site) -> None:
    async with site.running():
        await until(lambda: site.heartbeats and site.heartbeats[-1].ready)
        heard = len(site.heartbeats)
        await until(lambda: len(site.heartbeats) >= heard + 2)
        assert site.heartbeats[-1] == site.heartbeats[-2]


async def test_s5_a_lost_carrier_is_in_the_heartbeat_and_makes_the_node_unready(site: Site) -> None:
    site.datapath.links.reports.put_nowait(None)
    site.datapath.next_uplinks = (replace(site.datapath.uplinks[0], carrier=False),)
    async with site.running() as agent:
        await until(lambda: site.heartbeats and site.heartbeats[-1].uplinks)
        await until(lambda: not site.heartbeats[-1].uplinks[0].carrier)
        assert "no uplink has a carrier" in agent.not_ready_reasons()


async def test_s5_a_node_that_nobody_answers_tells_keeper_and_members_while_another_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    monkeypatch.setattr(ArpSender, "send", lambda sender, interface, frame: sent.append(frame))
    ports = free_ports()
    one, two = Site(tmp_path, 1, ports), Site(tmp_path, 2, ports)
    mac = two.datapath.uplinks[0].mac
    one.datapath.gateways = (IPv4Address("192.168.1.1"),)
    answer = ArpPacket(2, bytes(6), IPv4Address("192.168.1.1"), mac, IPv4Address("192.168.1.22"))
    async with one.running() as first, two.running() as second:

        async def answer_second() -> None:
            while True:
                second._segment_watch.hear("none0", answer)
                await asyncio.sleep(0.2)

        answering = asyncio.create_task(answer_second())
        await until(lambda: one.heartbeats and one.heartbeats[-1].uplinks and one.heartbeats[-1].uplinks[0].carrier)
        await until(lambda: not one.heartbeats[-1].uplinks[0].carrier)
        assert two.heartbeats[-1].uplinks[0].carrier
        await until(lambda: second._cluster.gateway_nodes()[0].segments[0].hearing is Hearing.DEAF)
        assert "none0: nobody answers this node" in str(first.status()["troubles"])
        asked = {packet.target for packet in map(parse_arp, sent) if packet is not None and packet.sender_mac != mac}
        assert {IPv4Address("192.168.1.1"), IPv4Address("192.168.1.22")} <= asked
        answering.cancel()


async def test_l1_a_floating_ip_that_leaves_the_spec_has_no_way_and_stays_behind_the_fence(site: Site) -> None:
    async with site.running():
        site.hold()
        await until(lambda: site.way_kind() == WayKind.LOCAL)
        listed = (site.manifests / "cluster.yaml").read_text(encoding="ascii")
        (site.manifests / "cluster.yaml").write_text(listed.replace(".100]", ".101]"), encoding="ascii")
        await until(lambda: site.way_kind() is None)
        assert FLOATING_IP.packed in site.datapath.content[MapName.FLOATING_IPS]


async def test_a_member_that_is_back_makes_held_addresses_announced_anew(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    restarted: list[list[str]] = []
    monkeypatch.setattr(Announcer, "restart", lambda self, held: restarted.append([str(one) for one in held]))
    async with site.running() as agent:
        site.hold()
        await until(lambda: agent._holdings.held)
        member = Member(OTHER, Address("127.0.0.2", 1), MemberState.DEAD, b"", 1)
        agent._cluster._handle(MemberChanged(member, None))
        assert restarted == []
        agent._cluster._handle(MemberChanged(replace(member, state=MemberState.ALIVE), MemberState.DEAD))
        assert restarted == [[str(FLOATING_IP)]]


async def test_w2_a_location_heard_by_gossip_moves_the_way(tmp_path: Path) -> None:
    """Without the direct word: the holder's state socket is another one than its members think."""
    gossip, state, http = free_ports()
    one, two = Site(tmp_path, 1, (gossip, state, http)), Site(tmp_path, 2, (gossip, free_ports()[1], http))
    async with one.running(), two.running():
        two.hold()
        await until(lambda: one.way_kind() == WayKind.L2)


async def test_w2_a_new_holder_tells_every_peer_directly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without gossip of it."""
    monkeypatch.setattr(ClusterView, "publish_location", lambda self, location: None)
    ports = free_ports()
    one, two = Site(tmp_path, 1, ports), Site(tmp_path, 2, ports)
    async with one.running() as first, two.running() as second:
        await until(lambda: {node.name for node in first._cluster.gateway_nodes()} == {NODE, OTHER})
        await until(lambda: NODE in second._neighbours._known)
        two.hold()
        await until(lambda: one.way_kind() == WayKind.L2)


async def test_an_inherited_way_stands_at_the_start_and_not_for_ever(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.agent.agent._INHERITANCE_NS", SECOND)
    way = layout.way_value(7, WayKind.L2, 2, bytes(6), bytes(6))
    site.datapath.left = replace(NOTHING_INHERITED, ways={FLOATING_IP.packed: way})
    async with site.running():
        await until(lambda: site.way_kind() == WayKind.L2)
        await until(lambda: site.way_kind() is None)


async def test_w12_a_node_that_a_former_agent_knew_is_in_the_cluster_at_the_start_and_not_for_ever(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.agent.agent._INHERITANCE_NS", SECOND)
    row = layout.cluster_key(IPv4Network("192.168.1.77/32"))
    site.datapath.left = replace(NOTHING_INHERITED, exempt=(IPv4Address("192.168.1.77"),))
    async with site.running():
        await until(lambda: row in site.datapath.content.get(MapName.CLUSTER, {}))
        await until(lambda: row not in site.datapath.content[MapName.CLUSTER])


async def test_w14_an_exclusion_that_is_written_into_a_policy_comes_into_the_map_of_rules(site: Site) -> None:
    def rules() -> dict[IPv4Network, IPv4Address | None]:
        content = site.datapath.content.get(MapName.RULES, {})
        return {layout.parse_rule_key(key)[1]: layout.parse_rule_value(value) for key, value in content.items()}

    wide, hole = IPv4Network("8.8.8.0/24"), IPv4Network("8.8.8.8/32")
    async with site.running():
        site.select()
        await until(lambda: rules() == {wide: FLOATING_IP})
        site.select(str(hole))
        await until(lambda: rules().get(hole, FLOATING_IP) is None)
        assert rules()[wide] == FLOATING_IP


async def test_a_newly_selected_pods_device_is_looked_for_at_once(tmp_path: Path) -> None:
    """Unasked it would be looked for each five seconds."""
    site = Site(tmp_path, 1, free_ports())
    async with site.running():
        site.hold()
        await until(lambda: site.way_kind() == WayKind.LOCAL)
        site.select()
        await until(lambda: site.state() is not None, within_s=3.5)


@asynccontextmanager
async def source_with_nodes(settings: Settings) -> AsyncIterator[ManifestsSource]:
    """A source as of Kubernetes, where there are Node objects too."""
    address, pods = IPv4Address("127.0.0.1"), IPv4Network("10.77.0.0/16")
    node_object = ClusterNode(ObjectKey(Kind.NODE, "", NODE), NodeRole.WORKER, (address,), (pods,))

    class Source(ManifestsSource):
        async def changes(self) -> AsyncIterator[tuple[Change, ...]]:
            yield (Upsert(node_object), Synced())
            await asyncio.Event().wait()

    yield Source(Path(settings.source.removeprefix("manifests:")))


async def test_what_node_objects_say_is_never_steered_to_and_joins_the_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.agent.agent.open_source", source_with_nodes)
    ports = free_ports()
    one, two = Site(tmp_path, 1, ports), Site(tmp_path, 2, ports)
    for site in (one, two):
        site.settings = msgspec.structs.replace(site.settings, gossip=GossipSettings())
    async with one.running(), two.running() as second:
        await until(lambda: {node.name for node in second._cluster.gateway_nodes()} == {NODE, OTHER})
        await until(lambda: two.datapath.content)
    assert layout.cluster_key(IPv4Network("10.77.0.0/16")) in two.datapath.content[MapName.CLUSTER]


async def test_the_electorates_follower_hears_every_report(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[LeaseReport] = []
    monkeypatch.setattr(ElectorateFollower, "hear", lambda self, said: heard.append(said))
    async with site.running():
        site.hold()
        site.hold()
        await until(lambda: len(heard) == 2)


# -- each task, and each word that a turn passes on, that nothing above would miss --


async def test_the_task_that_writes_maps_is_run(site: Site) -> None:
    async with site.running():
        await until(lambda: site.datapath.pool.rows.get(MapName.SELECTED))


async def test_the_task_that_publishes_records_is_run(site: Site) -> None:
    nobody = KafkaSettings(bootstrap_servers=(f"127.0.0.1:{free_ports()[0]}",))
    site.settings = msgspec.structs.replace(site.settings, kafka=nobody)
    async with site.running() as agent:
        await until(lambda: not agent.status()["audit"]["healthy"])


async def test_the_task_that_talks_to_peers_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A datagram that is lost is sent again, though nobody asks for it."""
    monkeypatch.setattr("service.agent.agent.REFRESH_S", 3600)
    ports = free_ports()
    one, two = Site(tmp_path, 1, ports), Site(tmp_path, 2, ports)
    two.datapath.devices = {}
    async with one.running() as first, two.running():
        two.hold()
        await until(lambda: one.way_kind() == WayKind.L2)
        pump = first._neighbours.pump
        send, lost = pump._send, [0]

        def lose(address: Address, payload: bytes) -> None:
            lost[0] += 1
            if lost[0] > 2:
                send(address, payload)

        pump._send = lose
        one.select()
        await until(lambda: one.state() == SelectedState.STEER)


async def test_the_task_that_follows_the_electorate_is_run(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    followed = asyncio.Event()

    async def run(follower: ElectorateFollower) -> None:
        followed.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(ElectorateFollower, "run", run)
    async with site.running(), asyncio.timeout(10):
        await followed.wait()


async def test_the_task_that_announces_is_run(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    async with site.running():
        site.hold()
        await until(lambda: f"gratuitous ARP for {FLOATING_IP}: interface none0" in caplog.text)


@pytest.mark.parametrize("owner", [None, b"\2\0\0\0\0\x99"], ids=["nobody", "a stranger"])
async def test_the_task_that_looks_for_conflicts_is_run_for_what_is_assigned(
    site: Site, monkeypatch: pytest.MonkeyPatch, owner: bytes | None
) -> None:
    async def probe(*_: object, **__: object) -> bytes | None:
        return owner

    monkeypatch.setattr("service.network.arp.probe", probe)
    async with site.running() as agent:
        agent._cluster.publish_assignment(Assignment(FLOATING_IP, NODE, None, Stamp(3, 4)))
        if owner is None:
            await until(lambda: site.heartbeats and site.heartbeats[-1].claims)
        else:
            await until(lambda: agent._cluster.conflicts() == {FLOATING_IP: owner})
            assert site.heartbeats[-1].claims == ()


async def test_once_objects_are_known_the_device_of_a_pod_that_is_gone_is_forgotten(site: Site) -> None:
    async with site.running() as agent:
        await until(lambda: agent._reconciler.devices)
        (site.manifests / "cluster.yaml").unlink()
        await until(lambda: not agent._reconciler.local_pods())
        agent._upkeep.devices_wanted.set()
        await until(lambda: not agent._reconciler.devices)


async def test_w11_a_pod_that_no_policy_selects_any_more_is_told_to_the_kernel_as_one_to_leave_alone(
    site: Site,
) -> None:
    async with site.running() as agent:
        await until(lambda: agent._reconciler.devices)
        (device,) = agent._reconciler.devices.values()
        site.hold()
        (site.manifests / "policy.yaml").unlink()
        left_alone = {layout.selected_key(POD_IP, device): layout.selected_value(0, SelectedState.NOT)}
        await until(lambda: site.datapath.content.get(MapName.SELECTED) == left_alone)


async def test_w11_where_policies_point_is_closed_to_the_unclassified_once_pods_are_known(site: Site) -> None:
    async with site.running():
        await until(lambda: site.datapath.named("replace_named") == [(IPv4Network("8.8.8.0/24"),)])
    names = [call[0] for call in site.datapath.calls]
    assert max(names.index("pod_devices"), names.index("set_netfilter")) < names.index("replace_named")


async def test_w2_what_the_keeper_holds_is_known_here_at_once_without_gossip(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClusterView, "publish_location", lambda self, location: None)
    async with site.running():
        site.hold()
        await until(lambda: site.way_kind() == WayKind.LOCAL)
