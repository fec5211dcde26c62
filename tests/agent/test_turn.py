"""One turn: who is told what, and what waits for what."""

import asyncio
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from service.agent.cni_in_place import CniInPlace
from service.agent.conflicts import Conflicts
from service.agent.neighbours import Neighbours
from service.agent.netfilter import NetfilterDifference
from service.agent.port_blocks import PortBlocks
from service.agent.segment_watch import SegmentWatch
from service.agent.transport_watch import TransportWatch
from service.agent.turn import Turn
from service.audit.outbox import Origin, Outbox
from service.audit.recorder import AgentRecorder
from service.datapath import layout
from service.datapath.layout import MapName, SelectedState
from service.datapath.reconciler import WHOLE_MAPS, Reconciler
from service.datapath.upkeep import Upkeep
from service.datapath.worker_pool import WorkerPool
from service.electorate.follower import ElectorateFollower
from service.model.assignment import Assignment, Location
from service.model.gateway_node import NodeRole
from service.model.keeper_message import Heartbeat
from service.model.lease import Stamp, Token
from service.model.objects import Object, Synced, Upsert
from service.sources.intake import Intake
from service.wire.keeper_link import KeeperLink
from tests.agent.site import FLOATING_IP, StandInCluster, node, settings_of
from tests.datapath.stand_in import UPLINK, StandInDatapath
from tests.datapath.test_worker_pool import FakeMap, serving, settle
from tests.policy.objects import gateway, namespace, pod, policy
from tests.virtual_time import in_virtual_time, now_ns

OBJECTS = (gateway(str(FLOATING_IP)), namespace(), pod("web", "10.0.0.1", node="worker1"), policy())


class Site:
    """Everything a turn touches, without a kernel, a peer or a keeper."""

    def __init__(self, folder: Path) -> None:
        settings = settings_of(folder)
        self.said: list[Heartbeat] = []
        self.held: dict[IPv4Address, Token] = {}
        self.dirty = asyncio.Event()
        self.intake = Intake(settings.datapath)
        self.reconciler = Reconciler(settings, self.intake.index)
        self.reconciler.learn_uplinks((UPLINK,))
        self.reconciler.learn_steering_device(9)
        self.datapath = StandInDatapath(settings, UPLINK)
        self.cluster = StandInCluster(settings, node("worker1", 21), node("worker2", 22))
        keeper = KeeperLink(folder, clock=now_ns, on_report=lambda report: None)
        keeper.say = self.said.append  # type: ignore[method-assign]
        self.upkeep = Upkeep(
            self.datapath,
            self.reconciler,
            clock=now_ns,
            changed=self.dirty.set,
            uplinks_changed=self.dirty.set,
            held=lambda: (FLOATING_IP,),
        )
        recorder = AgentRecorder(
            Outbox(folder / "outbox", Origin("worker1", "b"), clock=lambda: (1, 1)), node="worker1"
        )
        self.segment_watch = SegmentWatch(
            settings,
            self.reconciler,
            clock=now_ns,
            held=tuple,
            gateways=tuple,
            is_answering=lambda name: True,
            changed=self.dirty.set,
        )
        self.cni = CniInPlace(is_tried=False)
        self.turn = Turn(
            settings,
            clock=now_ns,
            intake=self.intake,
            reconciler=self.reconciler,
            datapath=self.datapath,
            upkeep=self.upkeep,
            cluster=self.cluster,
            keeper=keeper,
            electorate=ElectorateFollower(settings, changed=lambda record: None),
            neighbours=Neighbours(
                settings,
                self.cluster,
                self.reconciler,
                start_id=7,
                clock=now_ns,
                changed=self.dirty.set,
                others=lambda source, payload: False,
            ),
            blocks=PortBlocks(
                settings,
                self.cluster,
                self.reconciler,
                start_id=7,
                clock=now_ns,
                send=lambda to, payload: None,
                changed=self.dirty.set,
            ),
            segment_watch=self.segment_watch,
            transports=TransportWatch(
                settings,
                self.reconciler,
                start_id=7,
                clock=now_ns,
                answering=frozenset,
                held=dict,
                heard=lambda location: None,
                changed=self.dirty.set,
            ),
            conflicts=Conflicts(
                self.reconciler,
                self.cluster,
                recorder,
                self.segment_watch,
                clock=now_ns,
                wall_clock=lambda: 1,
                changed=self.dirty.set,
            ),
            netfilter=NetfilterDifference(self.datapath, self.reconciler),
            cni=self.cni,
            held=lambda: self.held,
            dirty=self.dirty,
        )

    def know(self, *items: Object) -> None:
        self.intake.take((*(Upsert(item) for item in items), Synced()))

    def hold(self, holder: str) -> None:
        self.cluster.table = {FLOATING_IP: Assignment(FLOATING_IP, holder, None, Stamp(3, 1))}
        self.reconciler.learn_location(Location(FLOATING_IP, holder, Token(3, 1, 1)))


@in_virtual_time
async def test_n2_beside_a_cni_that_was_not_tested_with_a_node_is_not_ready_and_says_which(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.know(*OBJECTS)
    site.cni.look(["lo", "eth0", "cilium_host"])
    await site.turn.take()
    _, said = site.cluster.members()["worker1"]
    assert (said.ready, said.schedulable, said.unsupported_cni) == (False, False, "Cilium")
    assert "Cilium" in site.turn.unfit_reasons()[0]


@in_virtual_time
async def test_before_objects_are_known_the_keeper_is_told_and_the_kernel_left_alone(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.turn.take()
    assert [said.ready for said in site.said] == [False]
    assert site.datapath.calls == []


@in_virtual_time
async def test_a_turn_writes_netfilter_and_rows_and_asks_for_the_pods_device(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.know(*OBJECTS)
    await site.turn.take()
    assert site.said[-1].ready
    assert [call[0] for call in site.datapath.calls] == ["set_netfilter", "write"]
    assert site.datapath.content[MapName.FLOATING_IPS]
    assert site.datapath.content[MapName.AGENT_BEAT] == layout.beat_rows(now_ns()), "hints need not last (W2)"
    assert site.upkeep.devices_wanted.is_set()


@in_virtual_time
async def test_w11_pods_that_were_there_first_are_known_to_the_kernel_before_their_destinations_are_closed(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    site.know(*OBJECTS, pod("bystander", "10.0.0.2", namespace="elsewhere"))
    site.datapath.pool.stuck = {MapName.SELECTED}
    await site.turn.take()
    site.reconciler.learn_devices({IPv4Address("10.0.0.1"): 7, IPv4Address("10.0.0.2"): 8})
    site.upkeep.has_looked = True
    await site.turn.take()
    assert site.datapath.named("replace_named") == []
    site.datapath.pool.release(MapName.SELECTED)
    await site.turn.take()
    assert len(site.datapath.named("replace_named")) == 1


@in_virtual_time
async def test_w11_a_pod_that_no_policy_selects_is_looked_for_and_told_to_the_kernel(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.know(pod("bystander", "10.0.0.2"))
    site.upkeep.has_looked = True
    await site.turn.take()
    assert site.upkeep.devices_wanted.is_set()
    site.reconciler.learn_devices({IPv4Address("10.0.0.2"): 8})
    await site.turn.take()
    key = layout.selected_key(IPv4Address("10.0.0.2"), 8)
    assert site.datapath.content[MapName.SELECTED] == {key: layout.selected_value(0, SelectedState.NOT)}


@in_virtual_time
async def test_w11_another_device_under_a_pods_address_is_not_told_to_the_kernel_at_once(tmp_path: Path) -> None:
    site, bystander = Site(tmp_path), IPv4Address("10.0.0.2")
    site.know(pod("bystander", str(bystander)))
    site.reconciler.learn_devices({bystander: 8})
    await site.turn.take()
    await asyncio.sleep(2)
    site.reconciler.learn_devices({bystander: 9})
    await site.turn.take()
    assert site.datapath.content[MapName.SELECTED] == {}
    await asyncio.sleep(6)
    await site.turn.take()
    assert list(site.datapath.content[MapName.SELECTED]) == [layout.selected_key(bystander, 9)]


@in_virtual_time
async def test_g2_an_assigned_address_is_claimed_once_the_fence_knows_it(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.know(*OBJECTS)
    site.hold("worker1")
    await site.turn.take()
    assert site.said[-1].claims == (), "the fence does not know it yet"
    await site.turn.take()
    assert [(claim.floating_ip, claim.role) for claim in site.said[-1].claims] == [(str(FLOATING_IP), "holder")]


@in_virtual_time
async def test_a1_an_address_that_may_be_another_hosts_is_not_claimed(tmp_path: Path) -> None:
    """No member has held it yet, and nobody on the segment was asked."""
    site = Site(tmp_path)
    site.know(*OBJECTS)
    site.cluster.table = {FLOATING_IP: Assignment(FLOATING_IP, "worker1", None, Stamp(3, 1))}
    for _ in range(3):
        await site.turn.take()
    assert site.said[-1].claims == ()
    site.hold("worker1")
    await site.turn.take()
    assert len(site.said[-1].claims) == 1


@in_virtual_time
async def test_a_pod_under_a_new_policy_has_its_connections_cleared(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.hold("worker1")
    site.know(*OBJECTS)
    await site.turn.take()
    assert site.upkeep.clearing_wanted.is_set()


@in_virtual_time
async def test_w12_connections_to_a_node_that_has_left_are_forgotten(tmp_path: Path) -> None:
    """From then on it is steered like any other host."""
    site = Site(tmp_path)
    site.know(*OBJECTS[:2])
    await site.turn.take()
    assert not site.upkeep.clearing_wanted.is_set()
    site.cluster.nodes = site.cluster.nodes[:1]
    await site.turn.take()
    assert site.upkeep.is_clearing_due
    assert site.upkeep.clearing_wanted.is_set()


@in_virtual_time
async def test_a_turn_that_failed_is_taken_again_and_none_is_taken_for_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.know(*OBJECTS)
    site.datapath.failing["set_netfilter"] = 2
    running = asyncio.create_task(site.turn.run())
    # It begins with a turn: whoever asked for one before may have asked in vain.
    await asyncio.sleep(1)
    assert len(site.said) == 3
    assert len(site.datapath.named("set_netfilter")) == 3
    turns = len(site.said)
    await asyncio.sleep(60)
    assert len(site.said) <= turns + 2
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@in_virtual_time
async def test_what_a_former_agent_left_of_pods_and_rules_that_are_gone_leaves_the_kernel_with_the_first_turn(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    names = (*WHOLE_MAPS, MapName.AGENT_BEAT, MapName.LIMITS, MapName.RULES, MapName.SELECTED)
    gone = layout.selected_key(IPv4Address("10.0.0.77"), 0)
    maps = {name: FakeMap() for name in names}
    maps[MapName.SELECTED].content[gone] = layout.selected_value(5, SelectedState.STEER)
    maps[MapName.RULES].content[layout.rule_key(5, IPv4Network("9.9.9.0/24"))] = layout.rule_value(FLOATING_IP)
    maps[MapName.LIMITS].content[layout.limits_key(5)] = layout.Limits(udp_s=7).packed()
    site.datapath.pool = WorkerPool(maps)  # type: ignore[arg-type,assignment]
    for name in names:
        site.datapath.pool.adopt(name)
    site.know(*OBJECTS)
    async with serving(site.datapath.pool):
        await site.turn.take()
        await settle(site.datapath.pool)
    assert gone not in maps[MapName.SELECTED].content
    assert layout.selected_key(IPv4Address("10.0.0.1"), 0) in maps[MapName.SELECTED].content
    assert 5 not in map(layout.rule_set_of, maps[MapName.RULES].content)
    assert list(maps[MapName.LIMITS].content) == [layout.limits_key(0)]


@in_virtual_time
async def test_i2_a_wish_that_was_lost_is_found_within_half_a_minute_put_right_and_counted(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.know(*OBJECTS)
    running = asyncio.create_task(site.turn.run())
    await asyncio.sleep(1)
    pool = site.datapath.pool
    right = dict(pool.wanted(MapName.SELECTED))
    assert right
    pool.change(MapName.SELECTED, dict.fromkeys(right))
    for _ in range(31):
        site.dirty.set()
        await asyncio.sleep(1)
    assert pool.wanted(MapName.SELECTED) == right
    assert pool.counters.reviewed == 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@in_virtual_time
async def test_i2_after_an_error_in_the_middle_of_a_turn_everything_is_looked_at_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the turn had worked out is lost."""
    site, late = Site(tmp_path), layout.selected_key(IPv4Address("10.0.0.2"), 0)
    site.know(*OBJECTS)
    await site.turn.take()

    def fail(name: str, rows: object) -> None:
        raise RuntimeError("a fault of ours")

    site.know(pod("late", "10.0.0.2"))
    with monkeypatch.context() as patched:
        patched.setattr(site.datapath.pool, "change", fail)
        with pytest.raises(RuntimeError):
            await site.turn.run()
    assert late not in site.datapath.content[MapName.SELECTED]
    running = asyncio.create_task(site.turn.run())
    await asyncio.sleep(0.1)
    assert late in site.datapath.content[MapName.SELECTED]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@in_virtual_time
async def test_the_configured_role_counts_and_else_the_node_objects(tmp_path: Path) -> None:
    site = Site(tmp_path)
    assert site.turn.role is NodeRole.WORKER


@in_virtual_time
async def test_k1_a_lease_that_outlived_the_listing_of_its_address_is_neither_claimed_nor_served(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    site.know(*OBJECTS)
    site.hold("worker1")
    for _ in range(2):
        await site.turn.take()
    assert [claim.floating_ip for claim in site.said[-1].claims] == [str(FLOATING_IP)]
    site.held[FLOATING_IP] = Token(3, 1, 1)
    site.cluster.publish_location = lambda location: False  # type: ignore[method-assign]
    await site.turn.take()
    assert site.said[-1].claims == ()
    assert [(uplink.floating_ip, uplink.ifindex) for uplink in site.said[-1].uplinks] == [(str(FLOATING_IP), 0)]
    site.held.clear()
    await site.turn.take()
    assert [claim.floating_ip for claim in site.said[-1].claims] == [str(FLOATING_IP)], "anew"


@in_virtual_time
async def test_h1_the_members_hear_which_floating_ip_finds_no_route_here_and_when_it_does_again(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.know(*OBJECTS)

    async def told() -> tuple[IPv4Address, ...]:
        await site.turn.take()
        return site.cluster.members()["worker1"][1].unrouted

    repair = asyncio.create_task(site.upkeep.repair())
    await asyncio.sleep(3)
    assert await told() == ()
    site.datapath.dropped = {("no_route", str(FLOATING_IP)): 5}
    await asyncio.sleep(3)
    assert await told() == (FLOATING_IP,)
    assert any(line.startswith(f"{FLOATING_IP}: ") for line in site.upkeep.troubles())
    await asyncio.sleep(61)
    assert await told() == ()
    assert not any(line.startswith(f"{FLOATING_IP}: ") for line in site.upkeep.troubles())
    repair.cancel()


@pytest.mark.parametrize(("reason", "name"), [("quota", "over_quota"), ("ports_exhausted", "out_of_ports")])
@in_virtual_time
async def test_b4_q4_the_members_hear_for_what_new_flows_are_dropped_here_and_for_a_minute(
    tmp_path: Path, reason: str, name: str
) -> None:
    site = Site(tmp_path)
    site.know(*OBJECTS)

    async def told() -> dict[str, tuple[IPv4Address, ...]]:
        await site.turn.take()
        metadata = site.cluster.members()["worker1"][1]
        found = {key: getattr(metadata, key) for key in ("unrouted", "over_quota", "out_of_ports")}
        return {key: floating_ips for key, floating_ips in found.items() if floating_ips}

    repair = asyncio.create_task(site.upkeep.repair())
    await asyncio.sleep(3)
    assert await told() == {}
    site.datapath.dropped = {(reason, str(FLOATING_IP)): 5}
    await asyncio.sleep(3)
    assert await told() == {name: (FLOATING_IP,)}
    site.datapath.dropped = {(reason, str(FLOATING_IP)): 6}
    await asyncio.sleep(58)
    assert await told() == {name: (FLOATING_IP,)}, "it goes on"
    await asyncio.sleep(5)
    assert await told() == {}
    repair.cancel()
