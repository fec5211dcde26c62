"""The datapath of one node in the kernel: programs attached, steering device, netfilter rules, maps behind the pool.

Everything it sets up outlives the agent on purpose, so that a restart interrupts nothing; `uninstall` takes it away in
the order that never leaks (rule G8).
"""

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Self

from service.datapath import layout, loader
from service.datapath.desired import LocalUplink, Rows
from service.datapath.layout import COUNTER_NAMES, MapName, SelectedState
from service.datapath.loader import LoadedDatapath
from service.datapath.worker_pool import WorkerPool
from service.model.drop import DropReason
from service.model.errors import TransientError
from service.network.capability import check_node
from service.network.conntrack import Conntrack
from service.network.destinations import Destinations
from service.network.link import Interface
from service.network.link_monitor import LinkMonitor
from service.network.netlink import Netlink
from service.network.nftables import Nftables, NftConfig
from service.network.sysctl import Sysctl
from service.policy.rule_set import RuleSet
from service.settings import Settings

_log = logging.getLogger(__name__)

STEERING_DEVICE = "egw0"
DEFAULT_MTU = 1500
"""Of the steering device while there is no uplink to take it from."""
_DRIVEN_MAPS = (
    MapName.SELECTED,
    MapName.RULES,
    MapName.CLUSTER,
    MapName.WAYS,
    MapName.AGENT_BEAT,
    MapName.FLOATING_IPS,
    MapName.ENDPOINTS,
    MapName.MEMBERS,
)
"""Maps the agent fills; the keeper owns the deadlines, the kernel the rest."""
_AWAITED_MAPS = (MapName.SELECTED, MapName.RULES, MapName.ENDPOINTS, MapName.FLOATING_IPS)
"""Those on whose rows something waits (rule C1). What is written at every turn must not be among them."""


_REASONS = {reason.value: reason.name.lower() for reason in DropReason}


@dataclass(frozen=True, slots=True)
class Inheritance:
    """State that outlived a former agent of this node and must not be interrupted."""

    steered: dict[IPv4Address, RuleSet]
    """Local pods that are steered, with the rules they are steered by."""
    devices: dict[IPv4Address, int]
    """The devices they were behind."""
    endpoints: Rows
    """Pods of other nodes that are translated here."""
    ways: Rows
    """Where floating IPs were."""
    rule_sets: tuple[RuleSet, ...]


class NodeDatapath:
    """Async context manager: entering loads and attaches everything, leaving only closes descriptors."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        self._attached: dict[int, str] = {}
        self._uplinks: tuple[LocalUplink, ...] = ()
        self._addresses: frozenset[IPv4Address] = frozenset()
        self._gateways: tuple[IPv4Address, ...] = ()
        self._egw_ifindex = 0
        self._fenced: set[int] = set()
        """Indexes of uplinks that have our programs."""
        self._unattached: set[int] = set()
        self._has_netfilter = False
        self._is_netfilter_lost = False
        self._sysctl = _sysctl(settings)
        self.netlink = Netlink(sysctl=self._sysctl)
        self.nftables = Nftables()
        self.conntrack = Conntrack()
        self.pool: WorkerPool
        self._loaded: LoadedDatapath

    async def prepare(self) -> None:
        """Write the files that entering needs. Raises TransientError while the disk does not let it."""
        await asyncio.to_thread(loader.write_headers, self._settings.run_dir)

    async def __aenter__(self) -> Self:
        """Raises OperatorError, in one sentence, where something that is needed is missing."""
        settings = self._settings
        for warning in check_node():
            _log.warning("%s", warning)
        await self._stack.enter_async_context(self.netlink)
        await self._stack.enter_async_context(self.conntrack)
        self._uplinks = await self._read_uplinks()
        if not self._uplinks:
            # A state like any: the only one may have lost its address, and has it again in a moment (link monitor).
            _log.warning(
                "datapath.uplinks: no interface with an IPv4 address carries a default route or bind_address; if that "
                "is to stay so, name them"
            )
        bpf_dir, run_dir = settings.datapath.bpf_dir, settings.run_dir
        self._loaded = await asyncio.to_thread(loader.load_datapath, bpf_dir, run_dir)
        self._stack.callback(self._loaded.close)
        self.pool = WorkerPool(
            {name: self._loaded.map(name) for name in _DRIVEN_MAPS},
            workers=settings.datapath.workers,
            awaited=_AWAITED_MAPS,
        )
        for name in _DRIVEN_MAPS:
            await asyncio.to_thread(self.pool.adopt, name)
        await self._set_up_steering()
        await self.refresh_uplinks()
        await self.attach_pod_devices()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def troubles(self) -> list[str]:
        """What a disk keeps from being noted, for status."""
        return [trouble] if (trouble := self._sysctl.trouble) else []

    @property
    def uplinks(self) -> tuple[LocalUplink, ...]:
        """As of the last `refresh_uplinks`."""
        return self._uplinks

    @property
    def addresses(self) -> frozenset[IPv4Address]:
        """Every IPv4 address of every interface, as of the last `refresh_uplinks`."""
        return self._addresses

    @property
    def gateways(self) -> tuple[IPv4Address, ...]:
        """Default gateways of this node, as of the last `refresh_uplinks`."""
        return self._gateways

    @property
    def egw_ifindex(self) -> int:
        """Of the steering device; another one after somebody has deleted it and `repair` has made it anew."""
        return self._egw_ifindex

    def inherited(self) -> "Inheritance":
        """What the pinned maps of a former agent contain. Blocking: for the start only."""
        entries: dict[int, list[tuple[IPv4Network, IPv4Address]]] = {}
        for key, value in self._loaded.map(MapName.RULES).items().items():
            rule_set, network = layout.parse_rule_key(key)
            entries.setdefault(rule_set, []).append((network, IPv4Address(value[:4])))
        rule_sets = {identity: RuleSet(identity, tuple(sorted(rows))) for identity, rows in entries.items()}
        steered, devices = {}, {}
        for key, value in self._loaded.map(MapName.SELECTED).items().items():
            pod_ip, ifindex, rule_set, state = layout.parse_selected(key, value)
            if ifindex == 0 and state == SelectedState.STEER and rule_set in rule_sets:
                steered[pod_ip] = rule_sets[rule_set]
            elif ifindex:
                devices[pod_ip] = ifindex
        endpoints = {
            key: value
            for key, value in self._loaded.map(MapName.ENDPOINTS).items().items()
            if layout.parse_endpoint_key(key)[1] != self._egw_ifindex
        }
        ways = self._loaded.map(MapName.WAYS).items()
        # Where an address went while there was no agent is known by a hint alone.
        for key, hint in self._loaded.map(MapName.WAY_HINTS).items().items():
            way = layout.way_under_hint(ways.get(key), hint)
            ways |= {key: way} if way is not None else {}
        return Inheritance(steered, devices, endpoints, ways, tuple(rule_sets.values()))

    async def refresh_uplinks(self) -> bool:
        """Read the uplinks again, and attach to those that have not our programs yet: `uplinks` are those that have.

        An uplink without the fence is none. False where one could not be attached to: call again. Raises TransientError
        where links cannot be read; nothing has changed then.
        """
        found = await self._read_uplinks()
        self._fenced &= {uplink.ifindex for uplink in found}
        for uplink in found:
            if uplink.ifindex not in self._fenced:
                await self._attach_uplink(uplink)
        self._uplinks = tuple(uplink for uplink in found if uplink.ifindex in self._fenced)
        return len(self._uplinks) == len(found)

    async def _read_uplinks(self) -> tuple[LocalUplink, ...]:
        named = self._settings.datapath.uplinks
        names = named or await self.netlink.default_route_interfaces()
        bind = self._settings.bind_address
        interfaces = await self.netlink.interfaces()
        self._addresses = frozenset(address.ip for interface in interfaces for address in interface.addresses)
        self._gateways = await self.netlink.default_gateways()
        return tuple(
            _local_uplink(interface)
            for interface in interfaces
            if interface.addresses
            and (interface.name in names or (not named and str(interface.addresses[0].ip) == bind))
        )

    async def _attach_uplink(self, uplink: LocalUplink) -> None:
        """Attach, or replace in place. A device that is gone or refuses is told, and costs no other uplink anything."""
        programs = self._loaded.programs
        try:
            # The fence first: from then on nothing from a floating IP leaves without a lease.
            await self.netlink.attach(uplink.ifindex, "egress", programs["uplink_egress"], "uplink_egress")
            await self.netlink.attach(uplink.ifindex, "ingress", programs["uplink_ingress"], "uplink_ingress")
        except TransientError as error:
            self._fenced.discard(uplink.ifindex)
            _log.warning("%s: cannot attach yet: %s", uplink.name, error)
        else:
            self._fenced.add(uplink.ifindex)

    @property
    def unattached(self) -> frozenset[int]:
        """Pod devices that could not be attached to at the last `attach_pod_devices`."""
        return frozenset(self._unattached)

    async def attach_pod_devices(self) -> None:
        """Attach the pod program to every pod device that has it not; gone devices are forgotten."""
        exclude = [uplink.name for uplink in self._uplinks] + [STEERING_DEVICE]
        devices = {interface.index: interface.name for interface in await self.netlink.veth_devices(exclude)}
        for index in self._attached.keys() - devices.keys():
            del self._attached[index]
        self._unattached &= devices.keys()
        for index, name in devices.items():
            if self._attached.get(index) != name:
                await self._attach_pod_device(index, name)

    async def _attach_pod_device(self, index: int, name: str) -> None:
        try:
            await self.netlink.attach(index, "ingress", self._loaded.programs["pod_ingress"], "pod_ingress")
        except TransientError as error:
            if index not in self._unattached:
                _log.warning("%s: cannot attach yet: %s", name, error)
            self._unattached.add(index)
            return
        self._unattached.discard(index)
        self._attached[index] = name

    async def pod_devices(self, pod_ips: Iterable[IPv4Address]) -> dict[IPv4Address, int]:
        """Which device each local pod is behind; those not yet known are absent."""
        return await self.netlink.pod_devices(pod_ips, [uplink.name for uplink in self._uplinks])

    def write(self, content: Mapping[str, Rows]) -> None:
        """Wish for these maps to contain exactly these rows."""
        for name, rows in content.items():
            self.pool.replace(name, rows)

    def drops(self) -> dict[tuple[str, str], int]:
        """Packets dropped per (reason, floating IP), since the maps were made."""
        totals: dict[tuple[str, str], int] = {}
        for key, value in self._loaded.map(MapName.DROPS).items().items():
            address, reason, packets, _ = layout.parse_drop(key, value)
            name = _REASONS.get(reason, str(reason))
            label = (name, str(address) if int(address) else "")
            totals[label] = totals.get(label, 0) + packets
        return totals

    def counters(self) -> dict[str, int]:
        """Packets per counter of the datapath, since the maps were made."""
        counters = self._loaded.map(MapName.COUNTERS)
        return {
            name: layout.parse_counter(counters.lookup(index.to_bytes(4, "little")) or b"")
            for index, name in enumerate(COUNTER_NAMES)
        }

    async def _set_up_steering(self) -> None:
        settings = self._settings
        await self.nftables.check_mark(settings.datapath.mark)
        await self.netlink.check_mark(table=settings.datapath.route_table, mark=settings.datapath.mark)
        await self._ensure_steering_device()

    async def _ensure_steering_device(self) -> None:
        settings = self._settings
        mark = settings.datapath.mark
        device = await self.netlink.ensure_steering_device(
            name=STEERING_DEVICE,
            vni_port=settings.ports.vxlan,
            table=settings.datapath.route_table,
            mark=mark,
            uplinks=[uplink.name for uplink in self._uplinks],
            # A node may be without uplinks for a while; the device has to be there when one comes back.
            mtu=max((uplink.mtu for uplink in self._uplinks), default=DEFAULT_MTU),
        )
        if device.index == self._egw_ifindex and len(await self.netlink.attached(device.index)) == 2:
            return
        self._egw_ifindex = device.index
        config = layout.config_value(mark, device.index, device.mac)
        self._loaded.map(MapName.CONFIG).update(bytes(4), config)
        programs = self._loaded.programs
        await self.netlink.attach(device.index, "egress", programs["steer_egress"], "steer_egress")
        await self.netlink.attach(device.index, "ingress", programs["steer_ingress"], "steer_ingress")

    async def repair(self) -> bool:
        """Put back what others removed: device, rules, routes, programs. Each for itself: what is gone or refuses keeps
        nothing else from being put back.

        True where the netfilter table is gone, until `set_netfilter` has written it. `egw_ifindex` may be another, and
        an uplink that could not be attached to again is none until `refresh_uplinks`.
        """
        await self._try("the steering device", self._ensure_steering_device())
        for uplink in self._uplinks:
            await self._try(uplink.name, self._repair_uplink(uplink))
        self._uplinks = tuple(uplink for uplink in self._uplinks if uplink.ifindex in self._fenced)
        for index in tuple(self._attached):
            await self._try(f"device {index}", self._check_pod_device(index))
        await self._try("netfilter", self._check_netfilter())
        return self._is_netfilter_lost

    async def _try(self, what: str, part: Coroutine[None, None, None]) -> None:
        try:
            await part
        except TransientError as error:
            _log.warning("repair of %s: %s", what, error)

    async def _repair_uplink(self, uplink: LocalUplink) -> None:
        present = {attachment.direction for attachment in await self.netlink.attached(uplink.ifindex)}
        if present != {"ingress", "egress"}:
            _log.warning("%s: our programs were removed; attaching them again", uplink.name)
            await self._attach_uplink(uplink)

    async def _check_pod_device(self, index: int) -> None:
        if not await self.netlink.attached(index):
            # It may have been forgotten meanwhile.
            self._attached.pop(index, None)

    async def _check_netfilter(self) -> None:
        if self._has_netfilter and not await self.nftables.is_intact():
            _log.warning("our netfilter table was flushed; writing it again")
            self._has_netfilter, self._is_netfilter_lost = False, True

    def link_monitor(self) -> LinkMonitor:
        """A monitor of links and addresses; enter it to get what the kernel reports."""
        return LinkMonitor()

    async def set_netfilter(
        self,
        pods: Sequence[IPv4Network],
        cluster: Sequence[IPv4Network],
        uplinks: Sequence[str],
        *,
        steer: Destinations,
    ) -> None:
        """Bring our netfilter table in step; the whole table at the start and where somebody flushed it."""
        config = NftConfig(
            mark=self._settings.datapath.mark,
            cluster=tuple(cluster),
            pods=tuple(pods),
            uplinks=tuple(uplinks),
            steering_device=STEERING_DEVICE,
        )
        if self._has_netfilter and await self.nftables.present():
            await self.nftables.update_sets(config)
        else:
            await self.nftables.apply(config)
            self._has_netfilter, self._is_netfilter_lost = True, False
        await self.nftables.replace_steer(steer)


def _local_uplink(interface: Interface) -> LocalUplink:
    return LocalUplink(
        ifindex=interface.index,
        name=interface.name,
        mac=interface.mac,
        address=interface.addresses[0],
        carrier=interface.carrier,
        mtu=interface.mtu,
    )


def _sysctl(settings: Settings) -> Sysctl:
    return Sysctl(Path(settings.datapath.sysctl_dir), journal=Path(settings.state_dir) / "sysctls.json")


async def uninstall(settings: Settings) -> None:
    """Take everything away: steering first, so that no packet is half way, then the rest (rule G8)."""
    check_node()
    nftables = Nftables()
    async with Netlink(sysctl=_sysctl(settings)) as netlink:
        interfaces = await netlink.interfaces()
        for interface in interfaces:
            if interface.kind == "veth" or interface.name in settings.datapath.uplinks:
                await netlink.detach(interface.index, "ingress")
        await netlink.remove_steering_device(
            name=STEERING_DEVICE, table=settings.datapath.route_table, mark=settings.datapath.mark
        )
        await nftables.remove()
        for interface in interfaces:
            if interface.name != STEERING_DEVICE:
                await netlink.detach(interface.index, "egress")
                await netlink.detach(interface.index, "ingress")
    await asyncio.to_thread(loader.unpin, settings.datapath.bpf_dir)
