"""What of a node suits an agent and what does not, each finding with the mend (`egressgw check`). Pure judgement.

Grave is what an agent would refuse to start for, or what would make it serve nobody. The rest is told because it is
asked for at night.
"""

import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from service.network.cni import unsupported_cni
from service.network.link import Interface

TUNNEL_BYTES = 50
"""What the tunnel takes of each packet (IPv4, UDP, VXLAN and the inner Ethernet header)."""
_STRICT = "1"
_CROWDED = 0.8
"""Of connection tracking: in a burst it is full, and new connections are dropped, by nobody of ours."""


class Level(StrEnum):
    """How grave a finding is."""

    GOOD = "ok"
    DOUBTFUL = "warn"
    GRAVE = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """Of one topic."""

    topic: str
    level: Level
    said: str
    mend: str = ""
    """What to do about it; empty where it is good."""


def judge_uplinks(uplinks: Sequence[Interface]) -> Finding:
    """Those that carry a default route or are configured."""
    if not uplinks:
        said = "no interface with an IPv4 address carries a default route"
        return Finding("uplinks", Level.GRAVE, said, "name them in datapath.uplinks")
    dead = [uplink.name for uplink in uplinks if not uplink.carrier]
    if dead:
        return Finding("uplinks", Level.DOUBTFUL, f"{', '.join(dead)}: no carrier", "plug it in, or take it out")
    told = ", ".join(f"{uplink.name} ({', '.join(map(str, uplink.addresses))})" for uplink in uplinks)
    return Finding("uplinks", Level.GOOD, told)


def judge_mtu(uplinks: Sequence[Interface], pods: Sequence[Interface], transport: str) -> Finding:
    """`pods`: the devices behind which pods are, on this side."""
    if not uplinks:
        return Finding("mtu", Level.DOUBTFUL, "there is no uplink to compare with", "see uplinks")
    least = min(uplink.mtu for uplink in uplinks)
    room = least - (TUNNEL_BYTES if transport != "l2" else 0)
    too_big = sorted({pod.mtu for pod in pods if pod.mtu > room})
    if too_big:
        said = (
            f"pods send up to {too_big[-1]} bytes, and the way to a gateway node takes {room} (transport {transport})"
        )
        mend = f"give pods an MTU of {room}, or let path MTU discovery do it: what is too big is answered with ICMP"
        return Finding("mtu", Level.DOUBTFUL, said, mend)
    return Finding("mtu", Level.GOOD, f"uplinks {least}, pods {max((pod.mtu for pod in pods), default=least)}")


def judge_reverse_path(values: Mapping[str, str], uplinks: Sequence[Interface]) -> Finding:
    """`values`: net.ipv4.conf.NAME.rp_filter of `all` and the uplinks; of the two the kernel takes the greater."""
    strict = [uplink.name for uplink in uplinks if max(values.get("all", "0"), values.get(uplink.name, "0")) == _STRICT]
    if strict and len(uplinks) > 1:
        said = f"strict on {', '.join(strict)}, and this node has several uplinks"
        mend = "net.ipv4.conf.NAME.rp_filter=2 there, if what arrives by one leaves by another for anything else"
        return Finding("rp_filter", Level.DOUBTFUL, said, mend)
    return Finding("rp_filter", Level.GOOD, f"strict on {', '.join(strict)}" if strict else "not strict on uplinks")


def judge_ports(refused: Mapping[str, int]) -> Finding:
    """`refused`: ports that could not be had, such as `9640/udp`, each with its errno."""
    taken = sorted(port for port, code in refused.items() if code == errno.EADDRINUSE)
    if taken:
        said = f"{', '.join(taken)}: in use"
        return Finding("ports", Level.GRAVE, said, "stop what has them (ss -lntup), or set `ports` on all members")
    if refused:
        told = ", ".join(f"{port}: {errno.errorcode.get(code, code)}" for port, code in sorted(refused.items()))
        return Finding("ports", Level.DOUBTFUL, told, "run this on the node itself, as root")
    return Finding("ports", Level.GOOD, "free")


def judge_clock(is_synchronised: bool | None) -> Finding:
    """None: the kernel does not say."""
    if is_synchronised:
        return Finding("clock", Level.GOOD, "synchronised")
    said = "not synchronised" if is_synchronised is not None else "the kernel does not say whether it is synchronised"
    mend = "run chrony or ntpd: leases need no wall clock, but audit records and orders are told apart by it"
    return Finding("clock", Level.DOUBTFUL, said, mend)


def judge_hooks(has_tcx: bool, others: Mapping[str, int]) -> Finding:
    """`others`: programs of others on the ingress and egress hooks of each uplink, ours not counted."""
    crowded = {name: count for name, count in others.items() if count}
    kind = "tcx" if has_tcx else "tc filters (the kernel has no tcx: Linux 6.6)"
    if crowded:
        told = ", ".join(f"{count} on {name}" for name, count in sorted(crowded.items()))
        mend = "find out whose they are (bpftool net): ours run first, and theirs do not see what ours send on"
        return Finding("hooks", Level.DOUBTFUL, f"{kind}; programs of others: {told}", mend)
    return Finding("hooks", Level.GOOD, kind)


def judge_cni(devices: Iterable[str], *, is_tried: bool) -> Finding:
    """Whether it is one beside which nothing was tested (rule N2)."""
    name, device = unsupported_cni(devices)
    if not name:
        return Finding("cni", Level.GOOD, "none that enforces in eBPF or OVS")
    said = f"{name} (device {device}) enforces in eBPF or OVS, and was not tested with"
    mend = "the agent steers nothing here unless datapath.unsupported_cni is `try`"
    return Finding("cni", Level.DOUBTFUL if is_tried else Level.GRAVE, said, mend)


def judge_connection_tracking(entries: int, room: int) -> Finding:
    """0 for `room`: the kernel has none loaded yet."""
    if room and entries > room * _CROWDED:
        said = f"{entries} of {room} entries are in use"
        return Finding("conntrack", Level.DOUBTFUL, said, "raise net.netfilter.nf_conntrack_max")
    return Finding("conntrack", Level.GOOD, f"{entries} of {room} entries" if room else "not loaded yet")


def judge_refusals(topic: str, refusals: Sequence[str], good: str) -> Finding:
    """What an agent would refuse to start for, in its own words, which say the mend."""
    if refusals:
        return Finding(topic, Level.GRAVE, "; ".join(refusals), "as it says")
    return Finding(topic, Level.GOOD, good)
