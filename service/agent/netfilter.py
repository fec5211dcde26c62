"""Which difference our netfilter table gets: cluster ranges and uplinks change rarely, pods often."""

from ipaddress import IPv4Address, IPv4Network

from service.datapath.node_datapath import NodeDatapath
from service.datapath.reconciler import Reconciler

SteerPair = tuple[IPv4Address, IPv4Network]
Sets = tuple[tuple[IPv4Network, ...], tuple[IPv4Network, ...], tuple[str, ...]]
"""Pod ranges, ranges that are never steered, names of the uplinks."""


class NetfilterDifference:
    """Remembers what the table was last made from. Raises TransientError where nft fails; it is written again then."""

    def __init__(self, datapath: NodeDatapath, reconciler: Reconciler) -> None:
        self._datapath = datapath
        self._reconciler = reconciler
        self._sets: Sets | None = None
        """None: nothing is known of the table, so it is written whole."""
        self._pairs: tuple[SteerPair, ...] = ()

    def forget(self) -> None:
        """Somebody may have removed the table, or the uplinks are others now."""
        self._sets = None

    async def write(self) -> None:
        """The whole table where its sets changed; else the pairs of pods that came or went (rule W4)."""
        reconciler = self._reconciler
        names = tuple(uplink.name for uplink in reconciler.uplinks)
        sets = (reconciler.ranges.pods, reconciler.cluster_networks(), names)
        pairs = reconciler.steer_pairs()
        if sets != self._sets:
            await self._datapath.set_netfilter(*sets, steer=pairs)
            self._sets, self._pairs = sets, pairs
        elif pairs != self._pairs:
            added = [pair for pair in pairs if pair not in self._pairs]
            removed = [pair for pair in self._pairs if pair not in pairs]
            await self._datapath.nftables.update_steer(added, removed)
            self._pairs = pairs
