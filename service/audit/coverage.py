"""What the logs that were read can tell of: whose records they have, until when, and whose they lack. Pure.

An answer is worth no more than that. A node whose records were not read may have held any address, and after a node's
newest record nothing is known of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from service.audit.timeline import Tenure
from service.model.audit_record import AuditRecord, RecordKind

_OF_NODES = (RecordKind.NODE_UP, RecordKind.NODE_DOWN)
_OF_HOLDERS = (
    RecordKind.ACQUIRED,
    RecordKind.RELEASED,
    RecordKind.EXPIRED,
    RecordKind.GRANTED,
    RecordKind.PROMISED,
    RecordKind.ASSIGNED,
    RecordKind.FAILOVER,
)
_LEADER = "leader"


@dataclass(frozen=True, slots=True)
class Writer:
    """One process whose records were read."""

    actor: str
    """`component/node`; of records that do not say, the node."""
    records: int
    oldest_ns: int
    newest_ns: int
    """Wall times of its first and its last record."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Whose records were read, and who is named in them and was not."""

    writers: tuple[Writer, ...]
    unread: tuple[str, ...]
    """Gateway nodes of which no record was read."""
    lost: int
    """Records that gap records count."""
    restarts: tuple[tuple[str, int], ...] = ()
    """(node, wall time) of each start of an agent: what one that was killed had not yet written is on no record."""

    def reaches_ns(self, node: str) -> int | None:
        """Wall time of the newest record of a node; None where none was read."""
        return max((one.newest_ns for one in self.writers if one.actor.rpartition("/")[2] == node), default=None)

    def proves(self, tenure: Tenure, wall_time_ns: int) -> bool:
        """Whether these records show that a tenure which covers this time went on then.

        Its own end, later, shows it; so does a later record of its holder, which would have told of the end before,
        unless it was restarted meanwhile.
        """
        if tenure.end is not None and tenure.end.token == tenure.token:
            return True
        reached_ns = self.reaches_ns(tenure.holder)
        is_whole = not self.lost and not any(
            node == tenure.holder and tenure.since_ns < started_ns <= wall_time_ns for node, started_ns in self.restarts
        )
        return reached_ns is not None and reached_ns >= wall_time_ns and is_whole


def coverage(records: Iterable[AuditRecord]) -> Coverage:
    """What these records cover."""
    times: dict[str, list[int]] = {}
    named: dict[str, None] = {}
    wrote: dict[str, None] = {}
    restarts = []
    lost = 0
    for record in records:
        times.setdefault(record.actor or record.node, []).append(record.wall_time_ns)
        wrote[record.node] = None
        named.update(dict.fromkeys(_named(record)))
        if record.kind is RecordKind.AGENT_STARTED:
            restarts.append((record.node, record.wall_time_ns))
        elif record.kind is RecordKind.GAP:
            lost += _count(record.detail.get("records", ""))
    writers = tuple(Writer(actor, len(found), min(found), max(found)) for actor, found in sorted(times.items()))
    return Coverage(writers, tuple(sorted(named.keys() - wrote.keys())), lost, tuple(restarts))


def _named(record: AuditRecord) -> Iterable[str]:
    """The gateway nodes that a record is about."""
    if record.kind in _OF_NODES:
        return (record.subject,)
    if record.kind in _OF_HOLDERS and record.subject != _LEADER:
        return filter(None, (record.holder, record.previous))
    return ()


def _count(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() else 1
