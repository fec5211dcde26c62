"""Leader, pod's node and holders over sockets on loopback: a node has ports where it has pods, whoever holds."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from service.agent.neighbours import Neighbours
from service.agent.port_blocks import PortBlocks
from service.audit.outbox import Origin, Outbox
from service.audit.port_run import PortRun
from service.audit.recorder import LeaderRecorder
from service.controller.knowledge import Knowledge
from service.controller.port_blocks import LeaderPortBlocks
from service.datapath import layout
from service.datapath.flow_scan import FlowScan
from service.datapath.layout import MapName
from service.datapath.reconciler import Reconciler
from service.datapath.steering import NOTHING
from service.host.clock import boot_ns
from service.model.assignment import Assignment, Location
from service.model.drop import DropReason
from service.model.lease import HeldBy, Stamp, Token
from service.model.machine import Address
from service.model.objects import Delete, Upsert
from service.policy.index import PolicyIndex
from service.port_block.block import BLOCK_PORTS, BLOCKS, FIRST_PORT, base_blocks
from service.settings import PortSettings, Settings
from tests.agent.site import FLOATING_IP, StandInCluster, free_port, node, settings_of
from tests.datapath.stand_in import UPLINK, StandInDatapath
from tests.policy.objects import gateway, namespace, pod, policy
from tests.sources.kubernetes.fake_api_server import until

NODES = (node("worker1", 21), node("worker2", 22), node("worker3", 23))
HOSTS = {"worker1": "127.0.0.1", "worker2": "127.0.0.2", "worker3": "127.0.0.3", "controller1": "127.0.0.4"}
OBJECTS = (gateway(str(FLOATING_IP)), namespace(), pod("web", "10.0.0.1", node="worker1"), policy())
BASE = base_blocks(len(NODES))


class Cluster(StandInCluster):
    def leader(self) -> tuple[str, int] | None:
        return "controller1", 7


class Site:
    """The address is held by worker2; worker3 stands by. The only pod is on worker1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.recorder = LeaderRecorder(
            Outbox(folder / "outbox", Origin("controller1", "b"), clock=lambda: (1, 1)),
            node="controller1",
            lease_ns=300_000_000,
            clock=boot_ns,
        )
        self.moved: list[tuple[object, ...]] = []
        """As the record has it: ports, owner, who had them."""
        self.recorder.ports_moved = self._note  # type: ignore[method-assign]
        self.tables: list[tuple[PortRun, ...]] = []
        self.recorder.ports_table = lambda ip, runs, *, term: self.tables.append(tuple(runs))  # type: ignore
        self.holder, self.successor = "worker2", "worker3"
        self.index = PolicyIndex(pod_cidrs_known=True)
        self.index.apply([Upsert(item) for item in OBJECTS])
        self.nodes = {name: Node(self, name) for name in ("worker1", "worker2", "worker3")}
        self.tokens = 0
        self.fail_over(self.holder, self.successor)

    def _note(self, floating_ip: IPv4Address, runs: Iterable[PortRun], *, former: str, reason: str, term: int) -> None:
        self.moved.append((floating_ip, *((run.first, run.last, run.node) for run in runs), former, reason, term))

    def settings(self, name: str) -> Settings:
        ports = msgspec.structs.replace(PortSettings(), state=self.port, leader=self.port)
        return msgspec.structs.replace(settings_of(self.folder, name), bind_address=HOSTS[name], ports=ports)

    def cluster(self, name: str) -> Cluster:
        found = Cluster(self.settings(name), *NODES)
        found.addresses = {other: Address(host, self.port) for other, host in HOSTS.items()}
        return found

    def table(self) -> dict[IPv4Address, Assignment]:
        return {FLOATING_IP: Assignment(FLOATING_IP, self.holder, self.successor, Stamp(7, 1))}

    def fail_over(self, to: str, successor: str) -> None:
        """The fence moves first; then everybody hears of it."""
        self.tokens += 1
        self.holder, self.successor = to, successor
        token = Token(7, 1, self.tokens)
        for name, one in self.nodes.items():
            deadline_ns = boot_ns() + 600 * 10**9 if name == to else 0
            one.maps[MapName.LEASE_DEADLINES].update(
                FLOATING_IP.packed, layout.lease_value(deadline_ns, token.packed())
            )
        for one in self.nodes.values():
            one.reconciler.learn_members(NODES, self.table())
            one.reconciler.learn_location(Location(FLOATING_IP, to, token))
            one.turn()

    def move(self, to: str) -> None:
        """Another takes the address over, and says so; nobody has heard of a new table."""
        self.tokens += 1
        token = Token(7, 1, self.tokens)
        for name, one in self.nodes.items():
            deadline_ns = boot_ns() + 600 * 10**9 if name == to else 0
            one.maps[MapName.LEASE_DEADLINES].update(
                FLOATING_IP.packed, layout.lease_value(deadline_ns, token.packed())
            )
            one.reconciler.learn_location(Location(FLOATING_IP, to, token))
            one.turn()

    @asynccontextmanager
    async def leading(self, term: int = 7, *, lasts_ns: int = 600 * 10**9) -> AsyncIterator[LeaderPortBlocks]:
        """A controller leads meanwhile, by a lease that lasts so long."""
        held = {FLOATING_IP: HeldBy(self.holder, Token(7, 1, self.tokens))}
        knowledge = SimpleNamespace(
            has_caught_up=lambda: True, holders=lambda: held, intake=SimpleNamespace(index=self.index)
        )
        cluster = self.cluster("controller1")
        cluster.table = self.table()
        leader = LeaderPortBlocks(
            self.settings("controller1"),
            cluster,
            cast(Knowledge, knowledge),
            clock=boot_ns,
            recorder=self.recorder,
        )
        async with leader.socket, asyncio.TaskGroup() as group:
            task = group.create_task(leader.pump.run())
            leader.lead(term, boot_ns() + lasts_ns)
            yield leader
            task.cancel()


class Node:
    def __init__(self, site: Site, name: str) -> None:
        settings, cluster = site.settings(name), site.cluster(name)
        own = next(one for one in NODES if one.name == name)
        self.name = name
        self.changed: list[str] = []
        self.refused = 0
        self.datapath = StandInDatapath(settings)
        self.maps = self.datapath.maps
        self.reconciler = Reconciler(settings, site.index)
        self.reconciler.learn_uplinks((replace(UPLINK, mac=own.segments[0].mac),))
        self.neighbours = Neighbours(
            settings,
            cluster,
            self.reconciler,
            start_id=sum(map(ord, name)),
            clock=boot_ns,
            changed=lambda: None,
            others=lambda source, payload: self.blocks.take(source, payload),
        )
        self.blocks = PortBlocks(
            settings,
            cluster,
            self.reconciler,
            start_id=sum(map(ord, name)),
            clock=boot_ns,
            send=self.neighbours.socket.send,
            changed=lambda: self.changed.append(name),
        )
        self.blocks.connect(self.datapath.blocks, self.datapath.flows)

    def turn(self) -> None:
        self.blocks.update()
        tenure = self.datapath.blocks.tenure(FLOATING_IP)
        self.blocks.observe({FLOATING_IP: tenure} if tenure is not None else {})

    def refuse(self, flows: int, reason: DropReason = DropReason.PORTS_EXHAUSTED) -> None:
        """So many more new flows find no port, as a program counts it."""
        self.refused += flows
        key = struct.pack("=4sI", FLOATING_IP.packed, reason)
        self.maps[MapName.DROPS].update(key, struct.pack("=QQ", self.refused, 60 * self.refused))

    def usable(self) -> int:
        """Blocks that new flows of this node may use."""
        return sum(byte.bit_count() for byte in self.maps[MapName.OWN_BLOCKS].lookup(FLOATING_IP.packed) or b"")

    def known(self) -> int:
        """Blocks that are somebody's in this kernel."""
        return len(self.maps[MapName.BLOCKS].rows)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    async with AsyncExitStack() as stack:
        for one in site.nodes.values():
            await stack.enter_async_context(one.neighbours.socket)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one.blocks.run()) for one in site.nodes.values()]
            for one in site.nodes.values():
                one.turn()
            yield site
            for task in tasks:
                task.cancel()


async def holds(question: Callable[[], bool]) -> None:
    await until(question)


async def test_q2_a_node_with_a_selected_pod_has_its_base_once_holder_and_successor_know(site: Site) -> None:
    worker1, worker2, worker3 = site.nodes.values()
    async with site.leading():
        await holds(lambda: worker1.usable() == BASE)
        assert (worker2.known(), worker3.known()) == (BASE, BASE)
        assert (worker2.usable(), worker1.known()) == (0, 0)
        (moved,) = site.moved
        last = FIRST_PORT + BASE * BLOCK_PORTS - 1
        assert moved == (FLOATING_IP, (FIRST_PORT, last, "worker1"), "", "given", 7)
        assert site.tables == [()], "first it has read that nobody has any"
    assert worker1.usable() == BASE, "without a leader everything goes on (Q6)"
    async with site.leading(8) as leader:
        await asyncio.sleep(1.5)
        row = {"isComplete": True, "blocks": {"worker1": BASE}, "unowned": BLOCKS - BASE, "lacking": {}}
        assert leader.status() == {str(FLOATING_IP): row}
        assert leader.lacking() == {}
    assert len(site.moved) == 1, "what is read is no news"
    assert site.tables[1:] == [(PortRun(FIRST_PORT, last, Stamp(7, 1), "worker1"),)], "it is told once, as a table"


async def test_q2_a_node_whose_flows_are_refused_gets_more_though_nothing_grows_any_more(site: Site) -> None:
    worker1 = site.nodes["worker1"]
    async with site.leading():
        await holds(lambda: worker1.usable() == BASE)

        def refuse() -> bool:
            # Again and again: what was refused once is no demand for ever.
            worker1.refuse(4_000)
            return worker1.usable() > BASE

        await holds(refuse)


async def test_a1_what_is_an_address_of_a_nodes_own_for_a_while_keeps_its_ports(site: Site) -> None:
    worker1 = site.nodes["worker1"]
    async with site.leading():
        await holds(lambda: worker1.usable() == BASE)
        worker1.reconciler.learn_addresses(frozenset({FLOATING_IP}))
        assert worker1.reconciler.floating_ips() == ()
        worker1.turn()
        assert worker1.usable() == BASE


async def test_q2_a_node_that_alone_has_seen_an_address_unlisted_has_its_ports_again_within_seconds(site: Site) -> None:
    """The leader has not, and asks each 50 s only whether anything has changed."""
    worker1, listed = site.nodes["worker1"], gateway(str(FLOATING_IP))
    async with site.leading():
        await holds(lambda: worker1.usable() == BASE)
        worker1.reconciler.learn_members(NODES, {})
        site.index.apply([Upsert(gateway("192.168.1.199"))])
        worker1.turn()
        assert worker1.usable() == 0
        site.index.apply([Upsert(listed)])
        worker1.reconciler.learn_members(NODES, site.table())
        worker1.turn()

        def refuse() -> bool:
            worker1.refuse(10, DropReason.NO_PORTS)
            return worker1.usable() >= BASE

        await holds(refuse)


async def test_q2_a_node_whose_pods_use_an_address_no_more_gives_its_blocks_back_and_asks_for_none(site: Site) -> None:
    """Seen: what its last flows wanted was asked for, given and called back, five times a second."""
    worker1 = site.nodes["worker1"]

    def is_given_back() -> bool:
        worker1.refuse(4_000)
        return worker1.usable() == 0

    async with site.leading() as leader:
        await holds(lambda: worker1.usable() == BASE)
        site.index.apply([Delete(policy().key)])
        worker1.turn()
        leader.update()
        await holds(is_given_back)
        moves = len(site.moved)
        for _ in range(12):
            await asyncio.sleep(0.1)
            worker1.refuse(4_000)
        assert worker1.usable() == 0
        assert len(site.moved) == moves


async def test_flows_are_looked_at_seldom_while_none_comes_or_goes_and_soon_when_one_has(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look goes through all the room that there is for flows, however many there are."""
    worker1 = site.nodes["worker1"]
    flows, looks = worker1.datapath.flows, list[float]()
    loop, sweep = asyncio.get_running_loop(), worker1.datapath.flows.sweep

    async def noted(*args: Any) -> FlowScan:
        looks.append(loop.time())
        return await sweep(*args)

    monkeypatch.setattr(flows, "sweep", noted)
    await holds(lambda: len(looks) >= 2)
    looks.clear()
    await holds(lambda: len(looks) == 2)
    assert looks[1] - looks[0] > 1.9
    for number in range(3):
        came = loop.time()
        worker1.maps[MapName.POD_LOADS].update(bytes(8), struct.pack("=QQ", number + 1, 0))
        looks.clear()
        await holds(lambda: bool(looks))
        assert looks[0] - came < 1.0, "a flow was made"
    worker1.refuse(1)
    came = loop.time()
    looks.clear()
    await holds(lambda: bool(looks))
    assert looks[0] - came < 1.0, "a flow found no port"


async def test_e2_a_pod_that_is_not_selected_any_more_is_forgotten_once_it_has_no_flow(site: Site) -> None:
    worker1 = site.nodes["worker1"]
    steering = worker1.reconciler.steering
    steering.adopt(IPv4Address("10.244.1.10"), NOTHING)
    await holds(lambda: steering.left() == ())
    assert worker1.changed, "its row is to go"


async def test_r1_a_successor_takes_over_without_a_leader_and_ports_go_on(site: Site) -> None:
    worker1, _, worker3 = site.nodes.values()
    async with site.leading():
        await holds(lambda: worker1.usable() == BASE and worker3.known() == BASE)
        await asyncio.sleep(0.3)  # It counts on the leader's word that it has every row (Q8).
    site.fail_over("worker3", "worker2")
    assert (worker1.usable(), worker3.known()) == (BASE, BASE), "at once"
    await asyncio.sleep(1)
    assert (worker1.usable(), worker3.known()) == (BASE, BASE)


async def test_r3_a_holder_that_never_stood_by_learns_from_the_owners(site: Site) -> None:
    worker1, worker2, worker3 = site.nodes.values()
    async with site.leading():
        await holds(lambda: worker1.usable() == BASE and worker3.known() == BASE)
    site.fail_over("worker1", "worker2")
    await holds(lambda: worker1.known() == BASE and worker1.usable() == BASE)
    trust = worker1.maps[MapName.TRUSTS].lookup(FLOATING_IP.packed)
    assert trust == Token(7, 1, site.tokens).packed().to_bytes(8, "little")
    assert worker2.usable() == worker3.usable() == 0


async def test_r3_a_holder_that_only_its_own_word_names_learns_from_the_owners(site: Site) -> None:
    """The leader's table is as before: nothing has changed but where the address is."""
    worker1, _, worker3 = site.nodes.values()
    async with site.leading():
        await holds(lambda: worker1.usable() == BASE and worker3.known() == BASE)
    site.move("worker1")
    await holds(lambda: worker1.known() == BASE and worker1.usable() == BASE)


@pytest.mark.parametrize("is_told", [False, True], ids=["its lease is over", "it is told so"])
async def test_q7_a_controller_that_leads_no_more_gives_nothing(site: Site, is_told: bool) -> None:
    async with site.leading(lasts_ns=600 * 10**9 if is_told else 0) as leader:
        if is_told:
            leader.end()
        await asyncio.sleep(1)
        assert site.nodes["worker1"].usable() == 0


async def test_q7_a_node_that_had_an_agent_before_it_was_rebooted_has_forgotten_what_it_had(tmp_path: Path) -> None:
    begun_ns = boot_ns()
    first, again = (Site(tmp_path).nodes["worker1"].maps[MapName.BLOCK_MEMORY].lookup(bytes(4)) for _ in range(2))
    assert first is not None
    assert again is not None
    assert int.from_bytes(first, "little", signed=True) < begun_ns
    assert int.from_bytes(again, "little", signed=True) >= begun_ns, "the kernel knows nothing, and the disk says why"


async def test_the_next_process_of_a_node_goes_on_with_what_the_kernel_remembers(site: Site) -> None:
    worker1 = site.nodes["worker1"]
    async with site.leading():
        await holds(lambda: worker1.usable() == BASE)
    again = PortBlocks(
        site.settings("worker1"),
        site.cluster("worker1"),
        worker1.reconciler,
        start_id=99,
        clock=boot_ns,
        send=lambda to, payload: None,
        changed=lambda: None,
    )
    again.connect(worker1.datapath.blocks, worker1.datapath.flows)
    assert worker1.usable() == BASE
