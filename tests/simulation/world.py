"""A deterministic world for machines: virtual time, an event heap, and a network with seeded faults.

It drives anything that follows `service.model.machine.Machine`. All randomness comes from one seed, all order from
(time, sequence) on one heap, so a seed is a whole history: `World.trace_hash` of two runs must be equal.

A paused node is a SIGSTOPped process: its timers stand still, its socket buffer fills (and overflows), and when it
goes on it reads the buffer first and runs its late timers afterwards, as an event loop does. A stopped node is a
crashed one: what arrives is lost.
"""

import hashlib
import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from service.model.errors import PeerError
from service.model.machine import Address, Machine, Send, Source

MS = 1_000_000
SECOND = 1_000 * MS
SOCKET_BUFFER_DATAGRAMS = 256
INSTANT_EVENTS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Link:
    """One direction between two nodes. Delays are drawn evenly, so a spread larger than the gap reorders."""

    loss: float = 0.0
    duplication: float = 0.0
    delay_ns_min: int = 200_000
    delay_ns_max: int = 800_000


@dataclass(frozen=True, slots=True)
class Clock:
    """What a node reads at a true time: true * (1 + drift_ppm / 1e6) + offset. Offsets and rates may be wrong."""

    offset_ns: int = 0
    drift_ppm: int = 0

    def read(self, true_ns: int) -> int:
        return true_ns + true_ns * self.drift_ppm // 1_000_000 + self.offset_ns

    def true_ns(self, local_ns: int) -> int:
        """The first true time at which the clock reads at least `local_ns`."""
        guess = (local_ns - self.offset_ns) * 1_000_000 // (1_000_000 + self.drift_ppm)
        while self.read(guess) < local_ns:
            guess += 1
        return guess


@dataclass(slots=True)
class Node:
    """One process of the world: a machine, its address and what befell it."""

    key: str
    """Its name in the world: the node's name, unless two processes use that."""
    name: str
    address: Address
    machine: Machine
    start_id: int
    clock: Clock = Clock()
    paused: bool = False
    stopped: bool = False
    buffer: list[tuple[Source, bytes]] = field(default_factory=list)
    wake_ns: int | None = None
    outputs: list[tuple[int, Any]] = field(default_factory=list)
    """(true time, output) of every output other than Send."""
    sent: int = 0
    sent_bytes: int = 0
    malformed: int = 0


class World:
    """Nodes, links between them, and the one clock that is true."""

    def __init__(self, seed: int | str, *, link: Link = Link()) -> None:
        self.seed = seed
        self.random = random.Random(f"{seed}/world")
        self.now_ns = 0
        self.nodes: dict[str, Node] = {}
        self.link = link
        self.links: dict[tuple[str, str], Link] = {}
        self.cuts: set[tuple[str, str]] = set()
        self.on_output: Callable[[Node, Any], None] = lambda node, output: None
        """Called for each output other than Send: execute it here, or check an invariant."""
        self.on_send: Callable[[Node, Send], None] = lambda node, send: None
        self.after_event: Callable[[], None] = lambda: None
        """Called after every event; a place for invariants."""
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0
        self._instant_events = 0
        self._by_address: dict[Address, str] = {}
        self._masquerades: dict[str, Address] = {}
        self._trace = hashlib.blake2b(digest_size=16)

    # Building and breaking

    def random_for(self, name: str) -> random.Random:
        """A generator for one node, independent of the order in which nodes are made."""
        return random.Random(f"{self.seed}/{name}")

    def add(
        self,
        name: str,
        address: Address,
        machine: Machine,
        *,
        key: str | None = None,
        start_id: int = 1,
        clock: Clock = Clock(),
    ) -> Node:
        """Start a node, or start it again in a new process with the machine given (whatever ran before is gone)."""
        key = key or name
        node = Node(key=key, name=name, address=address, machine=machine, start_id=start_id, clock=clock)
        previous = self.nodes.get(key)
        if previous is not None:
            previous.stopped = True
            node.outputs = previous.outputs
        self.nodes[key] = node
        self._by_address[address] = key
        self.settle(node)
        return node

    def masquerade(self, key: str, address: Address, *, is_reachable: bool = True) -> None:
        """From now on what the node sends comes from this address, and what is sent there reaches it.

        Unless `is_reachable`, nothing that is sent to its own address does.
        """
        self._by_address.pop(self._masquerades.get(key, address), None)
        self._masquerades[key] = address
        self._by_address[address] = key
        if not is_reachable:
            self._by_address.pop(self.nodes[key].address, None)

    def stop(self, name: str) -> None:
        """Crash: nothing leaves or enters any more."""
        self.nodes[name].stopped = True

    def pause(self, name: str) -> None:
        self.nodes[name].paused = True

    def resume(self, name: str) -> None:
        node = self.nodes[name]
        node.paused = False
        if node.stopped:
            return
        buffered, node.buffer = node.buffer, []
        for source, payload in buffered:
            self._receive(node, source, payload)
        self._advance(node)

    def cut(self, sources: list[str], targets: list[str], *, both_ways: bool = True) -> None:
        """Lose everything from `sources` to `targets` (and back, unless told otherwise), silently."""
        for source in sources:
            for target in targets:
                self.cuts.add((source, target))
                if both_ways:
                    self.cuts.add((target, source))

    def heal(self) -> None:
        self.cuts.clear()

    def settle(self, node: Node) -> None:
        """Execute a node's outputs and arm its timer. Call it after touching a machine from outside."""
        for output in node.machine.drain():
            if isinstance(output, Send):
                self._send(node, output)
            else:
                node.outputs.append((self.now_ns, output))
                self._note("output", node.key, repr(output).encode())
                self.on_output(node, output)
        self._arm(node)

    # Time

    def local_ns(self, name: str) -> int:
        return self.nodes[name].clock.read(self.now_ns)

    def at(self, true_ns: int, action: Callable[[], None]) -> None:
        """Do something at a true time (not before now)."""
        self._sequence += 1
        heapq.heappush(self._heap, (max(true_ns, self.now_ns), self._sequence, action))

    def after(self, delay_ns: int, action: Callable[[], None]) -> None:
        self.at(self.now_ns + delay_ns, action)

    def run_until(self, true_ns: int, *, condition: Callable[[], bool] | None = None) -> bool:
        """Run events up to a time, or until the condition holds after one. Says whether it came to hold."""
        if condition is not None and condition():
            return True
        while self._heap and self._heap[0][0] <= true_ns:
            when_ns, _, action = heapq.heappop(self._heap)
            # A machine that leaves a deadline in the past would keep time from passing.
            self._instant_events = self._instant_events + 1 if when_ns == self.now_ns else 0
            assert self._instant_events < INSTANT_EVENTS_MAX, f"time stands still at {when_ns} (seed {self.seed})"
            self.now_ns = when_ns
            action()
            self.after_event()
            if condition is not None and condition():
                return True
        self.now_ns = true_ns
        return False

    def run_for(self, span_ns: int, *, condition: Callable[[], bool] | None = None) -> bool:
        return self.run_until(self.now_ns + span_ns, condition=condition)

    def outputs(self, kind: type) -> Iterator[tuple[int, str, Any]]:
        """(true time, node, output) of one type of output, node by node."""
        for node in self.nodes.values():
            for when_ns, output in node.outputs:
                if isinstance(output, kind):
                    yield when_ns, node.key, output

    def trace_hash(self) -> str:
        """Identity of everything that was delivered and put out so far."""
        return self._trace.hexdigest()

    # The network

    def _send(self, node: Node, send: Send) -> None:
        node.sent += 1
        node.sent_bytes += len(send.payload)
        self.on_send(node, send)
        target = self._by_address.get(send.to)
        if target is None or (node.key, target) in self.cuts:
            return
        link = self.links.get((node.key, target), self.link)
        source = Source(self._masquerades.get(node.key, node.address), node.name, node.start_id)
        copies = 2 if self.random.random() < link.duplication else 1
        for _ in range(copies):
            if self.random.random() < link.loss:
                continue
            delay_ns = self.random.randint(link.delay_ns_min, link.delay_ns_max)
            self.after(delay_ns, lambda: self._deliver(node, source, target, send))

    def _deliver(self, sender: Node, source: Source, target: str, send: Send) -> None:
        node = self.nodes[target]
        # A cut also swallows what is under way, and an address may have moved to another process meanwhile.
        if (
            node.stopped
            or send.to not in (node.address, self._masquerades.get(target))
            or (sender.key, target) in self.cuts
        ):
            return
        if node.paused:
            if len(node.buffer) < SOCKET_BUFFER_DATAGRAMS:
                node.buffer.append((source, send.payload))
            return
        self._receive(node, source, send.payload)

    def _receive(self, node: Node, source: Source, payload: bytes) -> None:
        self._note("receive", node.key, source.node.encode(), payload)
        try:
            node.machine.receive(source, payload, now_ns=node.clock.read(self.now_ns))
        except PeerError:
            node.malformed += 1
        self.settle(node)

    # Timers

    def _arm(self, node: Node) -> None:
        deadline_ns = node.machine.deadline_ns()
        if deadline_ns is None:
            node.wake_ns = None
            return
        wake_ns = max(node.clock.true_ns(deadline_ns), self.now_ns)
        if wake_ns == node.wake_ns:
            return
        node.wake_ns = wake_ns
        self.at(wake_ns, lambda: self._wake(node, wake_ns))

    def _wake(self, node: Node, wake_ns: int) -> None:
        # A timer that was armed anew meanwhile is stale; a paused process keeps its timer until it goes on.
        if node.wake_ns == wake_ns and not node.paused:
            self._advance(node)

    def _advance(self, node: Node) -> None:
        if node.stopped or self.nodes[node.key] is not node:
            return
        node.wake_ns = None
        self._note("advance", node.key)
        node.machine.advance(now_ns=node.clock.read(self.now_ns))
        self.settle(node)

    def _note(self, kind: str, name: str, *parts: bytes) -> None:
        self._trace.update(f"{self.now_ns} {kind} {name} ".encode())
        for part in parts:
            self._trace.update(part)
