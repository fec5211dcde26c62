"""The table of flows as the agent works on it: what is over goes, and what must not go on is ended (B2, B4, E2).

The programs make flows and follow them; they do not see one that nobody sends on any more. All is done in pieces, in a
thread; what several pods' flows cost is in proportion to the whole table.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from threading import Lock

from service.datapath import flow_row, layout
from service.datapath.attribution import Attribution, Label
from service.datapath.bpf_map import BpfMap
from service.datapath.flow_scan import FlowScan, Over
from service.datapath.layout import FIRST_PORT, PORTS_PER_BLOCK, MapName
from service.datapath.traffic import Account, Traffic
from service.datapath.traffic_map import TrafficMap
from service.network.conntrack import Flow as Tracked
from service.network.conntrack import endpoints
from service.port_block.block import block_of

_FLOWS = (MapName.FLOWS_OPEN, MapName.FLOWS_YOUNG, MapName.FLOWS_DATAGRAM)
_MIRRORS = {
    MapName.FLOWS_OPEN: (MapName.MIRRORS_OPEN, MapName.MIRRORS_YOUNG),
    MapName.FLOWS_YOUNG: (MapName.MIRRORS_OPEN, MapName.MIRRORS_YOUNG),
    MapName.FLOWS_DATAGRAM: (MapName.MIRRORS_DATAGRAM,),
}
_FULL_BLOCKS = 0x8000
_ENDED_AT = 39
"""Of `is_ended` in a flow."""
_PROTOCOL_AT = 12
"""In the key of a flow."""
_NO_EXIST = 1
"""BPF_NOEXIST: a flow that the program has made meanwhile stays."""
_EXIST = 2
"""BPF_EXIST: one that is gone meanwhile stays gone."""


class FlowTable:
    """`clock` is the machines' clock, `monotonic` that of the programs."""

    def __init__(self, maps: Mapping[str, BpfMap], *, clock: Callable[[], int], monotonic: Callable[[], int]) -> None:
        self._maps = maps
        self._clock = clock
        self._monotonic = monotonic
        self._lock = Lock()
        """Held from the reading of a piece until its rows are counted: meanwhile nobody else takes any away."""
        self._attribution = Attribution({}, policies=(), floating_ips=())
        self._traffic: Traffic | None = None
        """None until the policies were known in a sweep."""

    @property
    def traffic(self) -> Mapping[Label, Account]:
        """What passed by each policy and floating IP, as of the last sweep that knew the policies (rule B6)."""
        return self._traffic.totals if self._traffic is not None else {}

    def policy_of(self, floating_ip: IPv4Address) -> str:
        """Which policy has that address, as of the last sweep; empty where none has it."""
        return self._attribution.label_of(floating_ip.packed)[0]

    async def sweep(self, settled: Collection[IPv4Address] | None, attribution: Attribution | None = None) -> FlowScan:
        """Look at every flow, take those away that are over, and count what passed.

        `settled`: pods whose ended flows may go, because connection tracking has nothing left of them; None: of all.
        `attribution`: what the policies say now; None where they are not known.
        """
        packed = None if settled is None else frozenset(pod_ip.packed for pod_ip in settled)
        scan = FlowScan(self._monotonic(), self._clock(), packed)
        await asyncio.to_thread(self._sweep, scan, attribution)
        return scan

    def made_and_ended(self) -> dict[bytes, bytes]:
        """How many flows of each pod were made, and ended; another value where one was. Blocking, and not for long."""
        return {key: value for piece in self._maps[MapName.POD_LOADS].pieces() for key, value in piece}

    async def end_pods(self, pod_ips: Iterable[IPv4Address], gone: Container[IPv4Address]) -> None:
        """Take away every flow of these pods, and so what comes back for them (rule B2).

        Connections of those that are not `gone` stay as ended ones: their segments are answered with resets (rule E2).
        """
        pods = {pod_ip.packed: pod_ip in gone for pod_ip in pod_ips}
        await asyncio.to_thread(self._end_pods, pods)

    def end_blocks(self, ending: Mapping[IPv4Address, Collection[int]]) -> None:
        """End what flows with a port of these blocks, before this returns: they are somebody else's (rule Q3)."""
        for name in _FLOWS:
            table = self._maps[name]
            for piece in table.pieces():
                for key, value in piece:
                    if not _is_in(ending, key, value):
                        continue
                    # As it is by now: a piece takes a while, and a flow that was over may have been made anew.
                    value = table.lookup(key) or value
                    if _is_in(ending, key, value):
                        with suppress(FileNotFoundError):
                            ended = value[:_ENDED_AT] + b"\1" + value[_ENDED_AT + 1 :]
                            table.update(key, ended, flags=_EXIST)

    async def end_older(
        self, tracked: Sequence[Tracked], steered: Collection[IPv4Address], ended: set[bytes]
    ) -> list[Tracked]:
        """Make ended flows of connections that are older than what steers them, and say which have to be forgotten.

        Those stay that have a flow which goes on as it is. Only of pods that are `steered` flows are made, and their
        keys are added to `ended`.
        """
        return await asyncio.to_thread(self._end_older, tracked, frozenset(map(int, steered)), ended)

    async def release(self, ended: Collection[bytes]) -> None:
        """Connection tracking has nothing left of these: datagrams take the present verdict (rule E2)."""
        await asyncio.to_thread(self._release, ended)

    # -- in a thread --

    def _end_older(self, tracked: Sequence[Tracked], steered: frozenset[int], ended: set[bytes]) -> list[Tracked]:
        doomed = []
        rows: dict[int, bytes | None] = {}
        for connection in tracked:
            pod = connection.source
            if pod not in rows:
                rows[pod] = self._maps[MapName.SELECTED].lookup(layout.selected_key(IPv4Address(pod), 0))
            key, row = _flow_key(connection), rows[pod]
            if key is None or row is None:
                doomed.append(connection)
                continue
            floating_ip = self._verdict(row, connection.destination)
            known = self._lookup(key)
            if known is not None and self._goes_on(known, row, floating_ip):
                continue
            doomed.append(connection)
            if known is None and floating_ip is not None and pod in steered:
                self._insert_ended(key, row)
                ended.add(key)
        return doomed

    def _verdict(self, row: bytes, destination: int) -> IPv4Address | None:
        """From which address the pod that has this row appears there; None: it is not steered there."""
        rule_set, _ = flow_row.judge_of(row)
        value = self._maps[MapName.RULES].lookup(layout.rule_key(rule_set, IPv4Network(destination)))
        return None if value is None else layout.parse_rule_value(value)

    def _goes_on(self, value: bytes, row: bytes, floating_ip: IPv4Address | None) -> bool:
        flow = flow_row.parse_flow(bytes(16), value)
        is_live = not flow.is_ended and self._monotonic() - flow.last_ns <= flow.life_s * 1_000_000_000
        return is_live and flow.floating_ip == floating_ip and flow.pod_number == flow_row.judge_of(row)[1]

    def _lookup(self, key: bytes) -> bytes | None:
        """A flow that moves is in the new place before it leaves the old one (bpf/table.h)."""
        if key[_PROTOCOL_AT] != socket.IPPROTO_TCP:
            return self._maps[MapName.FLOWS_DATAGRAM].lookup(key)
        places = (MapName.FLOWS_OPEN, MapName.FLOWS_YOUNG, MapName.FLOWS_OPEN)
        return next((value for name in places if (value := self._maps[name].lookup(key)) is not None), None)

    def _insert_ended(self, key: bytes, row: bytes) -> None:
        name = MapName.FLOWS_YOUNG if key[_PROTOCOL_AT] == socket.IPPROTO_TCP else MapName.FLOWS_DATAGRAM
        with suppress(FileExistsError):
            self._maps[name].update(key, flow_row.ended_flow(key, row, now_ns=self._monotonic()), flags=_NO_EXIST)

    def _release(self, ended: Collection[bytes]) -> None:
        for key in ended:
            if key[_PROTOCOL_AT] != socket.IPPROTO_TCP:
                self._maps[MapName.FLOWS_DATAGRAM].delete(key)

    def _sweep(self, scan: FlowScan, attribution: Attribution | None) -> None:
        traffic = self._begin_counting(attribution)
        for name in _FLOWS:
            rows = 0
            for piece in self._pieces(name):
                rows += len(piece)
                if traffic is not None:
                    traffic.take(piece)
                for over in scan.take(piece):
                    self._remove(name, over)
            scan.tables[name.removeprefix("flows_")] = rows, self._maps[name].info.max_entries
        if traffic is not None:
            with self._lock:
                changes = traffic.finish()
            TrafficMap(self._maps[MapName.POLICY_TRAFFIC]).store(changes)
        self._spare(scan)

    def _begin_counting(self, attribution: Attribution | None) -> Traffic | None:
        if attribution is None:
            return None
        with self._lock:
            if self._traffic is None:
                self._traffic = Traffic(TrafficMap(self._maps[MapName.POLICY_TRAFFIC]).load(attribution))
            self._attribution = attribution
            self._traffic.begin(attribution)
            for piece in self._maps[MapName.DEPARTED_FLOWS].take_all():
                self._traffic.depart(piece)
        return self._traffic

    def _pieces(self, name: str) -> Iterator[list[tuple[bytes, bytes]]]:
        """The lock is held while the caller works on one."""
        pieces = self._maps[name].pieces()
        while True:
            with self._lock:
                piece = next(pieces, None)
                if piece is None:
                    return
                yield piece

    def _end_pods(self, pods: Mapping[bytes, bool]) -> None:
        for name in _FLOWS:
            for piece in self._pieces(name):
                for key, value in piece:
                    if (is_gone := pods.get(key[:4])) is None:
                        continue
                    flow = flow_row.parse_flow(key, value)
                    if is_gone or flow.protocol != socket.IPPROTO_TCP:
                        self._remove(name, Over(key, value, _mirror_key(key, value), key[:4], flow.pod_number))
                    elif not flow.is_ended:
                        with suppress(FileNotFoundError):
                            self._maps[name].update(key, flow_row.ended(flow, now_ns=self._monotonic()), flags=_EXIST)

    def _remove(self, name: str, over: Over) -> None:
        if self._traffic is not None:
            self._traffic.end(over.key, over.value)
        for mirrors in _MIRRORS[name]:
            mirror = self._maps[mirrors].lookup(over.mirror)
            # It may have the port of another flow by now.
            if mirror is not None and mirror[8:14] == over.key[:4] + over.key[8:10]:
                self._maps[mirrors].delete(over.mirror)
        self._maps[name].delete(over.key)
        self._clear_hints(over.mirror)

    def _clear_hints(self, mirror: bytes) -> None:
        """The port is probably free: bits are only hints, and the programs may write beside this (rule Q4)."""
        remote_ip, floating_ip, remote_port, nat_port, protocol = struct.unpack("=4s4s2s2sB3x", mirror)
        offset = int.from_bytes(nat_port, "big") - FIRST_PORT
        if offset < 0:
            return  # Of a flow that never had a port (rule E3).
        block = offset // PORTS_PER_BLOCK
        for number, bit in ((block, offset % PORTS_PER_BLOCK), (_FULL_BLOCKS + block // 64, block % 64)):
            key = struct.pack("=4s4s2sHB3x", remote_ip, floating_ip, remote_port, number, protocol)
            hints = self._maps[MapName.PORT_HINTS]
            word = int.from_bytes(hints.lookup(key) or b"", "little")
            if word >> bit & 1:
                hints.update(key, (word & ~(1 << bit)).to_bytes(8, "little"))

    def _spare(self, scan: FlowScan) -> None:
        """Make up for flows that ended unseen: evicted, or swept (rule B4); forget pods that have none."""
        spares = self._maps[MapName.POD_SPARES]
        for key, value in self.made_and_ended().items():
            made, ended = struct.unpack("=QQ", value)
            (number,) = struct.unpack("=I", key[4:])
            present = scan.pods.get((key[:4], number), 0)
            spare = max(0, made - ended - present)
            if spare:
                spares.update(key, spare.to_bytes(8, "little"))


def _is_in(ending: Mapping[IPv4Address, Collection[int]], key: bytes, value: bytes) -> bool:
    """A flow that goes on, with a port of one of these blocks."""
    flow = flow_row.parse_flow(key, value)
    return block_of(flow.nat_port) in ending.get(flow.floating_ip, ()) and not flow.is_ended


def _flow_key(connection: Tracked) -> bytes | None:
    """As the connection's packets are at the steering device (rule B1); None of protocols that make no flow."""
    ends = endpoints(connection)
    if ends is None or ends.protocol not in (socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMP):
        return None
    pod, remote = (address.to_bytes(4, "big") for address in (connection.source, connection.destination))
    return flow_row.flow_key(pod, remote, ends.port, ends.remote_port, ends.protocol)


def _mirror_key(key: bytes, value: bytes) -> bytes:
    flow = flow_row.parse_flow(key, value)
    return struct.pack(
        "=4s4s2s2sB3x",
        flow.remote.packed,
        flow.floating_ip.packed,
        key[10:12],
        flow.nat_port.to_bytes(2, "big"),
        flow.protocol,
    )
