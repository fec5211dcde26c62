"""One turn brings kernel, keeper and peers in step with all that is known; changes only ask for the next turn."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address

from service.agent.cni_in_place import CniInPlace
from service.agent.conflicts import Conflicts
from service.agent.heartbeat import Part, claims_of, parts_of, unfit_reasons, unserved, uplinks_of
from service.agent.neighbours import Neighbours
from service.agent.netfilter import NetfilterDifference
from service.agent.outlived import outlived
from service.agent.port_blocks import PortBlocks
from service.agent.segment_watch import SegmentWatch
from service.agent.transport_watch import TransportWatch
from service.agent.withdrawal import Withdrawals
from service.datapath import layout
from service.datapath.layout import MapName
from service.datapath.node_datapath import NodeDatapath
from service.datapath.reconciler import Reconciler
from service.datapath.review import Review
from service.datapath.upkeep import Upkeep
from service.electorate.follower import ElectorateFollower
from service.model.errors import TransientError
from service.model.gateway_node import NodeRole
from service.model.keeper_message import Claim, Heartbeat, Uplink
from service.model.kept import Kept
from service.model.lease import Token
from service.settings import Settings
from service.sources.intake import Intake
from service.wire.cluster_view import ClusterView
from service.wire.keeper_link import KeeperLink

_log = logging.getLogger(__name__)

COALESCE_S = 0.002
"""Changes that come together are reconciled together."""
RETRY_S = 0.2
"""After a turn that could not be finished."""


class Turn:
    """Takes turns, one after the other, whenever `dirty` asks for one. The only writer of driven maps and netfilter."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], int],
        intake: Intake,
        reconciler: Reconciler,
        datapath: NodeDatapath,
        upkeep: Upkeep,
        cluster: ClusterView,
        keeper: KeeperLink,
        electorate: ElectorateFollower,
        neighbours: Neighbours,
        blocks: PortBlocks,
        segment_watch: SegmentWatch,
        transports: TransportWatch,
        conflicts: Conflicts,
        netfilter: NetfilterDifference,
        cni: CniInPlace,
        held: Callable[[], Mapping[IPv4Address, Token]],
        dirty: asyncio.Event,
    ) -> None:
        """`dirty` is set by whoever learned something; `clock` is CLOCK_BOOTTIME in ns; `held`: what is leased here."""
        self._settings = settings
        self._clock = clock
        self._intake = intake
        self._reconciler = reconciler
        self._datapath = datapath
        self._upkeep = upkeep
        self._cluster = cluster
        self._keeper = keeper
        self._electorate = electorate
        self._neighbours = neighbours
        self._blocks = blocks
        self._segment_watch = segment_watch
        self._transports = transports
        self._conflicts = conflicts
        self._netfilter = netfilter
        self._cni = cni
        self._held = held
        self._dirty = dirty
        self._is_new = True
        """Nothing has been wished for yet."""
        self._review = Review(lambda: reconciler.review_parts(datapath.pool))
        self._parts = Kept[dict[IPv4Address, Part]]()
        self._claims = Kept[dict[IPv4Address, Claim]]()
        self._uplinks = Kept[tuple[Uplink, ...]]()
        self._withdrawals = Withdrawals()

    async def run(self) -> None:
        """Take a turn whenever something has changed, until cancelled. What fails for now is tried again.

        Begins with a turn: after an unexpected error nobody may ask for one again.
        """
        self._dirty.set()
        self._review.begin_again()
        while True:
            await self._dirty.wait()
            await asyncio.sleep(COALESCE_S)
            self._dirty.clear()
            try:
                await self.take()
            except TransientError as error:
                _log.warning("reconcile: %s; trying again", error)
                await asyncio.sleep(RETRY_S)
                self._dirty.set()

    async def take(self) -> None:
        """One turn. Raises TransientError where part of it has to be done again; the keeper has been told before."""
        reconciler = self._reconciler
        reconciler.learn_members(self._cluster.gateway_nodes(), self._cluster.assignments())
        reconciler.learn_locations(self._cluster.locations())
        self._beat()
        if not self._intake.is_synced:
            # Who is selected is not known yet: what a former agent has left in the kernel stays as it is.
            return
        # Meanwhile a pod that has just come is looked for.
        self._upkeep.ask_for_devices()
        await self._netfilter.write()
        now_ns = self._clock()
        reconciler.select()
        self._neighbours.tell(now_ns=now_ns)
        self._transports.update()
        self._blocks.update()
        reconciler.classify(now_ns=now_ns)
        self._upkeep.ask_for_devices()
        maps = self._datapath.pool
        self._write(now_ns)
        self._upkeep.note_exempt(reconciler.cluster_networks())
        if not reconciler.steering.is_settled or self._upkeep.is_clearing_due:
            self._upkeep.clearing_wanted.set()
        await self._netfilter.guard(is_ready=self._upkeep.has_looked and maps.is_settled(MapName.SELECTED))

    def _write(self, now_ns: int) -> None:
        maps, wish = self._datapath.pool, self._reconciler.wish(self._datapath.pool)
        # Whoever writes ways so often hears where addresses are: hints of the segment need not last (W2).
        self._datapath.write({**wish.whole, MapName.AGENT_BEAT: layout.beat_rows(now_ns)})
        for name, rows in wish.changes.items():
            maps.change(name, rows)
            if self._is_new:
                # The first wish is of everything: what else a former agent has left there is over.
                maps.drop_others(name)
        self._is_new = False
        self._look_again(now_ns)

    def _look_again(self, now_ns: int) -> None:
        """What differences have missed is put right (rule I2), at the latest in the next turn."""
        maps = self._datapath.pool
        for found in self._review.take_piece(now_ns=now_ns):
            _log.warning("%s: %d were not as all that is known says; put right", found.map or "tables", found.count)
            maps.counters.reviewed += found.count
            if found.map:
                maps.change(found.map, found.wishes)
            self._dirty.set()

    @property
    def role(self) -> NodeRole:
        """As configured, else as the Node object says."""
        node = self._intake.inventory.nodes.get(self._settings.node)
        return self._settings.role or (node.role if node else NodeRole.WORKER)

    def unfit_reasons(self) -> list[str]:
        """Why this node should hold no floating IP now."""
        return self._cni.reasons() + unfit_reasons(
            is_synced=self._intake.is_synced,
            is_keeper_alive=self._keeper.is_keeper_alive,
            uplinks=self._datapath.uplinks,
        )

    def _is_claimable(self, floating_ip: IPv4Address) -> bool:
        """Not while the fence does not know it (rules G2, I1), nor while it may be another host's."""
        is_fenced = self._datapath.pool.has(MapName.FLOATING_IPS, floating_ip.packed)
        return is_fenced and self._conflicts.is_claimable(floating_ip)

    def _beat(self) -> None:
        """Tell the members and the keeper what this node is ready for."""
        reconciler = self._reconciler
        self._cluster.describe(
            ready=not self.unfit_reasons(),
            segments=self._segment_watch.segments(),
            role=self.role,
            # One that is not ready would keep what it has, as while its agent is restarted.
            schedulable=self._intake.inventory.is_schedulable(self._settings.node) and not self._cni.name,
            own_addresses=self._conflicts.own_addresses(),
            unrouted=self._upkeep.unrouted(),
            over_quota=self._upkeep.over_quota(),
            out_of_ports=self._upkeep.out_of_ports(),
            unsupported_cni=self._cni.name,
        )
        assignments, floating_ips = reconciler.assignments, reconciler.floating_ips()
        parts = self._parts.of(lambda: parts_of(self._settings.node, assignments), assignments)
        self._conflicts.update(parts)
        ending = self._outlived()
        claims = self._claims.of(lambda: claims_of(_without(parts, ending)), parts, ending)
        claimed = tuple(claim for floating_ip, claim in claims.items() if self._is_claimable(floating_ip))
        heartbeat = Heartbeat(
            self._intake.is_synced,
            self._served(floating_ips, ending),
            claimed + self._withdrawals.claims(self._held(), assignments, now_ns=self._clock()),
            self._electorate.record,
        )
        self._keeper.say(heartbeat)

    def _served(self, floating_ips: tuple[IPv4Address, ...], ending: frozenset[IPv4Address]) -> tuple[Uplink, ...]:
        uplinks, refused = self._segment_watch.useful_uplinks(), self._conflicts.refused

        def served() -> tuple[Uplink, ...]:
            return uplinks_of([floating_ip for floating_ip in floating_ips if floating_ip not in ending], uplinks)

        # Of hundreds; the others are few, and members say anew all the time which are.
        return self._uplinks.of(served, floating_ips, uplinks, ending) + unserved(refused | ending)

    def _outlived(self) -> frozenset[IPv4Address]:
        """Leases of which nobody would hear: they are to begin anew (K1)."""
        assigned = self._cluster.assignments()
        return outlived(
            self._settings.node,
            self._held(),
            is_assigned=assigned.__contains__,
            told=self._cluster.locations(),
            tell=self._cluster.publish_location,
        )


def _without(parts: Mapping[IPv4Address, Part], ending: frozenset[IPv4Address]) -> dict[IPv4Address, Part]:
    return {floating_ip: part for floating_ip, part in parts.items() if floating_ip not in ending}
