"""Addresses that are another's (rule A1): asked about before their first use, never a member's own, and told to all."""

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address

from service.agent.segment_watch import SegmentWatch
from service.audit.recorder import AgentRecorder
from service.datapath.desired import uplink_for
from service.datapath.reconciler import Reconciler
from service.network.conflict_watch import ConflictWatch, ProbePoint
from service.wire.cluster_view import ClusterView

OWN_LINGER_NS = 5_000_000_000
"""An address that has left an interface may be on its way to another, as virtual IPs are: it is nobody's so long."""


class Conflicts:
    """Runs the probes of this node's parts, and keeps the members' table of strangers. Run `watch` beside it."""

    def __init__(
        self,
        reconciler: Reconciler,
        cluster: ClusterView,
        recorder: AgentRecorder,
        segment_watch: SegmentWatch,
        *,
        clock: Callable[[], int],
        wall_clock: Callable[[], int],
        changed: Callable[[], None],
    ) -> None:
        """`clock`: CLOCK_BOOTTIME in ns. `wall_clock`: Unix time in ns; it orders what different nodes found, so the
        newer word of two wins."""
        self._reconciler = reconciler
        self._cluster = cluster
        self._recorder = recorder
        self._segment_watch = segment_watch
        self._clock = clock
        self._wall_clock = wall_clock
        self._own: dict[IPv4Address, int] = {}
        """Floating IPs that are addresses of this node's interfaces, and when each was last seen there."""
        self.refused: frozenset[IPv4Address] = frozenset()
        """Addresses of any member's interfaces, as of the last `update`: not ours, whatever the leader's table says."""
        self.watch = ConflictWatch(is_holder=self._is_holder, changed=changed)

    def own_addresses(self) -> tuple[IPv4Address, ...]:
        """What the others are told: floating IPs on this node's interfaces now, or OWN_LINGER_NS ago."""
        now_ns = self._clock()
        self._own |= dict.fromkeys(self._reconciler.own_addresses(), now_ns)
        self._own = {address: seen_ns for address, seen_ns in self._own.items() if now_ns - seen_ns < OWN_LINGER_NS}
        return tuple(sorted(self._own))

    def is_claimable(self, floating_ip: IPv4Address) -> bool:
        """No member's own, and a member has held it already, or nobody answered for it."""
        if floating_ip in self.refused:
            return False
        return floating_ip in self._reconciler.locations or self.watch.is_clear(floating_ip)

    def troubles(self) -> list[str]:
        """What is wrong now, a line each."""
        own = (
            f"{address} is an address of an interface of this node, or of its API server: no node uses it"
            for address in self.own_addresses()
        )
        defended = (
            f"FloatingIPConflict: {address}, which this node holds and defends, is also used by {mac.hex(':')}"
            for address, mac in sorted(self._segment_watch.conflicts().items())
        )
        deaf = (
            f"{ifname}: nobody answers this node, though others on the segment are answered: it holds nothing there"
            for ifname in self._segment_watch.deaf_uplinks()
        )
        return [*own, *defended, *deaf]

    def update(self, floating_ips: Iterable[IPv4Address]) -> None:
        """Ask about those of these addresses that no member has held yet, and tell everybody who else has one."""
        theirs = (address for node in self._reconciler.nodes for address in node.own_addresses)
        self.refused = frozenset((*self.own_addresses(), *theirs))
        points, locations, uplinks = {}, self._reconciler.locations, self._reconciler.uplinks
        for floating_ip in (one for one in floating_ips if one not in locations):
            uplink = uplink_for(uplinks, floating_ip)
            if uplink is not None:
                points[floating_ip] = ProbePoint(uplink.name, uplink.mac)
        self.watch.want(points)
        self._segment_watch.update()
        self._tell()

    def _tell(self) -> None:
        known, found = self._cluster.conflicts(), {**self.watch.conflicts(), **self._segment_watch.conflicts()}
        at_s = self._wall_clock() // 1_000_000_000
        for floating_ip, mac in found.items():
            if known.get(floating_ip) != mac:
                self._cluster.publish_conflict(floating_ip, mac, at_s=at_s)
                self._recorder.address_conflict(floating_ip, mac)
        for floating_ip, mac in known.items():
            if self._is_over(floating_ip, mac):
                self._cluster.publish_conflict(floating_ip, b"", at_s=at_s)

    def _is_over(self, floating_ip: IPv4Address, mac: bytes) -> bool:
        if self.watch.is_clear(floating_ip) or self._segment_watch.is_clear(floating_ip):
            return True
        # Who answered a moment before its word came here was the holder; one that is forged is heard by the holder.
        return floating_ip not in self._segment_watch.conflicts() and self._is_holder(floating_ip, mac)

    def _is_holder(self, floating_ip: IPv4Address, mac: bytes) -> bool:
        """Of the members only the one that says it holds the address may answer for it."""
        location = self._reconciler.locations.get(floating_ip)
        return location is not None and any(
            segment.mac == mac
            for node in self._reconciler.nodes
            if node.name == location.node
            for segment in node.segments
        )
