"""A whole agent on loopback, with a folder of manifests and a datapath that is not the kernel's."""

import asyncio
import errno
import os
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from service.agent.agent import Agent
from service.agent.drain_record import FILE_NAME
from service.agent.transport_watch import TransportWatch
from service.audit.outbox import read_outbox
from service.datapath import layout
from service.datapath.flow_row import FLOW, flow_key, parse_flow
from service.datapath.layout import MapName, WayKind
from service.host.clock import boot_ns
from service.host.loop_lag import NO_LAGS
from service.model.audit_record import AuditRecord, RecordKind
from service.model.keeper_message import AGENT_SOCKET, KEEPER_SOCKET, Heartbeat, HeldLease, KeeperMessage, LeaseReport
from service.network.arp import REPLY, ArpPacket
from service.settings import DatapathSettings, Settings
from service.web.order_client import AGENT_ORDERS, OrderClient
from service.web.verdict import troubles
from service.wire.envelope import Envelope, key_id
from service.wire.local_socket import LocalSocket
from tests.agent.site import FLOATING_IP, HOST, SECOND, settings_of, steered
from tests.datapath.stand_in import NOTHING_INHERITED, UPLINK, StandInDatapath
from tests.disk import HangingDisk, RefusingDisk
from tests.sources.kubernetes.fake_api_server import until

OBJECTS = """
apiVersion: networking.gke.io/v1alpha1
kind: AnthosNetworkGateway
metadata: {name: default, namespace: kube-system}
spec: {floatingIPs: [192.168.1.100]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: u-1}
spec: {nodeName: worker1}
status: {phase: Running, podIP: 10.0.0.1}
---
apiVersion: networking.gke.io/v1alpha1
kind: EgressNATPolicy
metadata: {name: egress}
spec:
  egress: [{namespaceSelector: {}, podSelector: {}}]
  destinationCIDRs: [8.8.8.0/24]
  egressSourceIP: 192.168.1.100
"""


class Keeper:
    """The keeper's end of the talk with the agent."""

    def __init__(self, settings: Settings) -> None:
        folder = Path(settings.run_dir)
        self.heard: list[Heartbeat] = []
        self.socket = LocalSocket(folder / KEEPER_SOCKET, folder / AGENT_SOCKET, on_messages=self._take)

    def _take(self, messages: list[KeeperMessage]) -> None:
        self.heard += [message for message in messages if isinstance(message, Heartbeat)]

    def report(self, *held: HeldLease, at_ns: int = 1, keys: tuple[str, ...] = ()) -> None:
        said = LeaseReport(
            held=held, keys=keys, elector=True, voting=True, scheduling="fifo", majority=True, at_ns=at_ns
        )
        self.socket.send(said)


@asynccontextmanager
async def running(settings: Settings, datapath: StandInDatapath) -> AsyncIterator[tuple[Agent, Keeper]]:
    async with AsyncExitStack() as stack:
        agent = Agent(settings, datapath)
        await agent.enter(stack)
        keeper = Keeper(settings)
        await stack.enter_async_context(keeper.socket)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(agent.serve())
            yield agent, keeper
            task.cancel()


async def test_the_records_of_agent_and_keeper_are_shown_to_whoever_asks(tmp_path: Path) -> None:
    settings, datapath = site_of(tmp_path)
    async with running(settings, datapath) as (agent, _):
        names = [folder.relative_to(settings.state_dir).name for folder in agent.record_folders()]
        assert names == ["outbox", "keeper-outbox"]


async def ask(settings: Settings, path: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{HOST}:{settings.ports.http}{path}") as found:
        return found.status, await found.json()


async def scrape(settings: Settings) -> str:
    url = f"http://{HOST}:{settings.ports.http}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as found:
        return await found.text()


def site_of(folder: Path) -> tuple[Settings, StandInDatapath]:
    settings = settings_of(folder)
    (folder / "manifests" / "objects.yaml").write_text(OBJECTS, encoding="utf-8")
    datapath = StandInDatapath(settings, UPLINK)
    datapath.dropped = {("no_gateway", "192.168.1.100"): 2, ("no_gateway", "192.168.1.101"): 3}
    return settings, datapath


def test_an_agent_is_made_without_starting_anything(tmp_path: Path) -> None:
    settings, datapath = site_of(tmp_path)
    before = set(tmp_path.rglob("*"))
    agent = Agent(settings, datapath)
    assert agent.not_ready_reasons() == [
        "objects have not been read yet",
        "the lease keeper of this node does not report",
    ]
    assert set(tmp_path.rglob("*")) == before


async def test_an_agent_reads_its_objects_and_says_what_it_lacks(tmp_path: Path) -> None:
    settings, datapath = site_of(tmp_path)
    async with running(settings, datapath) as (agent, keeper):
        await until(lambda: agent.not_ready_reasons() == ["the lease keeper of this node does not report"])
        status, found = await ask(settings, "/readyz")
        assert (status, found["reasons"]) == (503, ["the lease keeper of this node does not report"])
        keeper.report()
        await until(lambda: agent.not_ready_reasons() == [])
        _, document = await ask(settings, "/v1/status")
    assert (document["node"], document["keeper"]["alive"], document["drops"]["no_gateway"]) == ("worker1", True, 5)
    assert document["policies"]["egress"]["matchedPods"] == 1


async def test_an_agent_that_cannot_write_its_run_dir_says_so_while_it_waits_and_begins_when_it_can(
    tmp_path: Path,
) -> None:
    settings, datapath = site_of(tmp_path)
    datapath.failing["prepare"] = 1_000_000
    async with AsyncExitStack() as stack:
        beginning = asyncio.create_task(Agent(settings, datapath).enter(stack))
        await until(lambda: datapath.named("prepare"))
        await asyncio.sleep(0.05)
        _, document = await ask(settings, "/v1/status")
        assert troubles(document) == ["this process has not begun: prepare is refused"]
        assert not beginning.done()
        datapath.failing.clear()
        await beginning
        _, document = await ask(settings, "/v1/status")
        assert document["role"] == "worker"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES], ids=errno.errorcode.get)
async def test_an_agent_begins_on_disks_that_take_nothing_says_so_and_does_all_with_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    settings, datapath = site_of(tmp_path)
    disk = RefusingDisk(monkeypatch)
    disk.spoil(str(tmp_path), number)
    async with AsyncExitStack() as stack:
        agent = Agent(settings, datapath)
        await agent.enter(stack)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(agent.serve())
            await until(lambda: datapath.content)
            assert agent.status()["audit"]["healthy"] is False
            assert os.strerror(number) in agent.status()["audit"]["reason"]
            assert 'egressgw_audit_healthy{part="outbox"} 0.0' in await scrape(settings)
            assert any(f"{AGENT_SOCKET}: {os.strerror(number)}" in line for line in agent.status()["troubles"])
            disk.mend()
            async with Keeper(settings).socket as keeper:
                await until(lambda: keeper.send(LeaseReport((), True, True, "fifo")) or not agent.not_ready_reasons())
            await until(lambda: agent.status()["audit"]["healthy"] and not agent.status()["troubles"])
            task.cancel()


async def test_an_agent_whose_disk_does_not_answer_hears_its_keeper_and_answers_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, datapath = site_of(tmp_path)
    async with running(settings, datapath) as (agent, keeper):
        await agent._outbox.flush(5)
        disk = HangingDisk(monkeypatch)
        keeper.report(HeldLease(str(FLOATING_IP), 1, 1, 1, boot_ns() + 60 * SECOND))
        await until(lambda: disk.is_waited_for_by("outbox"))
        keeper.report()
        await until(lambda: agent.status()["held"] == [])
        assert (await ask(settings, "/v1/status"))[1]["audit"]["pending"] > 0
        disk.answer()
        assert await agent._outbox.flush(5)
    assert disk.held_up == []


async def test_former_kernel_settings_that_are_on_no_disk_are_a_trouble_of_the_agent(tmp_path: Path) -> None:
    settings, datapath = site_of(tmp_path)
    async with running(settings, datapath) as (agent, _):
        datapath._sysctl.trouble = "state_dir: former kernel settings cannot be noted"
        assert agent.status()["troubles"] == [datapath._sysctl.trouble]


async def test_what_is_wrong_in_the_keeper_is_in_the_agents_status_and_metrics_while_it_says_so(tmp_path: Path) -> None:
    settings, datapath = site_of(tmp_path)
    said = LeaseReport((), elector=True, voting=True, scheduling="fifo")
    wrong = msgspec.structs.replace(
        said,
        troubles=("state_dir: full",),
        errors={"elector": 2},
        refused={"unknown-key": 3},
        lags=(7, *NO_LAGS.counts[1:]),
    )
    async with running(settings, datapath) as (agent, keeper):
        keeper.socket.send(wrong)
        await until(lambda: agent.status()["troubles"] == ["keeper: state_dir: full"])
        metrics = await scrape(settings)
        keeper.socket.send(msgspec.structs.replace(said, lags=(7, 7)))
        await until(lambda: agent.status()["troubles"] == [])
        other_version = await scrape(settings)
    assert 'egressgw_keeper_task_errors_total{task="elector"} 2.0' in metrics
    assert 'egressgw_keeper_datagrams_refused_total{reason="unknown-key"} 3.0' in metrics
    assert 'egressgw_loop_timer_lag_seconds_count{process="keeper"} 7.0' in metrics
    assert 'egressgw_loop_timer_lag_seconds_count{process="agent"}' in other_version
    assert 'process="keeper"' not in other_version, "it counts by other bounds"


async def test_the_keeper_hears_which_uplink_an_address_has_and_that_objects_are_known(tmp_path: Path) -> None:
    settings, datapath = site_of(tmp_path)
    async with running(settings, datapath) as (_, keeper):
        await until(lambda: any(said.ready and said.uplinks for said in keeper.heard))
    told = next(said for said in keeper.heard if said.ready and said.uplinks)
    assert msgspec.structs.asdict(told.uplinks[0]) == {
        "floating_ip": str(FLOATING_IP),
        "ifname": "eth0",
        "ifindex": 2,
        "mac": UPLINK.mac.hex(),
        "carrier": True,
    }
    assert told.claims == (), "nobody leads, so nothing is assigned"


async def test_what_the_keeper_holds_is_written_told_and_recorded(tmp_path: Path) -> None:
    settings, datapath = site_of(tmp_path)
    async with running(settings, datapath) as (agent, keeper):
        lease = HeldLease(str(FLOATING_IP), 4, 1, 1, 1 << 62)
        await until(lambda: bool(keeper.heard))
        keeper.report()
        keeper.report(lease)
        await until(lambda: FLOATING_IP.packed in datapath.content.get(MapName.WAYS, {}))
        document = agent.status()
        await asyncio.sleep(0)
    assert document["held"] == [str(FLOATING_IP)]
    assert document["floatingIPs"][str(FLOATING_IP)]["token"] == "4.1.1"
    kinds = [one.kind for one in read_outbox(Path(settings.state_dir) / "outbox") if isinstance(one, AuditRecord)]
    assert RecordKind.ACQUIRED in kinds


async def test_a_selected_pod_gets_its_rows_and_its_pairs(tmp_path: Path) -> None:
    settings, datapath = site_of(tmp_path)
    async with running(settings, datapath):
        await until(lambda: bool(datapath.content.get(MapName.SELECTED)))
    assert datapath.named("set_netfilter") == [(("eth0",), {IPv4Address("10.0.0.1"): [IPv4Network("8.8.8.0/24")]})]


async def test_what_a_former_agent_steered_stays_until_objects_say_otherwise(tmp_path: Path) -> None:
    settings, datapath = site_of(tmp_path)
    (tmp_path / "manifests" / "objects.yaml").unlink()
    datapath.left = steered("10.0.0.7")
    async with AsyncExitStack() as stack:
        agent = Agent(settings, datapath)
        await agent.enter(stack)
        assert agent.status()["pods"] == {"10.0.0.7": "steering"}
        assert datapath.calls == [], "nothing is taken away before the objects are known"
    assert IPv4Address("10.0.0.7") in datapath.left.steered


async def test_netfilter_that_fails_is_tried_again_and_ends_nothing(tmp_path: Path) -> None:
    settings, datapath = site_of(tmp_path)
    datapath.failing["set_netfilter"] = 2
    async with running(settings, datapath):
        await until(lambda: bool(datapath.content.get(MapName.SELECTED)), timeout_s=3 * SECOND / SECOND)
    assert len(datapath.named("set_netfilter")) == 3


async def test_an_error_that_nobody_has_thought_of_ends_one_turn_of_one_task_and_is_shown(tmp_path: Path) -> None:
    settings, datapath = site_of(tmp_path)
    errors = [KeyError(7), ValueError("max() arg is an empty sequence")]

    async def pod_devices(pod_ips: object, pause: object) -> AsyncGenerator[dict[IPv4Address, int]]:
        if errors:
            raise errors.pop()
        yield {IPv4Address("10.0.0.1"): 7}

    datapath.pod_devices = pod_devices  # type: ignore[method-assign]
    async with running(settings, datapath) as (agent, _):
        await until(lambda: any("find pod devices failed" in line for line in agent.status()["troubles"]))
        await until(lambda: len(datapath.content.get(MapName.SELECTED, {})) == 2)
        metrics = await scrape(settings)
    assert 'egressgw_task_errors_total{task="find pod devices"} 2.0' in metrics
    assert "egressgw_electorate_trouble 0.0" in metrics


async def test_w11_a_pod_that_is_cut_off_for_want_of_our_program_at_its_device_is_a_trouble(
    tmp_path: Path,
) -> None:
    settings, datapath = site_of(tmp_path)
    settings = msgspec.structs.replace(settings, datapath=DatapathSettings(pod_cidrs=("10.0.0.0/16",)))
    datapath.devices, datapath.waiting = {IPv4Address("10.0.0.1"): 7}, {7}
    async with running(settings, datapath) as (agent, _):
        await until(
            lambda: any("10.0.0.1: our program cannot be attached" in one for one in agent.status()["troubles"])
        )


@pytest.mark.parametrize("purpose", ["gossip", "state"])
async def test_a_node_with_another_key_is_a_trouble_of_whoever_it_speaks_to(tmp_path: Path, purpose: str) -> None:
    settings, datapath = site_of(tmp_path)
    stranger = Envelope((b"\x22" * 32,), cluster=settings.cluster, node="worker2", start_id=9, purpose=purpose)
    port = settings.ports.gossip if purpose == "gossip" else settings.ports.state
    async with running(settings, datapath) as (agent, _):
        assert agent.status()["troubles"] == []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.sendto(stranger.seal(b"let me in"), (HOST, port))
        await until(lambda: agent.status()["troubles"])
        (trouble,) = agent.status()["troubles"]
        metrics = await scrape(settings)
    assert trouble.startswith(f"{purpose}: 1 datagrams refused as unknown-key")
    assert f'egressgw_datagrams_refused_total{{channel="{purpose}",reason="unknown-key"}} 1.0' in metrics


async def test_a_keeper_that_is_there_and_does_not_hear_its_agent_is_a_trouble(tmp_path: Path) -> None:
    settings, datapath = site_of(tmp_path)
    path = Path(settings.run_dir) / KEEPER_SOCKET
    async with running(settings, datapath) as (agent, _):
        assert agent.status()["troubles"] == []
        path.unlink()
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
        ):
            deaf.bind(str(path))
            other.setblocking(False)
            with suppress(BlockingIOError):
                for _ in range(1000):
                    other.sendto(b"{}", str(path))
            await until(lambda: agent.status()["troubles"])
        (trouble,) = agent.status()["troubles"]
    assert "does not reach keeper.sock" in trouble


async def test_a_node_with_more_uplinks_than_it_can_tell_lives_and_says_so(tmp_path: Path) -> None:
    """What is said of a node by gossip has 512 bytes; the agent used to fail at each turn."""
    settings, _ = site_of(tmp_path)
    many = (replace(UPLINK, ifindex=index, name=f"enp{index}s0f0np0") for index in range(2, 42))
    datapath = StandInDatapath(settings)
    datapath._uplinks = tuple(many)
    async with running(settings, datapath) as (agent, keeper):
        await until(lambda: keeper.heard)
        (trouble,) = agent.status()["troubles"]
    assert "segments of this node are not told to the others" in trouble


async def test_status_shows_which_keys_the_agent_and_its_keeper_have_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.wire.keyring.PERIOD_S", 0.05)
    settings, datapath = site_of(tmp_path)
    own = [one.hex() for one in map(key_id, settings.keys())]
    async with running(settings, datapath) as (agent, keeper):
        await until(lambda: agent.status()["keys"].get(settings.node, {}).get("agent"))
        _, told = await ask(settings, "/v1/status")
        assert told["keys"] == {settings.node: {"agent": own, "keeper": None}}
        keeper.report(keys=("0a0a0a0a", "0b0b0b0b"))
        await until(lambda: agent.status()["keys"][settings.node]["keeper"] == ("0a0a0a0a", "0b0b0b0b"))


async def test_o3_an_agent_takes_orders_and_knows_after_a_restart_that_its_node_is_drained(tmp_path: Path) -> None:
    settings, datapath = site_of(tmp_path)
    client = OrderClient(settings.run_dir)
    async with running(settings, datapath) as (agent, _):
        await until((Path(settings.run_dir) / AGENT_ORDERS).is_socket)
        await asyncio.to_thread(client.post, "/v1/drain", {"node": "worker1", "drained": True})
        assert agent.status()["nodes"]["worker1"]["drained"]
        await until((Path(settings.state_dir) / FILE_NAME).exists)
    async with running(*site_of(tmp_path)) as (agent, _):
        assert agent.status()["nodes"]["worker1"]["drained"]


async def test_n2_beside_a_cni_that_was_not_tested_with_no_policy_is_taken_and_status_says_so(tmp_path: Path) -> None:
    settings, datapath = site_of(tmp_path)
    datapath.device_names = frozenset(("eth0", "cilium_host"))
    async with running(settings, datapath) as (agent, keeper):
        keeper.report()
        await until(lambda: len(agent.not_ready_reasons()) == 1)
        document = agent.status()
    assert document["policies"] == {}
    assert [trouble for trouble in document["troubles"] if "the CNI here is Cilium" in trouble]
    assert not datapath.content.get(MapName.SELECTED)


async def test_b6_what_passed_is_in_the_metrics_by_policy(tmp_path: Path) -> None:
    settings, datapath = site_of(tmp_path)
    key = flow_key(IPv4Address("10.0.0.1").packed, IPv4Address("8.8.8.8").packed, 4000, 53, socket.IPPROTO_UDP)
    flow = replace(parse_flow(key, bytes(FLOW.size)), floating_ip=FLOATING_IP, nat_port=4000, out_packets=3)
    datapath.maps[MapName.FLOWS_DATAGRAM].update(key, replace(flow, last_ns=time.monotonic_ns(), life_s=60).value())
    async with running(settings, datapath):
        await until(lambda: bool(datapath.flows.traffic))
        metrics = await scrape(settings)
    sent = 'egressgw_policy_packets_total{direction="out",floating_ip="192.168.1.100",policy="egress"} 3.0'
    assert sent in metrics


async def test_r2_whoever_announces_an_address_is_asked_and_an_answer_moves_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, datapath = site_of(tmp_path)
    announced: list[tuple[IPv4Address, bytes]] = []
    monkeypatch.setattr(TransportWatch, "hear_announcement", lambda self, *said: announced.append(said))
    mac = bytes((2, 0, 0, 0, 0, 22))
    async with running(settings, datapath) as (agent, _):
        await until(lambda: agent.status()["policies"])
        agent._segment_watch.hear("eth0", ArpPacket(REPLY, mac, FLOATING_IP, mac, FLOATING_IP))
        agent._transports._learn_holder("worker2", FLOATING_IP, (2, 1, 1))
        assert agent._reconciler.holder_of(FLOATING_IP) == "worker2"
    assert announced == [(FLOATING_IP, mac)]


@pytest.mark.parametrize("transport", ["l2", "vxlan", "auto"])
def test_x2_a_node_takes_packets_out_of_the_tunnel_unless_everything_goes_over_the_segment(
    tmp_path: Path, transport: str
) -> None:
    settings, datapath = site_of(tmp_path)
    wanted = msgspec.structs.replace(settings.datapath, transport=transport)
    agent = Agent(msgspec.structs.replace(settings, datapath=wanted), datapath)
    assert [node.tunnels for node in agent._cluster.gateway_nodes()] == [transport != "l2"]


async def test_x1_transports_are_proven_and_those_that_a_former_agent_used_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, datapath = site_of(tmp_path)
    way = layout.way_value(7, WayKind.L2, 2, bytes(6), bytes(6))
    datapath.left = replace(NOTHING_INHERITED, ways={FLOATING_IP.packed: way})
    called: list[object] = []

    async def run(watch: TransportWatch) -> None:
        called.append("run")
        await asyncio.Event().wait()

    monkeypatch.setattr(TransportWatch, "run", run)
    monkeypatch.setattr(TransportWatch, "adopt", lambda self, floating_ips: called.append(floating_ips))
    monkeypatch.setattr(TransportWatch, "update", lambda self: called.append("update"))
    async with running(settings, datapath):
        await until(lambda: {"run", "update"} <= set(called))
    assert called[0] == (FLOATING_IP,)
