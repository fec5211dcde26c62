"""A node's datapath that remembers what it was told, for tests of those who drive one; no kernel is touched."""

import asyncio
import time
from collections.abc import AsyncGenerator, Collection, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from types import TracebackType
from typing import Self

from service.datapath.block_maps import BlockMaps
from service.datapath.bpf_map import BpfMap, MapInfo
from service.datapath.desired import LocalUplink, Rows
from service.datapath.flow_table import FlowTable
from service.datapath.inheritance import Inheritance
from service.datapath.layout import MAP_SHAPES
from service.datapath.node_datapath import NodeDatapath
from service.datapath.planter import Planter
from service.datapath.reconciler import Reconciler
from service.datapath.worker_pool import FULL, Wishes, WorkerPool
from service.host.clock import boot_ns
from service.model.errors import TransientError
from service.network import connection_life
from service.network.connection_life import ConnectionLives
from service.network.conntrack import Flow as Tracked
from service.network.conntrack import Networks
from service.network.destinations import Destinations
from service.network.link_monitor import LinkMonitor, NetworkChange
from service.network.netlink import Pause
from service.network.unclassified import Named
from service.settings import Settings

UPLINK = LocalUplink(2, "eth0", b"\2\0\0\0\0\1", IPv4Interface("192.168.1.21/24"), True)
NOTHING_INHERITED = Inheritance({}, {}, {}, ())


class StandInLinks(LinkMonitor):
    """Reports once for each time it is told to, then nothing."""

    def __init__(self) -> None:
        self.reports: asyncio.Queue[None] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[NetworkChange, ...]:
        await self.reports.get()
        return ()


class StandInMap(BpfMap):
    """A map of this process."""

    def __init__(self, rows: Rows | None = None) -> None:
        self.rows = rows if rows is not None else {}
        self.info = MapInfo(type=1, key_size=0, value_size=0, max_entries=1000, flags=0, name="stand_in")

    def lookup(self, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def update(self, key: bytes, value: bytes, *, flags: int = 0) -> None:
        self.rows[key] = value

    def delete(self, key: bytes) -> bool:
        return self.rows.pop(key, None) is not None

    def keys(self, *, after: bytes | None = None, count: int | None = None) -> list[bytes]:
        return list(self.rows)

    def items(self) -> dict[bytes, bytes]:
        return dict(self.rows)

    def take_all(self, count: int = 4096) -> Iterator[list[tuple[bytes, bytes]]]:
        taken = list(self.rows.items())
        self.rows.clear()
        yield taken

    def pieces(self, count: int = 4096) -> Iterator[list[tuple[bytes, bytes]]]:
        yield list(self.rows.items())


class StandInPool(WorkerPool):
    """Has at once what it is told, but for what there is no room for, and for maps that are `stuck`."""

    def __init__(self) -> None:
        super().__init__({}, workers=1)
        self.rows: dict[str, Rows] = {}
        self.wishes: dict[str, Rows] = {}
        self.rooms: dict[str, int] = {}
        self.stuck: set[str] = set()
        self.is_idle = False
        """Until somebody runs it, as a real one is; then nothing is written."""

    async def run(self) -> None:
        self.is_idle = False
        for name in self.wishes.keys() - self.stuck:
            self._settle(name)
        await super().run()

    def replace(self, name: str, content: Mapping[bytes, bytes]) -> None:
        self.wishes[name] = dict(content)
        if name not in self.stuck and not self.is_idle:
            self._settle(name)

    def change(self, name: str, rows: Wishes) -> None:
        wanted = {**self.wishes.get(name, {}), **rows}
        self.replace(name, {key: value for key, value in wanted.items() if value is not None})

    def drop_others(self, name: str) -> None:
        """It never has what it was not told."""

    def wanted(self, name: str) -> Rows:
        return self.wishes.get(name, {})

    def take_news(self, name: str) -> None:
        """Anything: rooms and rows are changed by hand."""

    def release(self, name: str) -> None:
        """What was wished for comes into the map after all."""
        self.stuck.discard(name)
        self._settle(name)

    def _settle(self, name: str) -> None:
        before, wanted = self.rows.get(name, {}), self.wishes.get(name, {})
        kept = {key: value for key, value in wanted.items() if key in before}
        new = [(key, value) for key, value in wanted.items() if key not in before]
        self.rows[name] = kept | dict(new[: max(0, self.room(name) - len(kept))])
        if self.rows[name] != before:
            self.written.set()

    def contains(self, name: str, rows: Mapping[bytes, bytes]) -> bool:
        return all(self.rows.get(name, {}).get(key) == value for key, value in rows.items())

    def has(self, name: str, key: bytes) -> bool:
        return key in self.rows.get(name, {})

    def is_settled(self, name: str) -> bool:
        return name not in self.stuck

    def waiting(self) -> dict[str, dict[bytes, str]]:
        lacking = {name: wanted.keys() - self.rows.get(name, {}).keys() for name, wanted in self.wishes.items()}
        return {name: dict.fromkeys(keys, FULL) for name, keys in lacking.items() if keys and name not in self.stuck}

    def fill(self) -> dict[str, tuple[int, int]]:
        return {name: (len(rows), self.room(name)) for name, rows in self.rows.items()}

    def room(self, name: str) -> int:
        return self.rooms.get(name, 1 << 16)


class StandInPlanter(Planter):
    """Hears nothing."""

    async def run(self) -> None:
        await asyncio.Event().wait()


def grant(known: Reconciler, maps: WorkerPool) -> None:
    """One turn's wish, wished for."""
    wish = known.wish(maps)
    for name, content in wish.whole.items():
        maps.replace(name, content)
    for name, rows in wish.changes.items():
        maps.change(name, rows)


class StandInDatapath(NodeDatapath):
    """`calls` lists what was asked for, in order; `failing` holds how often a call is refused before it succeeds."""

    pool: StandInPool

    def __init__(self, settings: Settings, uplink: LocalUplink = UPLINK) -> None:
        super().__init__(settings)
        self._uplinks = (uplink,)
        self._egw_ifindex = 9
        self.pool = StandInPool()
        self.maps = {name: StandInMap() for name in MAP_SHAPES}
        """Those that are driven without the pool."""
        self.blocks = BlockMaps(self.maps, settings.node, clock=boot_ns)
        self.flows = FlowTable(self.maps, clock=boot_ns, monotonic=time.monotonic_ns)
        self.nftables = self  # type: ignore[assignment]
        self.conntrack = self  # type: ignore[assignment]
        self.planter = StandInPlanter(self.conntrack)
        self.calls: list[tuple[object, ...]] = []
        self.kept: Mapping[IPv4Address, Networks] = {}
        """What the last `find` was to leave alone of each pod."""
        self.lives = connection_life.DEFAULT
        """For how long the last `set_netfilter` was to have connections tracked."""
        self.tracked: list[list[Tracked]] = []
        """What it finds, one time after the other; nothing in the end."""
        self.failing: dict[str, int] = {}
        self.devices: dict[IPv4Address, int] = {}
        self.waiting: set[int] = set()
        self.silent_looks = 0
        """How often a look at pods waits for one that does not answer."""
        """Devices that are not attached to."""
        self.next_uplinks: tuple[LocalUplink, ...] | None = None
        self.repairs: list[int] = []
        """Index of the steering device after each round that found damage."""
        self.links = StandInLinks()
        self.left = NOTHING_INHERITED
        """By a former agent."""
        self.dropped: dict[tuple[str, str], int] = {}
        self.changed_pods: list[list[IPv4Address] | None] = []
        """What each `replace_steer` had to look at; None: everything."""
        self.keeps_out_pods: list[bool] = []
        """At each `set_netfilter`."""
        self.named_networks: list[IPv4Network] = []
        """Where unclassified pods may not send."""

    async def prepare(self) -> None:
        if "prepare" in self.failing:
            self._call("prepare")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def inherited(self) -> Inheritance:
        return self.left

    def _call(self, name: str, *arguments: object) -> None:
        self.calls.append((name, *arguments))
        if self.failing.get(name, 0) > 0:
            self.failing[name] -= 1
            raise TransientError(f"{name} is refused")

    def named(self, name: str) -> list[tuple[object, ...]]:
        """The arguments of each call of this name, refused ones too."""
        return [call[1:] for call in self.calls if call[0] == name]

    async def refresh_uplinks(self) -> bool:
        self._call("refresh_uplinks")
        if self.next_uplinks is not None:
            self._uplinks, self.next_uplinks = self.next_uplinks, None
        self._call("attach_uplinks")
        return True

    @property
    def unattached(self) -> frozenset[int]:
        return frozenset(self.waiting)

    async def attach_pod_devices(self, occupied: Collection[int] = ()) -> None:
        self._call("attach_pod_devices", *sorted(occupied))

    async def pod_devices(self, pod_ips: Iterable[IPv4Address], pause: Pause) -> AsyncGenerator[dict[IPv4Address, int]]:
        wanted = tuple(pod_ips)
        self._call("pod_devices", *wanted)
        yield {pod_ip: device for pod_ip, device in self.devices.items() if pod_ip in wanted}
        for _ in range(self.silent_looks):
            await pause(0.02)
            self._call("look_again")
            yield {}

    def write(self, content: Mapping[str, Rows]) -> None:
        self._call("write")
        super().write(content)

    @property
    def content(self) -> dict[str, Rows]:
        """As last wished for."""
        return self.pool.wishes

    async def find(self, pods: Mapping[IPv4Address, Networks], keep: Networks) -> list[Tracked]:
        """Of `conntrack`."""
        self.kept = pods
        self._call("find", *pods)
        return self.tracked.pop(0) if self.tracked else []

    async def delete(self, flows: Sequence[Tracked]) -> int:
        """Of `conntrack`."""
        self._call("delete", *flows)
        return len(flows)

    def drops(self) -> dict[tuple[str, str], int]:
        return self.dropped

    def counters(self) -> dict[str, int]:
        return {}

    async def repair(self) -> bool:
        self._call("repair")
        if not self.repairs:
            return False
        self._egw_ifindex = self.repairs.pop(0)
        return True

    def link_monitor(self) -> LinkMonitor:
        return self.links

    async def set_netfilter(
        self,
        pods: Sequence[IPv4Network],
        cluster: Sequence[IPv4Network],
        uplinks: Sequence[str],
        keeps_out_pods: bool,
        lives: ConnectionLives,
        *,
        steer: Destinations,
    ) -> None:
        self.keeps_out_pods.append(keeps_out_pods)
        self.lives = lives
        self._call("set_netfilter", tuple(uplinks), _networks(steer))

    async def replace_steer(self, wanted: Destinations, changed: Collection[IPv4Address] | None = None) -> None:
        """Of `nftables`."""
        self.changed_pods.append(None if changed is None else sorted(changed))
        self._call("replace_steer", _networks(wanted))

    async def replace_named(self, wanted: Named) -> None:
        """Of `nftables`; asked at every turn."""
        networks = sorted(network for several in wanted.values() for network in several)
        if networks != self.named_networks:
            self._call("replace_named", *networks)
            self.named_networks = networks


def _networks(steer: Destinations) -> dict[IPv4Address, list[IPv4Network]]:
    return {pod: list(steer.sets[identity]) for pod, identity in steer.pods.items()}
