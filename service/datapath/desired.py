"""What the maps shall contain, computed from what is known. Pure: rows in, rows out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from service.datapath import layout
from service.datapath.layout import ClusterFlag, WayKind
from service.model.assignment import Location
from service.model.endpoint import Endpoint
from service.model.gateway_node import Segment
from service.policy.rule_set import RuleSet

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


def way_rows(
    locations: Mapping[IPv4Address, Location],
    segments: Mapping[str, Sequence[Segment]],
    uplinks: Sequence[LocalUplink],
    *,
    node: str,
) -> Rows:
    """The way to each floating IP's holder over a shared segment (rules W1, W2); none where there is no such way."""
    rows = {}
    for floating_ip, location in locations.items():
        token = location.token.packed()
        if location.node == node:
            rows[floating_ip.packed] = layout.way_value(token, WayKind.LOCAL, 0, layout.NO_MAC, layout.NO_MAC)
            continue
        uplink = uplink_for(uplinks, floating_ip)
        theirs = next((segment for segment in segments.get(location.node, ()) if floating_ip in segment.network), None)
        if uplink is not None and theirs is not None:
            rows[floating_ip.packed] = layout.way_value(token, WayKind.L2, uplink.ifindex, uplink.mac, theirs.mac)
    return rows


def member_rows(segments: Mapping[str, Sequence[Segment]], uplinks: Sequence[LocalUplink], *, node: str) -> Rows:
    """Whose gratuitous ARP is believed, per uplink."""
    rows = {}
    for name, theirs in segments.items():
        if name == node:
            continue
        for segment in theirs:
            for uplink in uplinks:
                if uplink.address.network == segment.network:
                    rows[layout.member_key(uplink.ifindex, segment.mac)] = layout.MEMBER_VALUE
    return rows


def rule_rows(rule_set: RuleSet) -> Rows:
    """One row for each destination; equal sets have one id, so they share their rows."""
    return {
        layout.rule_key(rule_set.id, network): layout.rule_value(floating_ip)
        for network, floating_ip in rule_set.entries
    }


def local_endpoint_rows(rule_sets: Mapping[IPv4Address, RuleSet], egw_ifindex: int) -> Rows:
    """This node's own pods, for the floating IPs it holds itself."""
    return {
        layout.endpoint_key(pod_ip, egw_ifindex): layout.endpoint_value(rule_set.id, layout.NO_MAC)
        for pod_ip, rule_set in rule_sets.items()
    }


def remote_endpoint_rows(endpoint: Endpoint, segments: Sequence[Segment], uplinks: Sequence[LocalUplink]) -> Rows:
    """A pod of another node: accepted on each shared segment from that node's MAC there, and no other (rule G4)."""
    rows = {}
    for uplink in uplinks:
        for segment in segments:
            if segment.network == uplink.address.network and segment.mac in endpoint.macs:
                key = layout.endpoint_key(endpoint.pod_ip, uplink.ifindex)
                rows[key] = layout.endpoint_value(endpoint.rule_set, segment.mac)
    return rows
