"""Addresses that may be another host's: asked about before their first use, and told to all members (RFC 5227)."""

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address

from service.audit.recorder import AgentRecorder
from service.datapath.desired import uplink_for
from service.datapath.reconciler import Reconciler
from service.network.conflict_watch import ConflictWatch, ProbePoint
from service.wire.cluster_view import ClusterView


class Conflicts:
    """Runs the probes of this node's parts, and keeps the members' table of strangers. Run `watch` beside it."""

    def __init__(
        self,
        reconciler: Reconciler,
        cluster: ClusterView,
        recorder: AgentRecorder,
        *,
        wall_clock: Callable[[], int],
        changed: Callable[[], None],
    ) -> None:
        """`wall_clock`: Unix time in ns. It orders what different nodes found, so the newer word of two wins."""
        self._reconciler = reconciler
        self._cluster = cluster
        self._recorder = recorder
        self._wall_clock = wall_clock
        self.watch = ConflictWatch(is_member=self._is_member_mac, changed=changed)

    def is_claimable(self, floating_ip: IPv4Address) -> bool:
        """A member has held it already, or nobody answered for it."""
        return floating_ip in self._reconciler.locations or self.watch.is_clear(floating_ip)

    def update(self, floating_ips: Iterable[IPv4Address]) -> None:
        """Ask about those of these addresses that no member has held yet, and tell everybody who else has one."""
        points = {}
        for floating_ip in floating_ips:
            uplink = uplink_for(self._reconciler.uplinks, floating_ip)
            if uplink is not None and floating_ip not in self._reconciler.locations:
                points[floating_ip] = ProbePoint(uplink.name, uplink.mac)
        self.watch.want(points)
        known, found = self._cluster.conflicts(), self.watch.conflicts()
        at_s = self._wall_clock() // 1_000_000_000
        for floating_ip, mac in found.items():
            if known.get(floating_ip) != mac:
                self._cluster.publish_conflict(floating_ip, mac, at_s=at_s)
                self._recorder.address_conflict(floating_ip, mac)
        for floating_ip in known:
            if self.watch.is_clear(floating_ip):
                self._cluster.publish_conflict(floating_ip, b"", at_s=at_s)

    def _is_member_mac(self, mac: bytes) -> bool:
        return any(segment.mac == mac for node in self._reconciler.nodes for segment in node.segments)
