"""What the audit log says happened. The envelope is CloudEvents 1.0; this is its data."""

from dataclasses import dataclass, field
from enum import StrEnum


class RecordKind(StrEnum):
    ACQUIRED = "acquired"
    RELEASED = "released"
    EXPIRED = "expired"
    GRANTED = "granted"
    ASSIGNED = "assigned"
    UNASSIGNED = "unassigned"
    LEADER_ELECTED = "leader-elected"
    LEADER_LOST = "leader-lost"
    NODE_UP = "node-up"
    NODE_DOWN = "node-down"
    POLICY_ACCEPTED = "policy-accepted"
    POLICY_REFUSED = "policy-refused"
    POLICY_DELETED = "policy-deleted"
    GATEWAY_CHANGED = "gateway-changed"
    AGENT_STARTED = "agent-started"
    AGENT_STOPPED = "agent-stopped"
    GAP = "gap"
    """Records that the outbox had to give up; `detail` counts them."""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One event as its node saw it."""

    kind: RecordKind
    node: str
    """Who recorded it."""
    boot_id: str
    sequence: int
    """Per (node, boot id), without gaps."""
    wall_time_ns: int
    boot_time_ns: int
    subject: str = ""
    """Floating IP, node name or policy name, by kind."""
    token: tuple[int, int, int] | None = None
    holder: str = ""
    previous: str = ""
    reason: str = ""
    detail: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Stable identity: copies of one assignment event, recorded by holder and electors, collapse on it."""
        if self.token is not None:
            term, version, counter = self.token
            return f"{self.subject}/{term}.{version}.{counter}/{self.kind}"
        return f"{self.node}/{self.boot_id}/{self.sequence}"
