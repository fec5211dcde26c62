"""The datapath of one node in the kernel: programs attached, steering device, netfilter rules, maps behind the pool.

Everything it sets up outlives the agent on purpose, so that a restart interrupts nothing; `uninstall` takes it away in
the order that never leaks (rule G8).
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Self

from service.datapath import flow_row, layout, loader, map_size
from service.datapath.block_maps import BlockMaps
from service.datapath.desired import LocalUplink, Rows
from service.datapath.flow_room import FlowRoom
from service.datapath.flow_table import FlowTable
from service.datapath.handover import HandoverDevice
from service.datapath.hook_book import HookBook, Newcomers
from service.datapath.inheritance import Inheritance, read_inheritance
from service.datapath.layout import COUNTER_NAMES, MapName
from service.datapath.loader import LoadedDatapath
from service.datapath.map_size import KeptSize, RowRoom
from service.datapath.planter import Planter
from service.datapath.worker_pool import WorkerPool
from service.host import identity
from service.host.clock import boot_ns
from service.model.drop import DropReason
from service.model.errors import TransientError
from service.network.attachment import Attachments
from service.network.capability import check_node
from service.network.connection_life import ConnectionLives
from service.network.conntrack import Conntrack
from service.network.destinations import Destinations
from service.network.handover_device import HANDOVER_DEVICES
from service.network.hook import Attachment
from service.network.link import Interface, choose_uplinks
from service.network.link_monitor import LinkMonitor
from service.network.netlink import Netlink, Pause
from service.network.nftables import Nftables, NftConfig
from service.network.sysctl import Sysctl
from service.network.tcx import TcxLinks
from service.settings import Settings

_log = logging.getLogger(__name__)

STEERING_DEVICE = "egw0"
DEFAULT_MTU = 1500
"""Of the steering device while there is no uplink to take it from."""
_DRIVEN_MAPS = (
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
"""Maps the agent fills; the keeper owns the deadlines, the kernel the rest."""
_AWAITED_MAPS = (MapName.SELECTED, MapName.RULES, MapName.FLOATING_IPS)
"""Those on whose rows something waits (rule I1). What is written at every turn must not be among them."""


_REASONS = {reason.value: reason.name.lower() for reason in DropReason}


class NodeDatapath:
    """Async context manager: entering loads and attaches everything, leaving only closes descriptors."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        self._attached: dict[int, str] = {}
        self._uplinks: tuple[LocalUplink, ...] = ()
        self._addresses: frozenset[IPv4Address] = frozenset()
        self.device_names: frozenset[str] = frozenset()
        """Of all interfaces, as of the last `refresh_uplinks`."""
        self.gateways: tuple[IPv4Address, ...] = ()
        """Default gateways of this node, as of the last `refresh_uplinks`."""
        self._egw_ifindex = 0
        self._fenced: set[int] = set()
        """Indexes of uplinks that have our programs."""
        self._were_uplinks: dict[int, str] = {}
        """Devices that have the fence. One that loses its address for a while keeps it: it is no pod's device."""
        self._attaching = asyncio.Lock()
        """Which program a device gets is decided and done in one go: two tasks once gave an uplink a pod's program."""
        self._waiting: frozenset[int] = frozenset()
        self._newcomers = Newcomers()
        self.hooks = HookBook()
        self._kept_sizes: tuple[KeptSize, ...] = ()
        self._has_netfilter = self._keeps_out_pods = self._is_netfilter_lost = False
        self._sysctl = _sysctl(settings)
        self.netlink = Netlink(sysctl=self._sysctl, attachments=_attachments(settings))
        self._handover = HandoverDevice(self.hooks)
        self.nftables = Nftables()
        self.conntrack = Conntrack(connection_mark=settings.datapath.connection_mark)
        self.planter = Planter(self.conntrack)
        self.pool: WorkerPool
        self.flows: FlowTable
        self.blocks: BlockMaps
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
        own = settings.datapath
        rooms = FlowRoom.here(own.flows), RowRoom(own.pods, own.rules, own.floating_ips)
        compiled_dir = own.compiled_dir or f"{settings.state_dir}/compiled"
        load = partial(loader.load_datapath, own.bpf_dir, settings.run_dir, *rooms, compiled_dir=compiled_dir)
        self._loaded = await asyncio.to_thread(load)
        self._stack.callback(self._loaded.close)
        self._kept_sizes = self._loaded.kept_sizes
        driven = {name: self._loaded.map(name) for name in _DRIVEN_MAPS}
        self.pool = WorkerPool(driven, workers=own.workers, awaited=_AWAITED_MAPS)
        for name in _DRIVEN_MAPS:
            await asyncio.to_thread(self.pool.adopt, name)
        self.flows = FlowTable(self._loaded.maps, clock=boot_ns, monotonic=time.monotonic_ns)
        self.blocks = BlockMaps(self._loaded.maps, settings.node, clock=boot_ns, monotonic=time.monotonic_ns)
        searching = flow_row.flow_settings(identity.boot_id(), own.ephemeral_ports, is_direct=own.direct)
        self._loaded.map(MapName.FLOW_SETTINGS).update(bytes(4), searching)
        probes = IPv4Address(settings.bind_address) if settings.datapath.transport != "vxlan" else IPv4Address(0)
        self._loaded.map(MapName.PROBE_TARGET).update(bytes(4), layout.probe_target_value(probes, settings.ports.probe))
        await self._set_up_steering()
        await self.refresh_uplinks()
        await self.attach_pod_devices()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def troubles(self) -> list[str]:
        """What a disk keeps from being noted, and which maps are not as large as they should be; for status."""
        told = (self._sysctl.trouble, map_size.trouble(self._kept_sizes), self._handover.trouble)
        return [one for one in told if one]

    @property
    def uplinks(self) -> tuple[LocalUplink, ...]:
        """As of the last `refresh_uplinks`."""
        return self._uplinks

    @property
    def addresses(self) -> frozenset[IPv4Address]:
        """Every IPv4 address of every interface, as of the last `refresh_uplinks`."""
        return self._addresses

    @property
    def egw_ifindex(self) -> int:
        """Of the steering device; another one after somebody has deleted it and `repair` has made it anew."""
        return self._egw_ifindex

    def inherited(self) -> Inheritance:
        """What the pinned maps of a former agent contain. Blocking: for the start only."""
        return read_inheritance(self._loaded)

    async def refresh_uplinks(self) -> bool:
        """Read the uplinks again, and attach to those that have not our programs yet: `uplinks` are those that have.

        An uplink without the fence is none. False where one could not be attached to: call again. Raises TransientError
        where links cannot be read; nothing has changed then.
        """
        async with self._attaching:
            found = await self._read_uplinks()
            self._fenced &= {uplink.ifindex for uplink in found}
            for uplink in found:
                if uplink.ifindex not in self._fenced:
                    await self._attach_uplink(uplink)
            self._uplinks = tuple(uplink for uplink in found if uplink.ifindex in self._fenced)
            return len(self._uplinks) == len(found)

    async def _read_uplinks(self) -> tuple[LocalUplink, ...]:
        named, bind_address = self._settings.datapath.uplinks, self._settings.bind_address
        routed = named or await self.netlink.default_route_interfaces()
        interfaces = await self.netlink.interfaces()
        self.device_names = frozenset(interface.name for interface in interfaces)
        self._addresses = frozenset(address.ip for interface in interfaces for address in interface.addresses)
        self.gateways = await self.netlink.default_gateways()
        chosen = choose_uplinks(interfaces, named=named, routed=routed, bind_address=bind_address)
        uplinks = tuple(map(_local_uplink, chosen))
        names = {interface.index: interface.name for interface in interfaces}
        self._were_uplinks = {one: name for one, name in self._were_uplinks.items() if names.get(one) == name}
        veths = (interface.index for interface in interfaces if interface.kind == "veth")
        self.hooks.keep({*veths, *(uplink.ifindex for uplink in uplinks), self._egw_ifindex})
        return uplinks

    async def _attach_uplink(self, uplink: LocalUplink) -> None:
        """Attach, or replace in place. A device that is gone or refuses is told, and costs no other uplink anything."""
        programs = self._loaded.programs
        try:
            # The fence first: from then on nothing from a floating IP leaves without a lease.
            kind = await self.netlink.attach(uplink.ifindex, "egress", programs["uplink_egress"], "uplink_egress")
            await self.netlink.attach(uplink.ifindex, "ingress", programs["uplink_ingress"], "uplink_ingress")
        except TransientError as error:
            self._fenced.discard(uplink.ifindex)
            self.hooks.refuse(uplink.ifindex, uplink.name, str(error))
            _log.warning("%s: cannot attach yet: %s", uplink.name, error)
        else:
            self._were_uplinks[uplink.ifindex] = uplink.name
            self._fenced.add(uplink.ifindex)
            self.hooks.attached(uplink.ifindex, uplink.name, kind)

    @property
    def unattached(self) -> frozenset[int]:
        """Pod devices that were not attached to at the last `attach_pod_devices`: they refuse, or are too new."""
        return self._waiting

    async def attach_pod_devices(self, occupied: Collection[int] = ()) -> None:
        """Attach the pod program to every pod device that has it not; gone devices are forgotten.

        Without tcx, a new one is left to its CNI for a while (`Newcomers`), unless its index is among the `occupied`.
        """
        async with self._attaching:
            exclude = [uplink.name for uplink in self._uplinks] + [STEERING_DEVICE, *HANDOVER_DEVICES]
            found = await self.netlink.veth_devices(exclude)
            devices = {one.index: one.name for one in found if one.index not in self._were_uplinks}
            for index in self._attached.keys() - devices.keys():
                del self._attached[index]
            ready = set(devices) if self.netlink.has_tcx else self._settled(devices, occupied)
            for index, name in devices.items():
                if index in ready and self._attached.get(index) != name:
                    await self._attach_pod_device(index, name)
            self._waiting = frozenset(devices.keys() - self._attached.keys())
            await self._choose_direct()

    def _settled(self, devices: Collection[int], occupied: Collection[int]) -> set[int]:
        return self._newcomers.settled(devices, occupied, now=asyncio.get_running_loop().time())

    async def _attach_pod_device(self, index: int, name: str) -> None:
        try:
            kind = await self.netlink.attach(index, "ingress", self._loaded.programs["pod_ingress"], "pod_ingress")
        except TransientError as error:
            if self.hooks.refuse(index, name, str(error)):
                _log.warning("%s: cannot attach yet: %s", name, error)
            return
        self.hooks.attached(index, name, kind)
        self._attached[index] = name
        # Without it replies take the policy path, and that is all: no hook is needed at any price.
        with suppress(TransientError):
            await self.netlink.attach(index, "egress", self._loaded.programs["pod_egress"], "pod_egress")

    async def _choose_direct(self) -> None:
        """Say of which devices packets may go past the stack (rules F2, X4). One that somebody shapes from now on has
        to be taken out; what is approved is so for half a second more."""
        asked = (*self._attached, self._egw_ifindex) if self._settings.datapath.direct else ()
        devices = await self.netlink.plain_devices(asked) if asked else frozenset[int]()
        target = self._loaded.map(MapName.DIRECT_DEVICES)
        known = {int.from_bytes(key, "little") for key in target.items()}
        for index in known - devices:
            target.delete(layout.device_key(index))
        for index in devices - known:
            target.update(layout.device_key(index), bytes(4))

    def pod_devices(self, pod_ips: Iterable[IPv4Address], pause: Pause) -> AsyncGenerator[dict[IPv4Address, int]]:
        """Which device each local pod is behind, as `Netlink.pod_devices` finds them."""
        foreign = [*(uplink.name for uplink in self._uplinks), *HANDOVER_DEVICES]
        return self.netlink.pod_devices(pod_ips, foreign, pause=pause)

    def write(self, content: Mapping[str, Rows]) -> None:
        """Wish for these maps to contain exactly these rows."""
        for name, rows in content.items():
            self.pool.replace(name, rows)

    def drops(self) -> dict[tuple[str, str], int]:
        """Packets dropped per (reason, floating IP), since the maps were made.

        Those of netfilter's guards are as of the last `repair`, and of no floating IP."""
        totals = {(guard, ""): packets for guard, packets in self.nftables.dropped.items()}
        for key, value in self._loaded.map(MapName.DROPS).items().items():
            address, reason, packets, _ = layout.parse_drop(key, value)
            name = _REASONS.get(reason, str(reason))
            label = (name, str(address) if int(address) else "")
            totals[label] = totals.get(label, 0) + packets
        return totals

    def counters(self) -> dict[str, int]:
        """Packets per counter of the datapath, since the maps were made."""
        counters = self._loaded.map(MapName.COUNTS)
        return {
            name: layout.parse_counter(counters.lookup(index.to_bytes(4, "little")) or b"")
            for index, name in enumerate(COUNTER_NAMES)
        }

    async def _set_up_steering(self) -> None:
        settings = self._settings
        await self.nftables.check_marks(settings.datapath.mark, settings.datapath.connection_mark)
        await self.netlink.check_mark(table=settings.datapath.route_table, mark=settings.datapath.mark)
        await self._ensure_devices()

    async def _ensure_devices(self) -> None:
        await self._handover.ensure(self.netlink, self._loaded)
        settings = self._settings
        mark = settings.datapath.mark
        device = await self.netlink.ensure_steering_device(
            name=STEERING_DEVICE,
            vni_port=settings.ports.vxlan,
            table=settings.datapath.route_table,
            mark=mark,
            uplinks=[uplink.name for uplink in self._uplinks],
            # A node may be without uplinks for a while; the device has to be there when one comes back.
            are_samples=settings.datapath.direct,
            mtu=max((uplink.mtu for uplink in self._uplinks), default=DEFAULT_MTU),
        )
        if device.index == self._egw_ifindex and len(await self._look(device.index, STEERING_DEVICE)) == 2:
            return
        self._egw_ifindex = device.index
        config = layout.config_value(mark, device.index, device.mac, settings.ports.vxlan)
        self._loaded.map(MapName.CONFIG).update(bytes(4), config)
        programs = self._loaded.programs
        kind = await self.netlink.attach(device.index, "egress", programs["steer_egress"], "steer_egress")
        await self.netlink.attach(device.index, "ingress", programs["steer_ingress"], "steer_ingress")
        self.hooks.attached(device.index, STEERING_DEVICE, kind)

    async def repair(self) -> bool:
        """Put back what others removed: device, rules, routes, programs. Each for itself: what is gone or refuses keeps
        nothing else from being put back.

        True where the netfilter table is gone, until `set_netfilter` has written it. `egw_ifindex` may be another, and
        an uplink that could not be attached to again is none until `refresh_uplinks`.
        """
        await self._try("the steering device", self._ensure_devices())
        async with self._attaching:
            for uplink in self._uplinks:
                await self._try(uplink.name, self._repair_uplink(uplink))
            self._uplinks = tuple(uplink for uplink in self._uplinks if uplink.ifindex in self._fenced)
            for index, name in tuple(self._attached.items()):
                await self._try(name, self._check_pod_device(index, name))
        await self._try("pins", self.netlink.sweep_attachments())
        await self._try("netfilter", self._check_netfilter())
        return self._is_netfilter_lost

    async def _try(self, what: str, part: Coroutine[None, None, None]) -> None:
        try:
            await part
        except TransientError as error:
            _log.warning("repair of %s: %s", what, error)

    async def _repair_uplink(self, uplink: LocalUplink) -> None:
        if len(await self._look(uplink.ifindex, uplink.name)) != 2:
            _log.warning("%s: our programs were removed; attaching them again", uplink.name)
            await self._attach_uplink(uplink)

    async def _look(self, index: int, name: str) -> tuple[Attachment, ...]:
        """Which of ours are on the hooks of a device: one a direction."""
        found = await self.netlink.attached(index)
        self.hooks.look(index, name, found)
        return found

    async def _check_pod_device(self, index: int, name: str) -> None:
        # It may have been forgotten meanwhile. Else at once: without the program none of its pods is known (rule W11).
        directions = {found.direction for found in await self._look(index, name)}
        if "ingress" not in directions and self._attached.pop(index, None) is not None:
            _log.warning("%s: our program was removed; attaching it again", name)
            await self._attach_pod_device(index, name)

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
        keeps_out_pods: bool,
        lives: ConnectionLives,
        *,
        steer: Destinations,
    ) -> None:
        """Bring our netfilter table in step; the whole table at the start and where somebody flushed it."""
        config = NftConfig(
            mark=self._settings.datapath.mark,
            cluster=tuple(cluster),
            pods=tuple(pods),
            uplinks=tuple(uplinks),
            keeps_out_pods=keeps_out_pods,
            steering_device=STEERING_DEVICE,
            connection_mark=self._settings.datapath.connection_mark,
            lives=lives,
            tunnel_port=self._settings.ports.vxlan,
            ephemeral=self._settings.datapath.ephemeral_ports,
        )
        is_same = keeps_out_pods == self._keeps_out_pods
        self._keeps_out_pods = keeps_out_pods
        if self._has_netfilter and is_same and await self.nftables.present():
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


def _attachments(settings: Settings) -> Attachments:
    return Attachments(TcxLinks(layout.link_folder(settings.datapath.bpf_dir)), wants_tcx=settings.datapath.tcx)


async def uninstall(settings: Settings) -> None:
    """Take everything away: steering first, so that no packet is half way, then the rest (rule G8)."""
    check_node()
    nftables = Nftables()
    async with Netlink(sysctl=_sysctl(settings), attachments=_attachments(settings)) as netlink:
        interfaces = await netlink.interfaces()
        for interface in interfaces:
            if interface.kind == "veth" or interface.name in settings.datapath.uplinks:
                await netlink.detach(interface.index, "ingress")
            if interface.kind == "ifb":
                await netlink.detach(interface.index, "egress")
        await netlink.remove_steering_device(
            name=STEERING_DEVICE, table=settings.datapath.route_table, mark=settings.datapath.mark
        )
        await nftables.remove()
        for interface in interfaces:
            if interface.name != STEERING_DEVICE:
                await netlink.detach(interface.index, "egress")
                await netlink.detach(interface.index, "ingress")
        await netlink.remove_handover_device()
        await netlink.clear_attachments()
    await asyncio.to_thread(loader.unpin, settings.datapath.bpf_dir)
