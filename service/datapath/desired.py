"""What the maps shall contain, computed from what is known. Pure: rows in, rows out."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from service.datapath import layout
from service.datapath.layout import ClusterFlag, Limits
from service.model.gateway_node import Segment
from service.model.objects import NO_TIMEOUTS
from service.policy.rule_set import RuleSet
from service.settings import DatapathSettings

Rows = dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class LocalUplink:
    """One uplink of this node."""

    ifindex: int
    name: str
    mac: bytes
    address: IPv4Interface
    carrier: bool
    mtu: int = 1500

    @property
    def segment(self) -> Segment:
        """What the others are told of it by gossip."""
        return Segment(self.address.network, self.address.ip, self.mac, self.name)


def uplink_for(uplinks: Sequence[LocalUplink], floating_ip: IPv4Address) -> LocalUplink | None:
    """The uplink on whose segment a floating IP lies, or None."""
    return next((uplink for uplink in uplinks if floating_ip in uplink.address.network), None)


def cluster_rows(pods: Iterable[IPv4Network], services: Iterable[IPv4Network], others: Iterable[IPv4Network]) -> Rows:
    """What is never steered (rule W12). Where one range is listed twice, pods win over services over all others."""
    rows = {}
    for networks, flag in (
        (others, ClusterFlag.NODE),
        (services, ClusterFlag.SERVICE),
        (pods, ClusterFlag.POD),
    ):
        for network in networks:
            rows[layout.cluster_key(network)] = layout.cluster_value(flag)
    return rows


def floating_ip_rows(floating_ips: Iterable[IPv4Address], uplinks: Sequence[LocalUplink]) -> Rows:
    """Every floating IP: also one of another segment, because the fence must know it (rule G2)."""
    rows = {}
    for floating_ip in floating_ips:
        uplink = uplink_for(uplinks, floating_ip)
        ifindex, mac = (uplink.ifindex, uplink.mac) if uplink else (0, layout.NO_MAC)
        rows[floating_ip.packed] = layout.floating_ip_value(ifindex, mac)
    return rows


def uplink_address_rows(uplinks: Iterable[LocalUplink]) -> Rows:
    """This node's own address on each uplink, by which traceroute knows it (rule X3)."""
    return dict(layout.uplink_address_row(uplink.ifindex, uplink.address.ip) for uplink in uplinks)


def member_numbers(names: Iterable[str]) -> dict[str, int]:
    """A number for each member, never 0: of its name, so that the next agent of this node gives it the same one.

    Of two names with one number, which are one pair in 2^32, the later in order gets the next free one.
    """
    numbers: dict[str, int] = {}
    taken = {0}
    for name in sorted(names):
        number = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big")
        while number in taken:
            number = (number + 1) % (1 << 32)
        taken.add(number)
        numbers[name] = number
    return numbers


def member_rows(
    segments: Mapping[str, Sequence[Segment]],
    uplinks: Sequence[LocalUplink],
    numbers: Mapping[str, int],
    *,
    node: str,
) -> Rows:
    """Whose MAC is a member's, per uplink, and which member's (rules W2, H1); `numbers` of `member_numbers`."""
    rows = {}
    for name, theirs in segments.items():
        if name == node:
            continue
        for segment in theirs:
            for uplink in uplinks:
                if uplink.address.network == segment.network:
                    key = layout.member_key(uplink.ifindex, segment.mac)
                    rows[key] = layout.member_value(numbers[name])
    return rows


def rule_rows(rule_set: RuleSet) -> Rows:
    """One row for each destination; equal sets have one id, so they share their rows."""
    values = {address: layout.rule_value(address) for address in (*rule_set.addresses(), None)}
    return {layout.rule_key(rule_set.id, network): values[address] for network, address in rule_set.entries}


def node_limits(settings: DatapathSettings) -> Limits:
    """What holds for every rule set that has no row of its own (rules B3, B4)."""
    timeouts = settings.timeouts
    return Limits(
        tcp_open_s=timeouts.tcp_open_s,
        tcp_new_s=timeouts.tcp_new_s,
        tcp_closing_s=timeouts.tcp_closing_s,
        udp_s=timeouts.udp_s,
        udp_new_s=timeouts.udp_new_s,
        icmp_s=timeouts.icmp_s,
        flows_per_pod=settings.flows_per_pod,
    )


def limit_rows(rule_sets: Iterable[RuleSet], node: Limits) -> Rows:
    """Lifetimes and quota (rules B3, B4): the node's own, and those of each rule set that says something else."""
    own = {
        layout.limits_key(rule_set.id): node.under(rule_set.timeouts).packed()
        for rule_set in rule_sets
        if rule_set.timeouts != NO_TIMEOUTS
    }
    return {layout.limits_key(0): node.packed()} | own
