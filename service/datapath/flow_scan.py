"""What one look at all flows finds: which are over, which ports are in use, and how many flows each pod has. Pure."""

import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import NamedTuple

from service.datapath.flow_row import FLOW
from service.port_block.block import block_of

_KEY = struct.Struct("=4s4s2s2sB3x")
_TCP, _CLOSING = 6, 4
TIME_WAIT_NS = 60_000_000_000
"""A closed port is not free before (bpf/port.h)."""


class Remote(NamedTuple):
    """One side of the outside, as ports are counted: each floating IP's ports are there once for each."""

    floating_ip: bytes
    address: bytes
    port: bytes
    protocol: int


class Over(NamedTuple):
    """A flow that can be taken away: its row, and the mirror's key."""

    key: bytes
    value: bytes
    mirror: bytes
    pod_ip: bytes
    pod_number: int


@dataclass(slots=True)
class FlowScan:
    """`now_ns` and `begun_ns`: CLOCK_MONOTONIC, of the programs, and the machine's clock, both when it began."""

    now_ns: int
    begun_ns: int
    settled: frozenset[bytes] | None = None
    """Pods whose ended datagram flows may go; None: those of all. Connection tracking has nothing of theirs left."""
    taken: Counter[Remote] = field(default_factory=Counter)
    """Ports in use, by remote."""
    ports: dict[bytes, set[int]] = field(default_factory=dict)
    """Ports, and ICMP ids, in use towards anybody; by floating IP."""
    blocks: dict[bytes, set[int]] = field(default_factory=dict)
    """Blocks with a flow that lives, has ended, or is in TIME_WAIT; by floating IP."""
    pods: Counter[tuple[bytes, int]] = field(default_factory=Counter)
    """Flows by pod address and number."""
    flows: int = 0
    tables: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Rows in each table, those of flows that were over included, and how many it has room for."""

    def take(self, entries: Iterable[tuple[bytes, bytes]]) -> Iterator[Over]:
        """Count these flows, and yield those that are over."""
        for key, value in entries:
            pod_ip, remote_ip, _, remote_port, protocol = _KEY.unpack(key)
            _, last_ns, life_s, number, _, floating_ip, _, nat_port, state, is_ended, *_ = FLOW.unpack(value)
            silent_ns = self.now_ns - last_ns
            if silent_ns > life_s * 1_000_000_000 or (is_ended and protocol != _TCP and self._is_settled(pod_ip)):
                mirror = struct.pack("=4s4s2s2sB3x", remote_ip, floating_ip, remote_port, nat_port, protocol)
                yield Over(key, value, mirror, pod_ip, number)
                if state != _CLOSING or silent_ns > TIME_WAIT_NS:
                    continue
            self.flows += 1
            self.pods[pod_ip, number] += 1
            port = int.from_bytes(nat_port, "big")
            block = block_of(port)
            if block is not None:
                # Without a port: a connection that is older than the selection of its pod (rule E3).
                self.taken[Remote(floating_ip, remote_ip, remote_port, protocol)] += 1
                self.ports.setdefault(floating_ip, set()).add(port)
                self.blocks.setdefault(floating_ip, set()).add(block)

    def _is_settled(self, pod_ip: bytes) -> bool:
        return self.settled is None or pod_ip in self.settled

    def without_flows(self, pod_ips: Iterable[IPv4Address]) -> list[IPv4Address]:
        """Those that have none, not even one that has ended."""
        present = {pod_ip for pod_ip, _ in self.pods}
        return [pod_ip for pod_ip in pod_ips if pod_ip.packed not in present]

    def busiest_pod(self) -> tuple[IPv4Address, int] | None:
        """The pod that has most flows, and how many; None where there is no flow."""
        most = max(self.pods.items(), key=lambda item: item[1], default=None)
        return None if most is None else (IPv4Address(most[0][0]), most[1])

    def busiest(self) -> dict[IPv4Address, tuple[Remote, int]]:
        """Of each floating IP the remote to which most ports are taken, and how many."""
        found: dict[bytes, tuple[Remote, int]] = {}
        for remote, count in self.taken.items():
            if count > found.get(remote.floating_ip, (remote, 0))[1]:
                found[remote.floating_ip] = remote, count
        return {IPv4Address(floating_ip): most for floating_ip, most in found.items()}
