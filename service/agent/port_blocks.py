"""The blocks of ports of this node: which it may use, and whose each is where it holds an address (port-blocks.md).

Both machines begin with what the kernel remembers, so a failure that ends the task costs a fresh start and no more.
What they say goes into the kernel before the next datagram leaves.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address
from operator import is_
from pathlib import Path
from typing import Any

from service.agent.port_demand import PortDemand
from service.datapath.block_maps import BlockMaps
from service.datapath.flow_scan import FlowScan, Remote
from service.datapath.flow_table import FlowTable
from service.datapath.reconciler import Reconciler
from service.host.durable_file import replace_durably
from service.model.drop import DropReason
from service.model.errors import PeerError
from service.model.gateway_node import GatewayNode
from service.model.kept import Kept
from service.model.lease import TERM_MAX, Token
from service.model.machine import Address, Source
from service.port_block.block import BLOCK_PORTS
from service.port_block.gateway import GatewayBlocks, SetOwner, Trust
from service.port_block.message import Receiver, receiver_of
from service.port_block.owner import EndFlows, OwnerBlocks, Store, Usable
from service.settings import Settings
from service.wire.cluster_view import ClusterView
from service.wire.pump import MachinePump

_log = logging.getLogger(__name__)

_SCAN_S = 0.5
"""Between two looks at all flows; at least three times as long as the last one took (rule I3)."""
_IDLE_SCANS = 4
"""So many times as long while no flow is made, none ends and none is refused: a look goes through all the room that
there is for flows, megabytes of the processor's cache with nothing in it."""
_REFUSED_S = 0.05
"""How often is looked for packets of blocks that are not their senders'."""
_REFUSALS = frozenset(
    reason.name.lower()
    for reason in (DropReason.QUOTA, DropReason.PORTS_EXHAUSTED, DropReason.NO_PORTS, DropReason.MAP_FULL)
)
"""What a new flow is dropped for where there is no room for it."""
_PROTOCOLS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp", socket.IPPROTO_ICMP: "icmp"}


class PortBlocks:
    """Owns both machines and their pumps. `send` is of the state channel."""

    def __init__(
        self,
        settings: Settings,
        cluster: ClusterView,
        reconciler: Reconciler,
        *,
        start_id: int,
        clock: Callable[[], int],
        send: Callable[[Address, bytes], None],
        changed: Callable[[], None],
        is_synced: Callable[[], bool] = lambda: True,
    ) -> None:
        """`is_synced`: the policies are known; until then nothing is counted for any."""
        self._settings = settings
        self._cluster = cluster
        self._reconciler = reconciler
        self._start_id = start_id
        self._clock = clock
        self._transmit = send
        self._is_synced = is_synced
        self._changed = changed
        self._own = Address(settings.bind_address, settings.ports.state)
        self._maps: BlockMaps
        self._flows: FlowTable
        self._owner: OwnerBlocks | None = None
        self._gateway: GatewayBlocks | None = None
        self._pumps: dict[Receiver, MachinePump] = {}
        self._known: set[IPv4Address] = set()
        self._held: dict[IPv4Address, Token] = {}
        self._served = frozenset[IPv4Address]()
        """Addresses of `_held`: another object when they are others."""
        self._serving: dict[IPv4Address, None] = {}
        """What this node holds or stands by for."""
        self._members = Kept[dict[str, Address]]()
        self._said: tuple[object, ...] = ()
        """What the machines were told last."""
        self._busiest: dict[IPv4Address, tuple[Remote, int]] = {}
        self._in_use: dict[IPv4Address, tuple[int, int]] = {}
        """Ports and blocks that have a flow, at the last look."""
        self._demand = PortDemand()
        self.busiest_pod: tuple[IPv4Address, int] | None = None
        """Which has most flows, and how many, at the last look."""
        self.flows = 0
        """Of this node's pods, at the last look."""
        self.tables: dict[str, tuple[int, int]] = {}
        """Rows in each table of flows at the last look, and how many it has room for."""
        self._ending: dict[IPv4Address, set[int]] = {}
        """Blocks whose flows are to be ended before anything else is said."""

    def connect(self, maps: BlockMaps, flows: FlowTable) -> None:
        """The datapath is loaded: begin with what it remembers. Blocking: at the start only."""
        self._maps, self._flows = maps, flows
        self._begin()

    def _begin(self) -> None:
        now_ns = self._clock()
        since_ns = min(now_ns, self._maps.remembers_since_ns(is_first=self._is_first()))
        owner = OwnerBlocks(self._settings.node, self._start_id, remembers_since_ns=since_ns, now_ns=now_ns)
        for floating_ip, blocks in self._maps.owned().items():
            owner.restore(floating_ip, blocks, now_ns=now_ns)
        gateway = GatewayBlocks(self._maps, now_ns=now_ns)
        for floating_ip, (rows, tenure) in self._maps.known().items():
            gateway.restore(floating_ip, rows, tenure, now_ns=now_ns)
            self._known.add(floating_ip)
        self._known |= self._maps.owned().keys()
        self._owner, self._gateway = owner, gateway
        self._pumps = {
            Receiver.OWNER: MachinePump(owner, clock=self._clock, send=self._send, handle=self._handle),
            Receiver.GATEWAY: MachinePump(gateway, clock=self._clock, send=self._send, handle=self._handle),
        }

    def _is_first(self) -> bool:
        """No agent with blocks was ever here: a reboot makes the kernel forget, and the disk says that there was one.

        Where the disk does not let it be noted, a reboot is taken for a first start: blocks of this node that others
        get then may be known to remotes for some minutes yet.
        """
        mark = Path(self._settings.state_dir) / "port-blocks"
        if mark.exists():
            return False
        try:
            mark.parent.mkdir(parents=True, exist_ok=True)
            replace_durably(mark, b"This node has, or had, blocks of ports (docs/port-blocks.md, Q7).\n")
        except OSError as error:
            _log.warning("state_dir: cannot note that this node has blocks of ports: %s", error.strerror)
        return True

    async def run(self) -> None:
        """Until cancelled. After an error everything begins with what the kernel remembers."""
        if self._owner is None:
            self._begin()
        try:
            async with asyncio.TaskGroup() as group:
                for receiver, pump in self._pumps.items():
                    group.create_task(pump.run(), name=receiver.name.lower())
                group.create_task(self._scan_for_ever(), name="scan flows")
                group.create_task(self._tell_for_ever(), name="tell owners")
        finally:
            self._owner = None

    def take(self, source: Source, payload: bytes) -> bool:
        """One datagram of the state channel; False where it is for neither of these machines."""
        try:
            pump = self._pumps.get(receiver_of(payload))
        except PeerError:
            return False
        if pump is not None and self._owner is not None:
            pump.on_datagram(source, payload)
        return True

    def update(self) -> None:
        """Bring the machines in step with what is known: members, leader, addresses, holders and successors."""
        owner, gateway, now_ns = self._owner, self._gateway, self._clock()
        if owner is None or gateway is None:
            return
        reconciler = self._reconciler
        nodes, addresses = reconciler.nodes, self._cluster.sockets(self._settings.ports.state)
        members = self._members.of(lambda: self._sockets_of(nodes, addresses), nodes, addresses)
        leader = self._cluster.leader()
        leaders = self._cluster.sockets(self._settings.ports.leader)
        leader_address = leaders.get(leader[0]) if leader is not None else None
        self._maps.learn(reconciler.topology())
        # What is listed and is nobody's for a while, as an address of a node's own (A1), keeps its ports.
        listed, moved = reconciler.listed(), reconciler.take_moved()
        said = (owner, members, leader_address, listed, reconciler.assignments, self._served)
        is_said = len(said) == len(self._said) and all(map(is_, said, self._said))
        if is_said and not moved:
            # Nothing that they do not know; both have timers of their own.
            return
        # Where this fails in the middle, all of it is said again.
        self._said = ()
        for machine in (owner, gateway):
            machine.set_members(members, now_ns=now_ns)
            # No elector says here which term is on its disk (port-blocks.md, Not built).
            machine.set_leader(leader_address, term_max=TERM_MAX, now_ns=now_ns)
        if not is_said:
            self._forget_others(owner, gateway, frozenset(listed), now_ns)
        self._update_addresses(owner, gateway, moved if is_said else listed, now_ns)
        self._said = said
        self._wake()

    def _sockets_of(self, nodes: Iterable[GatewayNode], sockets: Mapping[str, Address]) -> dict[str, Address]:
        members = {node.name: sockets[node.name] for node in nodes if node.name in sockets}
        return members | {self._settings.node: self._own}

    def _forget_others(
        self, owner: OwnerBlocks, gateway: GatewayBlocks, listed: frozenset[IPv4Address], now_ns: int
    ) -> None:
        for floating_ip in self._known - listed:
            owner.forget(floating_ip, now_ns=now_ns)
            gateway.forget(floating_ip, now_ns=now_ns)
            self._maps.forget(floating_ip)
            self._serving.pop(floating_ip, None)
        self._known = set(listed)

    def _update_addresses(
        self, owner: OwnerBlocks, gateway: GatewayBlocks, changed: Iterable[IPv4Address], now_ns: int
    ) -> None:
        reconciler, node = self._reconciler, self._settings.node
        for floating_ip in changed:
            if floating_ip not in self._known:
                continue
            holder = reconciler.holder_of(floating_ip) or ""
            successor = reconciler.successor_of(floating_ip) or ""
            owner.set_way(floating_ip, holder, successor, now_ns=now_ns)
            if node in (holder, successor) or floating_ip in self._served:
                self._serving[floating_ip] = None
            else:
                self._serving.pop(floating_ip, None)
        gateway.serve(self._serving, now_ns=now_ns)

    def observe(self, held: Mapping[IPv4Address, Token]) -> None:
        """The keeper says what is leased here now, and under which tokens; what is new is looked at at once."""
        if self._gateway is None:
            return
        changed = {floating_ip for floating_ip, _ in self._held.items() ^ held.items()}
        for floating_ip in changed:
            self._gateway.observe(floating_ip, now_ns=self._clock())
        self._held = dict(held)
        if self._served != held.keys():
            self._served = frozenset(held)
        if changed:
            self._wake()

    def status(self, drops: Mapping[tuple[str, str], int] | None = None) -> dict[str, Any]:
        """Of each floating IP: what this node has and uses of its ports, and how many blocks it knows the owners of.

        `drops`: packets per (reason, floating IP), to tell what of it new flows were refused for.
        """
        owner, gateway = self._owner, self._gateway
        if owner is None or gateway is None:
            return {}
        refused = refusals_by_address(drops or {})
        found = {}
        for floating_ip in sorted(self._known):
            usable, known = len(owner.usable(floating_ip)), len(gateway.rows(floating_ip))
            remote, taken = self._busiest.get(floating_ip, (None, 0))
            ports, blocks = self._in_use.get(floating_ip, (0, 0))
            if usable or known or ports or str(floating_ip) in refused:
                found[str(floating_ip)] = {
                    "usableBlocks": usable,
                    "knownBlocks": known,
                    "blocksInUse": blocks,
                    "portsInUse": ports,
                    "busiest": _busiest(remote, taken, usable * BLOCK_PORTS),
                    "refused": refused.get(str(floating_ip), {}),
                }
        return found

    def flow_status(self) -> dict[str, Any]:
        """How full the tables of flows are, and how near the busiest pod is to its quota; as of the last look."""
        pod, flows = self.busiest_pod or ("", 0)
        return {
            "total": self.flows,
            "tables": {name: {"rows": rows, "room": room} for name, (rows, room) in self.tables.items()},
            "busiestPod": {"pod": str(pod), "flows": flows, "quota": self._settings.datapath.flows_per_pod},
        }

    # -- inside --

    def _wake(self) -> None:
        for pump in self._pumps.values():
            pump.wake()
        self._end_flows()

    def _send(self, to: Address, payload: bytes) -> None:
        self._end_flows()
        if to != self._own:
            self._transmit(to, payload)
            return
        # A holder's pods are like any other's: its owner asks its own gateway, in the order in which it was said.
        source = Source(self._own, self._settings.node, self._start_id)
        asyncio.get_running_loop().call_soon(self.take, source, payload)

    def _handle(self, output: object) -> None:
        match output:
            case SetOwner():
                self._maps.set_owner(output.floating_ip, output.block, output.row)
            case Trust():
                self._maps.trust(output.floating_ip, output.tenure)
            case Usable():
                self._maps.use(output.floating_ip, output.blocks)
            case Store():
                self._maps.store(output.floating_ip, output.block, output.stamp, output.contact_ns)
            case EndFlows():
                self._ending.setdefault(output.floating_ip, set()).add(output.block)
            case _:
                raise TypeError(f"unknown output {output!r}")

    def _end_flows(self) -> None:
        """All at once: each look at the flows is one at all of them."""
        if self._ending:
            ending, self._ending = self._ending, {}
            self._flows.end_blocks(ending)

    async def _tell_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_REFUSED_S)
            numbers = self._reconciler.names()
            for floating_ip, block, node in self._maps.refused(numbers):
                if self._gateway is not None:
                    self._gateway.note_foreign(floating_ip, block, node, now_ns=self._clock())
            self._pumps[Receiver.GATEWAY].wake()
            # Where nothing was to be said since.
            self._end_flows()

    async def _scan_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began, moved = loop.time(), self._moved()
            unsettled = self._reconciler.steering.unsettled()
            settled = frozenset(self._reconciler.local_pods()) - unsettled
            attribution = self._reconciler.attribution() if self._is_synced() else None
            left = self._reconciler.steering.left()
            scan = await self._flows.sweep(settled, attribution)
            if self._reconciler.steering.forget(scan.without_flows(left)):
                self._changed()
            self._note(scan)
            await asyncio.sleep(max(_SCAN_S, 3 * (loop.time() - began)))
            for _ in range(_IDLE_SCANS - 1):
                if self._is_scan_due(moved):
                    break
                await asyncio.sleep(_SCAN_S)

    def _is_scan_due(self, moved: object) -> bool:
        """Flows have come or gone since `moved` was asked for, or somebody waits for a pod's last one to end."""
        return bool(self._reconciler.steering.left()) or self._moved() != moved

    def _moved(self) -> object:
        """Another value whenever a flow was made, or has ended, or was refused a port."""
        return self._flows.made_and_ended(), self._maps.refused_flows()

    def _note(self, scan: FlowScan) -> None:
        owner, now_ns = self._owner, self._clock()
        if owner is None:
            return
        self._demand.take(scan.taken, self._maps.refused_flows(), begun_ns=scan.begun_ns)
        used = frozenset(self._reconciler.used_floating_ips())
        for floating_ip in self._known:
            usable, demand = owner.usable(floating_ip), self._demand.of(floating_ip)
            if floating_ip not in used:
                # Flows that run out are no demand: what they have is to be given back.
                owner.note_use(floating_ip, 0, 0.0, now_ns=now_ns)
            elif usable or demand.taken or demand.per_s:
                free = len(usable) * BLOCK_PORTS - demand.taken
                owner.note_use(floating_ip, free, demand.per_s, now_ns=now_ns)
            live = scan.blocks.get(floating_ip.packed, set())
            owner.note_scan(floating_ip, live, begun_ns=scan.begun_ns, now_ns=now_ns)
        self._busiest = scan.busiest()
        self._in_use = {
            IPv4Address(packed): (len(ports), len(scan.blocks[packed])) for packed, ports in scan.ports.items()
        }
        self.flows, self.tables, self.busiest_pod = scan.flows, scan.tables, scan.busiest_pod()
        self._pumps[Receiver.OWNER].wake()


def refusals_by_address(drops: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    """New flows that were dropped for want of room, in packets, by floating IP and reason."""
    found: dict[str, dict[str, int]] = {}
    for (reason, address), packets in sorted(drops.items()):
        if reason in _REFUSALS and address:
            found.setdefault(address, {})[reason] = packets
    return found


def _busiest(remote: Remote | None, taken: int, usable: int) -> dict[str, Any]:
    """The remote to which most ports of a floating IP are taken, and how many there are."""
    shown = {"remote": "", "protocol": ""}
    if remote is not None:
        shown["remote"] = f"{IPv4Address(remote.address)}:{int.from_bytes(remote.port, 'big')}"
        shown["protocol"] = _PROTOCOLS.get(remote.protocol, str(remote.protocol))
    return shown | {"portsTaken": taken, "portsUsable": usable}
