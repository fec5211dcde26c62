"""An agent's turn with everything that it asks; no peer, no keeper, no devices.

Maps are dicts of this process and netfilter stands still, unless real ones are handed in. What gossip knows it was told
in datagrams, and what the source knows came in as objects, as in a whole agent.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

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
from service.datapath.block_maps import BlockMaps
from service.datapath.bpf_map import BpfMap, MapInfo
from service.datapath.desired import LocalUplink
from service.datapath.flow_table import FlowTable
from service.datapath.layout import MAP_SHAPES, MapName
from service.datapath.node_datapath import NodeDatapath
from service.datapath.reconciler import Reconciler
from service.datapath.upkeep import Upkeep
from service.datapath.worker_pool import WorkerPool
from service.electorate.follower import ElectorateFollower
from service.gateway.row import MemberMetadata, encode_metadata
from service.gossip.message import Delta, Record, encode_message, encode_packet
from service.host.clock import boot_ns
from service.model.assignment import Location
from service.model.gateway_node import NodeRole, Segment
from service.model.keeper_message import Heartbeat
from service.model.machine import Address, Source
from service.model.objects import Change, Synced
from service.network.announcer import FrameSender
from service.network.arp_listener import ArpListener
from service.network.destinations import Destinations
from service.network.netlink import Pause
from service.network.nftables import Nftables, NftConfig
from service.network.unclassified import Named
from service.settings import Settings
from service.sources.intake import Intake
from service.wire.cluster_view import ClusterView
from service.wire.keeper_link import KeeperLink

NODE = "node-0000"
SUBNET = IPv4Network("172.16.0.0/16")
UPLINK = LocalUplink(4242, "uplink", b"\2\0\0\0\0\0", IPv4Interface("172.16.0.1/16"), True)
_ROOMS = {
    MapName.SELECTED: 16_384,
    MapName.RULES: 262_144,
    MapName.CLUSTER: 16_384,
    MapName.MEMBERS: 16_384,
    MapName.TUNNEL_MEMBERS: 16_384,
}
_ROOM = 4096
_RECORDS = 4
"""In one datagram of gossip."""


class _MemoryMap(BpfMap):
    """A map of this process, with the room of the real one."""

    def __init__(self, name: str) -> None:
        self._rows: dict[bytes, bytes] = {}
        self.info = MapInfo(1, 0, 0, _ROOMS.get(name, _ROOM), 0, name)

    def lookup(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def update(self, key: bytes, value: bytes, *, flags: int = 0) -> None:
        self._rows[key] = value

    def update_many(self, items: Sequence[tuple[bytes, bytes]]) -> int:
        done = 0
        for key, value in items:
            if key not in self._rows and len(self._rows) >= self.info.max_entries:
                break
            self._rows[key] = value
            done += 1
        return done

    def delete(self, key: bytes) -> bool:
        return self._rows.pop(key, None) is not None

    def keys(self, *, after: bytes | None = None, count: int | None = None) -> list[bytes]:
        return list(self._rows)[:count]

    def items(self) -> dict[bytes, bytes]:
        return dict(self._rows)


class _StillNetfilter(Nftables):
    """Does what it is asked in no time."""

    async def present(self) -> bool:
        """Of `Nftables`."""
        return True

    async def apply(self, config: NftConfig) -> None:
        """Of `Nftables`."""

    async def update_sets(self, config: NftConfig) -> None:
        """Of `Nftables`."""

    async def replace_steer(self, wanted: Destinations, changed: Iterable[IPv4Address] | None = None) -> None:
        """Of `Nftables`."""

    async def replace_named(self, wanted: Named) -> None:
        """Of `Nftables`."""


class _StillDatapath(NodeDatapath):
    """Made, and never entered: nothing is attached, and every pod is found behind a device of its own at once."""

    def __init__(self, settings: Settings, maps: Mapping[str, BpfMap], nftables: Nftables) -> None:
        super().__init__(settings)
        driven = (
            MapName.LIMITS,
            MapName.SELECTED,
            MapName.RULES,
            MapName.CLUSTER,
            MapName.WAYS,
            MapName.AGENT_BEAT,
            MapName.FLOATING_IPS,
            MapName.UPLINK_ADDRESSES,
            MapName.MEMBERS,
            MapName.TUNNEL_MEMBERS,
        )
        awaited = (MapName.SELECTED, MapName.RULES, MapName.FLOATING_IPS)
        self.pool = WorkerPool({name: maps[name] for name in driven}, awaited=awaited)
        for name in driven:
            # As a node does before it begins: an array of the kernel's has its rows from the first.
            self.pool.adopt(name)
        self.blocks = BlockMaps(maps, settings.node, clock=boot_ns)
        self.flows = FlowTable(maps, clock=boot_ns, monotonic=time.monotonic_ns)
        self.nftables = nftables

    @property
    def uplinks(self) -> tuple[LocalUplink, ...]:
        return (UPLINK,)

    async def attach_pod_devices(self, occupied: Collection[int] = ()) -> None:
        """There is none."""

    async def pod_devices(self, pod_ips: Iterable[IPv4Address], pause: Pause) -> AsyncGenerator[dict[IPv4Address, int]]:
        """All in the first answer, as a node whose pods have a route each."""
        yield {pod_ip: device_of(pod_ip) for pod_ip in pod_ips}


class _StillKeeper(KeeperLink):
    """Compares what it is told with what it was told before, and sends nothing."""

    _said: Heartbeat | None = None

    def say(self, heartbeat: Heartbeat) -> None:
        if heartbeat != self._said:
            self._said = heartbeat


class _DeafListener(ArpListener):
    def listen(self, interfaces: Iterable[tuple[str, int]]) -> None:
        list(interfaces)


class _SilentSender(FrameSender):
    def send(self, interface: str | int, frame: bytes) -> None:
        """Nowhere."""

    def close(self) -> None:
        """Nothing is open."""


class DrivenAgent:
    """What an agent is made of, as far as its turn goes. `turn.take()` is what is measured."""

    def __init__(
        self, folder: Path, *, maps: Mapping[str, BpfMap] | None = None, nftables: Nftables | None = None
    ) -> None:
        """`maps`: each of MAP_SHAPES, of the kernel. `nftables`: of the network namespace that the loop runs in."""
        settings = self._settings = Settings(
            node=NODE,
            bind_address=str(UPLINK.address.ip),
            keyring=("11" * 32,),
            source=f"manifests:{folder}",
            state_dir=str(folder / "state"),
            run_dir=str(folder / "run"),
        )
        self.dirty = asyncio.Event()
        self.intake = Intake(settings.datapath)
        self.reconciler = Reconciler(settings, self.intake.index)
        self.reconciler.learn_uplinks((UPLINK,))
        self.reconciler.learn_steering_device(9)
        present: Mapping[str, BpfMap] = maps or {name: _MemoryMap(name) for name in MAP_SHAPES}
        self.datapath = _StillDatapath(settings, present, nftables or _StillNetfilter())
        self.netfilter = NetfilterDifference(self.datapath, self.reconciler)
        metadata = MemberMetadata(NodeRole.WORKER, False, True, (), "1", 1)
        self.cluster = ClusterView(settings, metadata, clock=boot_ns, changed=self.dirty.set)
        self.upkeep = Upkeep(
            self.datapath,
            self.reconciler,
            clock=boot_ns,
            changed=self.dirty.set,
            uplinks_changed=self.dirty.set,
            held=lambda: (),
        )
        self._make_turn(folder)

    def _make_turn(self, folder: Path) -> None:
        settings, cluster, reconciler = self._settings, self.cluster, self.reconciler
        recorder = AgentRecorder(Outbox(folder / "outbox", Origin(NODE, "b"), clock=lambda: (1, 1)), node=NODE)
        segment_watch = SegmentWatch(
            settings,
            reconciler,
            held=tuple,
            gateways=tuple,
            is_answering=lambda name: True,
            sender=_SilentSender(),
            clock=boot_ns,
            changed=self.dirty.set,
        )
        segment_watch._listener = _DeafListener(lambda ifname, packet: None)
        self.turn = Turn(
            settings,
            clock=boot_ns,
            intake=self.intake,
            reconciler=reconciler,
            datapath=self.datapath,
            upkeep=self.upkeep,
            cluster=cluster,
            keeper=_StillKeeper(folder, clock=boot_ns, on_report=lambda report: None),
            electorate=ElectorateFollower(settings, changed=lambda record: None),
            neighbours=self._neighbours(),
            blocks=self._blocks(),
            segment_watch=segment_watch,
            transports=self._transports(),
            conflicts=Conflicts(
                reconciler,
                cluster,
                recorder,
                segment_watch,
                clock=boot_ns,
                wall_clock=time.time_ns,
                changed=self.dirty.set,
            ),
            netfilter=self.netfilter,
            cni=CniInPlace(is_tried=False),
            held=dict,
            dirty=self.dirty,
        )

    def _neighbours(self) -> Neighbours:
        return Neighbours(
            self._settings,
            self.cluster,
            self.reconciler,
            start_id=7,
            clock=boot_ns,
            changed=self.dirty.set,
            others=lambda source, payload: False,
        )

    def _blocks(self) -> PortBlocks:
        blocks = PortBlocks(
            self._settings,
            self.cluster,
            self.reconciler,
            start_id=7,
            clock=boot_ns,
            send=lambda to, payload: None,
            changed=self.dirty.set,
        )
        blocks.connect(self.datapath.blocks, self.datapath.flows)
        return blocks

    def _transports(self) -> TransportWatch:
        return TransportWatch(
            self._settings,
            self.reconciler,
            start_id=7,
            clock=boot_ns,
            answering=self.cluster.answering,
            held=dict,
            heard=lambda location: None,
            changed=self.dirty.set,
            sender=_SilentSender(),
        )

    def meet(self, count: int) -> None:
        """So many members there are by gossip, this node among them."""
        for start in range(1, count, _RECORDS):
            self.hear([_record(number, 1) for number in range(start, min(start + _RECORDS, count))])

    def change_member(self, number: int, incarnation: int) -> None:
        """One of them says something else of itself."""
        self.hear([_record(number, incarnation, own=IPv4Address(int(SUBNET[60_000]) + incarnation))])

    def hear_location(self, location: Location) -> None:
        """A holder says that an address is with it now."""
        self.cluster.publish_location(location)
        self.reconciler.learn_location(location)

    def hear(self, records: Sequence[Record]) -> None:
        """One datagram of gossip."""
        packet = encode_packet([encode_message(Delta(tuple(records), ()))])
        self.cluster.pump.on_datagram(Source(Address("172.16.0.2", 9640), _name(1), 1), packet)

    def take(self, changes: Iterable[Change]) -> None:
        """One batch of a source's."""
        self.intake.take(tuple(changes))
        self.upkeep.is_synced = self.intake.is_synced
        self.reconciler.learn_ranges(self.intake.inventory.ranges)

    def learn_devices(self) -> None:
        """Every local pod is behind a device of its own."""
        pods = self.reconciler.local_pods()
        self.reconciler.learn_devices({pod_ip: device_of(pod_ip) for pod_ip in pods})
        self.upkeep.has_looked = True

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Maps are written meanwhile."""
        self.take((Synced(),))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.datapath.pool.run())
            try:
                yield
            finally:
                task.cancel()

    @property
    def are_maps_settled(self) -> bool:
        """All that was wished for is written."""
        return all(self.datapath.pool.is_settled(name) for name in _DRIVEN)

    async def settle(self) -> tuple[int, int]:
        """Take turns until nothing more is to be done; how long they took together, in ns, and how many they were."""
        pool, spent_ns, turns = self.datapath.pool, 0, 0
        while True:
            written = pool.counters.written + pool.counters.deleted - turns
            before = time.perf_counter_ns()
            await self.turn.take()
            self.reconciler.steering.cleared(clearings := self.reconciler.to_clear(pool))
            spent_ns += time.perf_counter_ns() - before
            turns += 1
            while not self.are_maps_settled:  # noqa: ASYNC110 - threads write
                await asyncio.sleep(0)
            # The beat is a row of each turn.
            if not clearings and pool.counters.written + pool.counters.deleted - turns <= written:
                return spent_ns, turns


_DRIVEN = frozenset(
    (MapName.LIMITS, MapName.SELECTED, MapName.RULES, MapName.CLUSTER, MapName.WAYS, MapName.FLOATING_IPS)
)


def device_of(pod_ip: IPv4Address) -> int:
    """Interface index of the device that a local pod is behind."""
    return 10 + int(pod_ip) % 65_536


def _name(number: int) -> str:
    return f"node-{number:04}"


def _record(number: int, incarnation: int, own: IPv4Address | None = None) -> Record:
    mac = b"\2\0" + number.to_bytes(4, "big")
    address = IPv4Address(int(SUBNET[1]) + number)
    segment = Segment(SUBNET, address, mac, "eth0")
    owned = (own,) if own is not None else ()
    metadata = MemberMetadata(NodeRole.WORKER, True, True, (segment,), "1", number, owned)
    return Record(_name(number), str(address), 9640, incarnation, 0, 0, encode_metadata(metadata))
