"""What the audit log says happened. The envelope is CloudEvents 1.0; this is its data."""

from dataclasses import dataclass, field
from enum import StrEnum

SCHEMA_VERSION = 1
"""It rises only where an older reader would misunderstand; new fields and kinds do not raise it."""


HELD_AT = "heldAtBootTimeNs"
"""Detail of `acquired`: an instant, by the clock of the record's node, at which the keeper did hold the address."""
HELD_UNTIL = "heldUntilBootTimeNs"
"""Detail of `released` and `expired`: the last instant at which the keeper was known to hold it."""
DEADLINE = "deadlineBootTimeNs"
"""Detail of `expired`: when the kernel stopped forwarding for it, by the last deadline known."""
PORTS = "ports"
"""Detail of `ports-moved` and `ports-table`: runs of ports, each with its stamp, and with its node where it has one."""
SPAN = "span"
"""Detail of `ports-table`: the ports that it tells of; those that no run names are nobody's."""
LEADER_TERM = "leaderTerm"
"""Detail of `ports-moved` and `ports-table`: the term of the leader that says so. It orders what leaders say."""
IS_REMOVED = "isRemoved"
"""Detail of `unassigned`: the spec lists the address no more."""


class RecordKind(StrEnum):
    """What happened; the text is part of the record, and of its id. Kinds are added, never renamed."""

    ACQUIRED = "acquired"
    RELEASED = "released"
    EXPIRED = "expired"
    GRANTED = "granted"
    """A majority of electors was seen to have promised the address; recorded by a leader, not by the holder."""
    PROMISED = "promised"
    """One elector promised the address; of a majority with one token and holder it is as good as `granted`."""
    ASSIGNED = "assigned"
    UNASSIGNED = "unassigned"
    REFUSED = "refused"
    """The spec asks for a floating IP that no node can hold."""
    FAILOVER = "failover"
    """The holder changed without having been asked to; the leader's account of it."""
    CONFLICT = "conflict"
    """Somebody else uses a floating IP, or two processes one node name."""
    PORTS_MOVED = "ports-moved"
    """Ports of a floating IP belong to another node from now on, or to none; recorded by the leader that gave them."""
    PORTS_TABLE = "ports-table"
    """Which node has which ports of a floating IP now: what a leader has read, and later once in a while."""
    LEADER_ELECTED = "leader-elected"
    LEADER_LOST = "leader-lost"
    NODE_UP = "node-up"
    NODE_DOWN = "node-down"
    DRAIN_STARTED = "drain-started"
    DRAIN_ENDED = "drain-ended"
    POLICY_ACCEPTED = "policy-accepted"
    POLICY_REFUSED = "policy-refused"
    POLICY_CHANGED = "policy-changed"
    POLICY_DELETED = "policy-deleted"
    GATEWAY_CHANGED = "gateway-changed"
    AGENT_STARTED = "agent-started"
    AGENT_STOPPED = "agent-stopped"
    GAP = "gap"
    """Records that the outbox had to give up; `detail` counts them."""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One event as its node saw it."""

    kind: RecordKind | str
    """A plain text where a later version wrote a kind that is not known here."""
    node: str
    """Who recorded it."""
    boot_id: str
    sequence: int
    """Per (node, boot id, outbox), without gaps. 0 where a later version's record does not say it readably."""
    wall_time_ns: int
    boot_time_ns: int
    subject: str = ""
    """Floating IP, node name or policy name, by kind."""
    token: tuple[int, int, int] | None = None
    holder: str = ""
    previous: str = ""
    """Who held it before."""
    reason: str = ""
    detail: dict[str, str] = field(default_factory=dict)
    outbox: str = ""
    """Random name of the outbox it was first written to: a wiped disk begins its sequences anew."""
    prev: str = ""
    """Digest of the record before it in its outbox; empty for the very first."""
    actor: str = ""
    """`component/node` that did it, such as `agent/worker1`."""
    term: int = 0
    """The highest leader term that the recorder knew; 0: none."""
    lease_epoch: int = 0
    """Of the electorate whose leases it went by; 0: not known."""
    generation: int = 0
    """Of the object in question; 0 where there is none or its source counts none."""
    version: int = SCHEMA_VERSION
    foreign_id: str = ""
    """The id of a later version's event, where it is not made by the rule below."""

    def instant(self, name: str) -> int | None:
        """An instant of `detail`, as CLOCK_BOOTTIME of the record's node; None where it does not say."""
        text = self.detail.get(name, "")
        return int(text) if text.isascii() and text.isdecimal() else None

    def wall_of(self, boot_ns: int) -> int:
        """The wall time of an instant of the same boot, by the clocks of this record."""
        return self.wall_time_ns - (self.boot_time_ns - boot_ns)

    @property
    def id(self) -> str:
        """Stable identity: copies of one assignment event, recorded by holder and electors, collapse on it."""
        if self.foreign_id:
            return self.foreign_id
        if self.token is not None:
            term, version, counter = self.token
            identity = f"{self.subject}/{term}.{version}.{counter}/{self.kind}"
            # Electors may promise one token to two claimants: what each of them says counts for itself.
            return f"{identity}/{self.node}" if self.kind == RecordKind.PROMISED else identity
        place = f"{self.boot_id}/{self.outbox}" if self.outbox else self.boot_id
        return f"{self.node}/{place}/{self.sequence}"
