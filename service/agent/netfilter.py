"""Which difference our netfilter table gets: cluster ranges and uplinks change rarely, pods often."""

from ipaddress import IPv4Network

from service.datapath.node_datapath import NodeDatapath
from service.datapath.reconciler import Reconciler
from service.network.connection_life import ConnectionLives
from service.network.destinations import Destinations

Sets = tuple[tuple[IPv4Network, ...], tuple[IPv4Network, ...], tuple[str, ...], bool, ConnectionLives]
"""Pod ranges, ranges that are never steered, names of the uplinks; whether pods of other nodes are kept out; for how
long connections are tracked."""


class NetfilterDifference:
    """Remembers what the table was last made from. Raises TransientError where nft fails; it is written again then."""

    def __init__(self, datapath: NodeDatapath, reconciler: Reconciler) -> None:
        self._datapath = datapath
        self._reconciler = reconciler
        self._sets: Sets | None = None
        """None: nothing is known of the table, so it is written whole."""
        self._steer = Destinations()
        self._is_written = False
        """The table has the pods of `_steer`."""
        self._is_guarding = False

    def forget(self) -> None:
        """Somebody may have removed the table, or the uplinks are others now."""
        self._sets = None

    async def write(self) -> None:
        """The whole table where its sets changed; else the pods that came, went or have other rules (rule W4)."""
        reconciler = self._reconciler
        names = tuple(uplink.name for uplink in reconciler.uplinks)
        ranges = reconciler.ranges.pods, reconciler.cluster_networks()
        sets = (*ranges, names, reconciler.has_former_members, reconciler.connection_lives())
        steer = reconciler.destinations()
        if sets != self._sets:
            # Until it is done, nothing is known of the table.
            self._sets = None
            await self._datapath.set_netfilter(*sets, steer=steer)
        elif steer is not self._steer and steer.pods != self._steer.pods:
            changed = reconciler.destinations_changed(self._steer) if self._is_written else None
            # Until it is done, nothing is known of the pods there: they are compared as a whole then.
            self._is_written = False
            await self._datapath.nftables.replace_steer(steer, changed)
        self._sets, self._steer, self._is_written = sets, steer, True

    async def guard(self, *, is_ready: bool) -> None:
        """Keep what nobody has classified from what policies name (rule W11). It begins once `is_ready`: the pods that
        were there first are known by then, and lose nothing."""
        self._is_guarding |= is_ready
        if self._is_guarding:
            await self._datapath.nftables.replace_named(self._reconciler.named())
