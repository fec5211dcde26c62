"""Leader, owners and gateways of port blocks in one process, each as if it had a machine of its own.

Their machines are the product's, and so are the codecs and the envelope: each datagram is sealed, opened and decoded.
Time is of two kinds. Waiting is virtual: links, timers, and how long a process is busy pass on a clock of ours. Work is
measured: what a step takes in CPU time keeps its process busy for so long on that clock, and no other process. So a
time from here is what passes where nothing else runs on the machines.

As in the product, a step reads up to `BATCH_MAX` datagrams, and timers are rounded up to whole milliseconds. Left out
are sockets (nothing is lost), the first contact of two processes, and what agents write into maps.
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address
from itertools import count
from typing import Any

from loadtest.scale.steps import Steps
from service.model.errors import PeerError
from service.model.lease import Token
from service.model.machine import Address, Machine, Send, Source
from service.port_block.gateway import GatewayBlocks
from service.port_block.message import Receiver, receiver_of
from service.port_block.owner import OwnerBlocks
from service.wire.envelope import Envelope
from service.wire.sealed_socket import BATCH_MAX

LINK_NS = 200_000
"""One way between two machines."""
MS = 1_000_000
DATAGRAMS, TIMER = f"datagrams, up to {BATCH_MAX}", "a timer"
"""Steps."""
_KEY = b"\x11" * 32


@dataclass(frozen=True, slots=True)
class _Datagram:
    origin: Address
    data: bytes
    source: Source | None = None
    """Of what a process says to itself: that is not sealed."""


@dataclass(slots=True)
class Process:
    """One process: its machine, and what its event loop has to do."""

    name: str
    address: Address
    start_id: int
    machine: Machine
    handle: Callable[[Any], None]
    """Takes each output that is no Send."""
    steps: Steps
    free_ns: int = 0
    """Its loop is busy until then."""
    soon: list[tuple[str, Callable[[], None]]] = field(default_factory=list)
    """Further steps that are due at once."""
    inbox: deque[_Datagram] = field(default_factory=deque)
    outbox: list[tuple[Address, _Datagram]] = field(default_factory=list)
    """What the present step sends."""
    is_reading: bool = False
    deadline_ns: int | None = None
    """What the timer is armed for."""
    wake_ns: int | None = None
    """When it comes."""
    envelope: Envelope = field(init=False)

    def __post_init__(self) -> None:
        self.envelope = Envelope((_KEY,), cluster="default", node=self.name, start_id=self.start_id, purpose="state")


class Network:
    """All processes, and the one clock of theirs."""

    def __init__(self, now_ns: int) -> None:
        self.now_ns = now_ns
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()
        self._processes: dict[Address, Process] = {}

    def add(self, process: Process) -> None:
        """In place of whichever had its address, which is gone."""
        process.free_ns = self.now_ns
        self._processes[process.address] = process

    def step(self, process: Process, name: str, work: Callable[[], None]) -> None:
        """Take a step on the process's loop, now or when it is free, and what the step wants done at once."""
        self._take_step(process, name, work)
        while process.soon:
            self._take_step(process, *process.soon.pop(0))
        self._arm(process)

    def run(self, span_ns: int, *, is_over: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass, or until something is so after an event. Says whether it came to be so."""
        until_ns = self.now_ns + span_ns
        while not is_over():
            if not self._events or self._events[0][0] > until_ns:
                self.now_ns = until_ns
                return False
            self.now_ns, _, happen = heapq.heappop(self._events)
            happen()
        return True

    # -- inside --

    def _at(self, when_ns: int, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(when_ns, self.now_ns), next(self._order), happen))

    def _take_step(self, process: Process, name: str, work: Callable[[], None]) -> None:
        ms = process.steps.take(name, partial(self._work, process, work))
        process.free_ns = max(process.free_ns, self.now_ns) + round(ms * MS)
        for to, datagram in process.outbox:
            delay_ns = 0 if to == process.address else LINK_NS
            self._at(process.free_ns + delay_ns, partial(self._arrive, to, datagram))
        process.outbox.clear()

    def _work(self, process: Process, work: Callable[[], None]) -> None:
        work()
        self._drain(process)

    def _drain(self, process: Process) -> None:
        while outputs := process.machine.drain():
            for output in outputs:
                if isinstance(output, Send):
                    self._send(process, output)
                else:
                    process.handle(output)

    def _send(self, process: Process, output: Send) -> None:
        target = self._processes.get(output.to)
        if target is None:
            return
        if target is process:
            source = Source(process.address, process.name, process.start_id)
            datagram = _Datagram(process.address, output.payload, source)
        else:
            sealed = process.envelope.seal(output.payload, receiver=target.start_id)
            datagram = _Datagram(process.address, sealed)
        process.outbox.append((output.to, datagram))

    def _arrive(self, to: Address, datagram: _Datagram) -> None:
        process = self._processes[to]
        process.inbox.append(datagram)
        if not process.is_reading:
            process.is_reading = True
            self._at(process.free_ns, partial(self._read, process))

    def _read(self, process: Process) -> None:
        if self._is_gone(process):
            return
        if process.free_ns > self.now_ns:
            self._at(process.free_ns, partial(self._read, process))
            return
        self.step(process, DATAGRAMS, partial(self._take_datagrams, process))
        process.is_reading = bool(process.inbox)
        if process.is_reading:
            self._at(process.free_ns, partial(self._read, process))

    def _take_datagrams(self, process: Process) -> None:
        for _ in range(min(BATCH_MAX, len(process.inbox))):
            datagram = process.inbox.popleft()
            try:
                self._take(process, datagram)
            except PeerError:
                # Meant for the process that was here before.
                continue
            self._drain(process)

    def _take(self, process: Process, datagram: _Datagram) -> None:
        source, payload = datagram.source, datagram.data
        if source is None:
            opened = process.envelope.open(datagram.data)
            source, payload = Source(datagram.origin, opened.node, opened.start_id), opened.payload
        process.machine.receive(source, payload, now_ns=self.now_ns)

    def _arm(self, process: Process) -> None:
        deadline_ns = process.machine.deadline_ns()
        if deadline_ns == process.deadline_ns:
            return
        process.deadline_ns, process.wake_ns = deadline_ns, None
        if deadline_ns is not None:
            left_ms = -((process.free_ns - deadline_ns) // MS)
            process.wake_ns = process.free_ns + max(0, left_ms) * MS
            self._at(process.wake_ns, partial(self._wake, process, process.wake_ns))

    def _wake(self, process: Process, wake_ns: int) -> None:
        if process.wake_ns != wake_ns or self._is_gone(process):
            return
        if process.free_ns > self.now_ns:
            self._at(process.free_ns, partial(self._wake, process, wake_ns))
            return
        process.deadline_ns = process.wake_ns = None
        self.step(process, TIMER, lambda: process.machine.advance(now_ns=self.now_ns))

    def _is_gone(self, process: Process) -> bool:
        return self._processes[process.address] is not process


class Agent:
    """Both machines of one node on one socket."""

    def __init__(self, owner: OwnerBlocks, gateway: GatewayBlocks) -> None:
        self.owner, self.gateway = owner, gateway

    def receive(self, source: Source, payload: bytes, *, now_ns: int) -> None:
        """Of `Machine`."""
        machine = self.owner if receiver_of(payload) is Receiver.OWNER else self.gateway
        machine.receive(source, payload, now_ns=now_ns)

    def advance(self, *, now_ns: int) -> None:
        """Of `Machine`."""
        self.owner.advance(now_ns=now_ns)
        self.gateway.advance(now_ns=now_ns)

    def deadline_ns(self) -> int | None:
        """Of `Machine`."""
        deadlines = self.owner.deadline_ns(), self.gateway.deadline_ns()
        return min((ns for ns in deadlines if ns is not None), default=None)

    def drain(self) -> list[Any]:
        """Of `Machine`."""
        return [*self.owner.drain(), *self.gateway.drain()]


class LeasesOfNode:
    """What a gateway machine reads of its kernel: which addresses are leased here. No packet was ever seen."""

    def __init__(self) -> None:
        self.held: dict[IPv4Address, Token] = {}

    def tenure(self, floating_ip: IPv4Address) -> Token | None:
        """Of `Kernel`."""
        return self.held.get(floating_ip)

    def last_packet_ns(self, floating_ip: IPv4Address, block: int) -> int | None:
        """Of `Kernel`."""
        return None
