"""A row of the tables of flows, and what is asked where one is made: the Python side of bpf/layout.h."""

import hashlib
import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from service.datapath import layout

_ENDED_S = 240
"""Of silence, after which an ended flow goes (bpf/life.h)."""


def flow_key(pod: bytes, remote: bytes, port: int, remote_port: int, protocol: int) -> bytes:
    """Ports in host order; ICMP: the id, and no remote port."""
    return struct.pack("=4s4s2s2sB3x", pod, remote, port.to_bytes(2, "big"), remote_port.to_bytes(2, "big"), protocol)


def flow_settings(boot_id: str, ephemeral: range, *, is_direct: bool) -> bytes:
    """Where the search for a port begins, another one after a reboot (rule Q4), and what an ephemeral port is (D4)."""
    seed = int.from_bytes(hashlib.blake2b(boot_id.encode(), digest_size=8).digest(), "big")
    return layout.flow_settings_value(seed, ephemeral, is_direct=is_direct)


def judge_of(selected: bytes) -> tuple[int, int]:
    """(rule set, the pod's number) of a row of `selected`."""
    rule_set, _, number = struct.unpack("=QII", selected)
    return rule_set, number


FLOW = struct.Struct("=QQIII4sI2sBBIIQQQQI6s6s")
"""A row of the tables of flows (`struct flow`)."""


@dataclass(frozen=True, slots=True)
class FlowRow:
    """One flow of the table, as the kernel keeps it. Times are CLOCK_MONOTONIC."""

    pod: IPv4Address
    pod_port: int
    remote: IPv4Address
    remote_port: int
    protocol: int
    floating_ip: IPv4Address
    nat_port: int
    rule_set: int
    last_ns: int
    life_s: int
    pod_number: int
    state: int
    is_ended: bool
    acked: int
    ifindex: int
    out_packets: int = 0
    in_packets: int = 0
    out_bytes: int = 0
    in_bytes: int = 0
    out_until_ns: int = 0
    back_until_ns: int = 0
    back_ifindex: int = 0
    pod_mac: bytes = bytes(6)
    node_mac: bytes = bytes(6)

    def value(self) -> bytes:
        """The row without its key."""
        return FLOW.pack(
            self.rule_set,
            self.last_ns,
            self.life_s,
            self.pod_number,
            self.ifindex,
            self.floating_ip.packed,
            self.acked,
            self.nat_port.to_bytes(2, "big"),
            self.state,
            self.is_ended,
            self.out_packets,
            self.in_packets,
            self.out_bytes,
            self.in_bytes,
            self.out_until_ns,
            self.back_until_ns,
            self.back_ifindex,
            self.pod_mac,
            self.node_mac,
        )


def parse_flow(key: bytes, value: bytes) -> FlowRow:
    """The reverse of `flow_key` and `FlowRow.value`."""
    pod, remote, pod_port, remote_port, protocol = struct.unpack("=4s4s2s2sB3x", key)
    rule_set, last_ns, life_s, number, ifindex, address, acked, nat_port, state, is_ended, *rest = FLOW.unpack(value)
    return FlowRow(
        IPv4Address(pod),
        int.from_bytes(pod_port, "big"),
        IPv4Address(remote),
        int.from_bytes(remote_port, "big"),
        protocol,
        IPv4Address(address),
        int.from_bytes(nat_port, "big"),
        rule_set,
        last_ns,
        life_s,
        number,
        state,
        bool(is_ended),
        acked,
        ifindex,
        *rest,
    )


def ended(flow: FlowRow, *, now_ns: int) -> bytes:
    """The row of a flow that ends now."""
    return replace(flow, last_ns=now_ns, life_s=min(flow.life_s, _ENDED_S), is_ended=True).value()


def ended_flow(key: bytes, selected: bytes, *, now_ns: int) -> bytes:
    """A flow that has ended before it had a port, of the pod with this row of `selected` (rule E3)."""
    rule_set, number = judge_of(selected)
    blank = parse_flow(key, bytes(FLOW.size))
    return replace(blank, rule_set=rule_set, pod_number=number, last_ns=now_ns, life_s=_ENDED_S, is_ended=True).value()
