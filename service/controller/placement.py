"""When the leader may place floating IPs, and what one turn changes in its table. Pure.

Where an address belongs is decided in service/gateway/assignment.py. Here is decided on which nodes it may count, which
rows are new, and under which stamp they are published.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from service.gateway.assignment import assign
from service.gateway.row import MemberMetadata
from service.gossip.member import Member
from service.model.assignment import Assignment, PlannedMove
from service.model.gateway_node import GatewayNode
from service.model.lease import Elector, Stamp

PATIENCE_NS = 10_000_000_000
"""A controller that does not yet know every elector waits so long before it places anything: an address that is placed
on the first node seen stays there."""
UNRESPONSIVE_NS = 2_000_000_000
"""A node that does not take what it was assigned within this time gets nothing until it does something again."""
DOUBT_NS = 10_000_000_000
"""A node that has lost an address that it held, and was not told to, may be dead: for so long, which is longer than it
takes until members are sure, others go first. Without addresses it would seem to be the best successor of all."""
NOTICE_NS = 500_000_000
"""For so long the heir of a planned move is the successor before it is the holder (rule O1): by then its standing claim
is with every elector, and the owners of policies have been told."""


def has_caught_up(
    *,
    is_synced: bool,
    has_observed: bool,
    electors: Sequence[Elector],
    members: Mapping[str, tuple[Member, MemberMetadata]],
    waited_ns: int,
) -> bool:
    """Whether enough is known to place anything: objects, a majority of electors, and the members.

    The members are known once every elector is among them and ready, or after PATIENCE_NS: one that is dead must not
    stand in the way of the others. `waited_ns` counts from the start of this process, not from its election, so that
    the next leader of a site that runs places at once.
    """
    if not (is_synced and has_observed):
        return False
    knows_all = all(elector.name in members and members[elector.name][1].ready for elector in electors)
    return knows_all or waited_ns > PATIENCE_NS


@dataclass(frozen=True, slots=True)
class Revision:
    """What one turn changes: rows that all carry the same new stamp."""

    changed: tuple[Assignment, ...]
    removed: tuple[Assignment, ...]
    """Of addresses that are floating IPs no longer; each with the holder that it had."""

    @property
    def is_empty(self) -> bool:
        """Nothing has to be published."""
        return not (self.changed or self.removed)


NOTHING_CHANGED = Revision((), ())


class Placement:
    """The work of one leader in one term. A new term needs a new one: versions count from 1 in each.

    `nodes`, `holders` and `table` of one turn must be of one moment, and `now_ns` must not go back.
    """

    def __init__(self, term: int) -> None:
        self.term = term
        self._version = 0
        self._since: dict[IPv4Address, tuple[Stamp, int]] = {}
        """The stamp of each row, and from when on its holder is expected to take it."""
        self._notices: dict[IPv4Address, tuple[str, int]] = {}
        """The heir of each planned move, and since when the table names it."""
        self._held: dict[IPv4Address, str] = {}
        """Who held what in the last turn."""
        self._doubted_ns: dict[str, int] = {}
        """Nodes that have lost an address, and when."""
        self._settled: tuple[object, ...] | None = None
        """What the last turn went by, if nothing came of it: so it is again, and most turns find nothing new."""
        self.moves: tuple[PlannedMove, ...] = ()
        """What is to move on purpose, by the last turn; until another node than the source has it."""

    def revise(
        self,
        floating_ips: Sequence[IPv4Address],
        nodes: Sequence[GatewayNode],
        holders: Mapping[IPv4Address, str],
        conflicts: Mapping[IPv4Address, bytes],
        table: Mapping[IPv4Address, Assignment],
        *,
        ordered: Mapping[IPv4Address, str] | None = None,
        now_ns: int,
    ) -> Revision:
        """Bring the table in step with spec, nodes, holders, and what operators have ordered.

        Whoever calls must publish what it returns.
        """
        stamp = Stamp(self.term, self._version + 1)
        silent = self._silent(table, holders, conflicts, now_ns)
        usable = [replace(node, ready=False) if node.name in silent else node for node in nodes]
        noticed = {ip: heir for ip, (heir, since_ns) in self._notices.items() if now_ns - since_ns >= NOTICE_NS}
        doubtful = self._doubt(holders, now_ns)
        given = (tuple(floating_ips), tuple(usable), dict(holders), dict(table), dict(ordered or {}), noticed, doubtful)
        if given == self._settled:
            return NOTHING_CHANGED
        plan = assign(
            floating_ips, usable, holders, table, stamp=stamp, ordered=ordered, noticed=noticed, doubtful=doubtful
        )
        rows, self.moves = plan.rows, plan.moves
        self._note_heirs(now_ns)
        revision = Revision(
            changed=tuple(row for row in rows if row.stamp == stamp),
            removed=tuple(replace(row, stamp=stamp) for key, row in table.items() if key not in floating_ips),
        )
        self._settled = given if revision.is_empty else None
        if not revision.is_empty:
            self._version = stamp.version
        for row in revision.changed:
            self._since[row.floating_ip] = (stamp, now_ns)
        for row in revision.removed:
            self._since.pop(row.floating_ip, None)
        return revision

    def _doubt(self, holders: Mapping[IPv4Address, str], now_ns: int) -> frozenset[str]:
        """Nodes that have lost an address lately, of which nothing else is known yet. One that gets any is alive."""
        moving = {move.floating_ip for move in self.moves}
        before, self._held = self._held, dict(holders)
        for floating_ip, name in before.items():
            if holders.get(floating_ip) != name and floating_ip not in moving:
                self._doubted_ns[name] = now_ns
        for floating_ip, name in holders.items():
            if before.get(floating_ip) != name:
                self._doubted_ns.pop(name, None)
        self._doubted_ns = {name: ns for name, ns in self._doubted_ns.items() if now_ns - ns < DOUBT_NS}
        return frozenset(self._doubted_ns)

    def _note_heirs(self, now_ns: int) -> None:
        """From the first row that names it, an heir has notice; another heir, or a move that is off, begins anew."""
        known, self._notices = self._notices, {}
        for move in self.moves:
            heir, since_ns = known.get(move.floating_ip, ("", now_ns))
            self._notices[move.floating_ip] = (move.heir, since_ns if heir == move.heir else now_ns)

    def _silent(
        self,
        table: Mapping[IPv4Address, Assignment],
        holders: Mapping[IPv4Address, str],
        conflicts: Mapping[IPv4Address, bytes],
        now_ns: int,
    ) -> dict[str, None]:
        """Nodes that do not take what they were assigned: they count as not ready (rule S2).

        An address that anybody holds, or that a stranger answers for, waits for nobody: its time begins anew.
        """
        silent: dict[str, None] = {}
        for floating_ip, row in table.items():
            stamp, since_ns = self._since.setdefault(floating_ip, (row.stamp, now_ns))
            if stamp != row.stamp or floating_ip in holders or floating_ip in conflicts:
                self._since[floating_ip] = (row.stamp, now_ns)
            elif row.holder is not None and now_ns - since_ns > UNRESPONSIVE_NS:
                silent[row.holder] = None
        return silent
