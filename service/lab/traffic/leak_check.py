"""Judges a capture of the fabric by the promises of the gateway (rule L1, DESIGN section 1). No I/O, no clock.

Three ways to break them: a pod's bare packet for the outside is on a wire, whoever it is for; an IP frame or ARP from a
floating IP comes from another node than its holder, and is not steered to the holder by a member; or it is on the
second uplink. What is within a tunnel is no frame of the floating IP's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network

from service.lab.traffic.frame import ETH_ARP, ETH_IPV4, Frame
from service.model.audit_record import AuditRecord, RecordKind
from service.network.path_probe import PROBE_OUTSIDE


class Leak(StrEnum):
    """How a promise was broken, in the words of the report."""

    POD_BARE = "pod-sourced frame for the outside"
    FLOATING_FROM_STRANGER = "frame from a floating IP by a node that does not hold it"
    FLOATING_FROM_FORMER = "frame from a floating IP by a former holder after the next one has begun"
    STEERED_TO_STRANGER = "frame from a floating IP steered to a node that does not hold it"
    FLOATING_ON_SECOND_UPLINK = "frame from a floating IP on the second uplink"


@dataclass(frozen=True, slots=True)
class Tenure:
    """One node's time as holder of one floating IP, CLOCK_BOOTTIME ns."""

    floating_ip: IPv4Address
    node: str
    from_ns: int
    until_ns: int | None = None
    """None: to the end of the capture."""


@dataclass(frozen=True, slots=True)
class CaptureSite:
    """What the check must know of the lab."""

    node_of_port: dict[str, str]
    """Ports of the first segment -> node; ports that are nobody's here (the router's) hold no floating IP."""
    second_uplink_ports: frozenset[str]
    macs_of_node: dict[str, tuple[bytes, ...]]
    pod_cidrs: tuple[IPv4Network, ...]
    in_cluster: tuple[IPv4Network, ...]
    """Destinations that are no business of the gateway: pod, service and node ranges."""
    floating_ips: frozenset[IPv4Address]


@dataclass(frozen=True, slots=True)
class Violation:
    """One frame that must not have been on the wire."""

    leak: Leak
    frame: Frame

    def __str__(self) -> str:
        return f"{self.frame.time_ns}: {self.leak}: {self.frame}"


def tenures_of(records: Iterable[AuditRecord]) -> list[Tenure]:
    """Who held what when, from `acquired`, `released` and `expired` records in any order, with copies.

    A holder that could not record its end (power lost, killed) ends where the next one begins: that is the latest
    moment the one-holder promise leaves it.
    """
    begins: dict[tuple[str, tuple[int, int, int]], AuditRecord] = {}
    ends: dict[tuple[str, tuple[int, int, int]], int] = {}
    for record in sorted(records, key=lambda record: record.boot_time_ns):
        if record.token is None:
            continue
        key = (record.subject, record.token)
        if record.kind is RecordKind.ACQUIRED:
            # Sorted by time, so of several copies the first, the holder's own, stays.
            begins.setdefault(key, record)
        elif record.kind in (RecordKind.RELEASED, RecordKind.EXPIRED):
            ends.setdefault(key, record.boot_time_ns)
    tenures = []
    ordered = sorted(begins.items())
    for index, ((subject, token), record) in enumerate(ordered):
        until_ns = ends.get((subject, token))
        following = ordered[index + 1] if index + 1 < len(ordered) else None
        # Tokens of one IP grow, so the next key of the same subject is its next tenure.
        if following is not None and following[0][0] == subject:
            next_ns = following[1].boot_time_ns
            until_ns = next_ns if until_ns is None else min(until_ns, next_ns)
        holder = record.holder or record.node
        tenures.append(Tenure(IPv4Address(subject), holder, record.boot_time_ns, until_ns))
    return tenures


class _FloatingJudge:
    """Judges the frames from floating IPs, in the order captured."""

    def __init__(self, tenures: Sequence[Tenure], site: CaptureSite, slack_ns: int, steering_slack_ns: int) -> None:
        self._site = site
        self._slack_ns = slack_ns
        self._steering_slack_ns = steering_slack_ns
        self._nodes = {mac: node for node, macs in site.macs_of_node.items() for mac in macs}
        self._tenures: dict[IPv4Address, list[Tenure]] = {}
        for tenure in tenures:
            self._tenures.setdefault(tenure.floating_ip, []).append(tenure)
        self._speakers: dict[IPv4Address, tuple[str, int]] = {}
        """Who spoke last from the address, and since when nobody else did."""

    def judge(self, frame: Frame) -> Leak | None:
        if frame.port in self._site.second_uplink_ports:
            return Leak.FLOATING_ON_SECOND_UPLINK
        steered_to = self._nodes.get(frame.destination_mac, "") if is_steered(frame, self._site) else ""
        if steered_to and frame.destination == PROBE_OUTSIDE:
            # What agents ask each other over the data path, also of who may hold it next (rules H3, X1).
            return None
        if self._tenures_of(frame, steered_to, self._steering_slack_ns):
            return None
        node = self._site.node_of_port.get(frame.port, "")
        covering = self._tenures_of(frame, node, 0)
        if not covering:
            return Leak.STEERED_TO_STRANGER if steered_to else Leak.FLOATING_FROM_STRANGER
        speaker, since_ns = self._speakers.get(frame.source, ("", frame.time_ns))
        if speaker and speaker != node and all(tenure.from_ns < since_ns for tenure in covering):
            # Records come late, so two tenures may seem to overlap by the slack; the frames themselves do not lie:
            # after another node has begun to speak, only a tenure that began later still gives the word back.
            return Leak.FLOATING_FROM_FORMER
        if speaker != node:
            self._speakers[frame.source] = (node, frame.time_ns)
        return None

    def _tenures_of(self, frame: Frame, node: str, after_ns: int) -> list[Tenure]:
        return [
            tenure
            for tenure in self._tenures.get(frame.source, ())
            if tenure.node == node and _covers(tenure, frame.time_ns, self._slack_ns, after_ns)
        ]


def find_leaks(
    frames: Iterable[Frame],
    tenures: Sequence[Tenure],
    site: CaptureSite,
    *,
    slack_ns: int = 0,
    steering_slack_ns: int = 1_000_000_000,
) -> list[Violation]:
    """Every frame that breaks a promise, in the order captured (which is by time).

    `slack_ns` is how long after the fact an acquisition may be recorded; ends need none, as a late record of
    an end only makes the tenure longer. `steering_slack_ns` is how long after its end a former holder may still be
    steered to: it drops what comes, so that is loss, no leak.
    """
    floating = _FloatingJudge(tenures, site, slack_ns, steering_slack_ns)
    violations = []
    for frame in frames:
        leak = None
        if frame.source in site.floating_ips and not frame.encapsulated:
            leak = floating.judge(frame)
        elif is_pod_to_outside(frame, site):
            leak = Leak.POD_BARE
        if leak is not None:
            violations.append(Violation(leak, frame))
    return violations


def is_steered(frame: Frame, site: CaptureSite) -> bool:
    """An IP frame from a floating IP that one member sends to the MAC of another: the way to the holder (H1)."""
    is_from_floating = frame.ethertype == ETH_IPV4 and frame.source in site.floating_ips
    if not is_from_floating or frame.port not in site.node_of_port:
        return False
    return any(frame.destination_mac in macs for macs in site.macs_of_node.values())


def _covers(tenure: Tenure, time_ns: int, before_ns: int, after_ns: int) -> bool:
    if time_ns < tenure.from_ns - before_ns:
        return False
    return tenure.until_ns is None or time_ns < tenure.until_ns + after_ns


def is_pod_to_outside(frame: Frame, site: CaptureSite) -> bool:
    """A pod's address is its source and its destination is not in the cluster: no frame may look so."""
    if frame.ethertype == ETH_ARP:
        # A pod's address never asks on the segment, whatever for.
        return _within(frame.source, site.pod_cidrs)
    if frame.ethertype != ETH_IPV4 or not _within(frame.source, site.pod_cidrs):
        return False
    return not _within(frame.destination, site.in_cluster) and not frame.destination.is_multicast


def _within(address: IPv4Address, networks: tuple[IPv4Network, ...]) -> bool:
    return any(address in network for network in networks)
