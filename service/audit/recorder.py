"""Turns what agents and controllers do into audit records: what counts as an event, and what is known of its cause.

A recorder states only what its process knows. The new holder knows when it was seen to hold an address; the leader
knows when the electors last named the old holder, when it was found to be down and when the new one was named.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Unpack

from service.audit.chain import Facts
from service.audit.outbox import Outbox
from service.audit.port_run import PortRun, parts_of, text_of
from service.lease.observer import Observation
from service.model.assignment import Assignment, Location
from service.model.audit_record import (
    DEADLINE,
    HELD_AT,
    HELD_UNTIL,
    IS_REMOVED,
    LEADER_TERM,
    PORTS,
    SPAN,
    RecordKind,
)
from service.model.gateway_node import NodeState
from service.model.keeper_message import HeldLease, LeaseReport
from service.model.lease import LEADER_KEY, Token
from service.model.objects import Change, Delete, EgressPolicy, Kind, NetworkGateway, ObjectKey, Upsert
from service.policy.acceptance import PolicyState

_INTERREGNUM_NS = 10_000_000_000
"""What happened so long before an election is taken to be on another leader's record."""
_UNSAID_MAX = 1000
_RIVALS_MAX = 64


@dataclass(frozen=True, slots=True)
class Part:
    """This node's part in an address that it acquires, as the agent knows it."""

    role: str
    """`holder`, `successor`, or empty where the table does not name this node."""
    previous: Location | None
    is_previous_up: bool


class _Recorder:
    def __init__(self, outbox: Outbox, *, node: str) -> None:
        self._outbox = outbox
        self._node = node
        self._rivals: dict[str, None] = {}

    def name_conflict(self, name: str, address: str) -> None:
        """Another living process calls itself `name`; told once for each address."""
        if address in self._rivals or len(self._rivals) >= _RIVALS_MAX:
            return
        self._rivals[address] = None
        self._outbox.append(
            RecordKind.CONFLICT, subject=name, reason="two processes use this node name", detail={"other": address}
        )


class AgentRecorder(_Recorder):
    """Records of one agent: what its node really held."""

    def started(self, version: str) -> None:
        """The agent runs, in this version of the program."""
        self._outbox.append(RecordKind.AGENT_STARTED, subject=self._node, detail={"version": version})

    def stopped(self) -> None:
        """The agent stops as it was told to. One that is killed leaves no such record."""
        self._outbox.append(RecordKind.AGENT_STOPPED, subject=self._node)

    def address_conflict(self, floating_ip: IPv4Address, mac: bytes) -> None:
        """A stranger answers for an address that nobody here holds (RFC 5227)."""
        self._outbox.append(
            RecordKind.CONFLICT,
            subject=str(floating_ip),
            reason="somebody else uses this address",
            detail={"other": mac.hex(":")},
        )

    def acquired(self, lease: HeldLease, part: Part, report: LeaseReport, *, is_first_report: bool) -> None:
        """The keeper's report lists a lease that the one before did not.

        `is_first_report`: the first since the agent started, so it may have been held for long.
        """
        detail = {}
        if 0 < report.at_ns < lease.deadline_ns:
            detail[HELD_AT] = str(report.at_ns)
        if part.previous is not None:
            detail["previousToken"] = ".".join(map(str, part.previous.token))
        self._outbox.append(
            RecordKind.ACQUIRED,
            subject=lease.floating_ip,
            token=lease.token,
            holder=self._node,
            previous=part.previous.node if part.previous else "",
            reason=_cause(part, self._node, is_first_report=is_first_report),
            detail=detail,
        )

    def ended(
        self,
        lease: HeldLease,
        before: LeaseReport | None,
        assignment: Assignment | None,
        now_ns: int,
        *,
        is_released: bool = False,
    ) -> None:
        """The keeper's report lists a lease no more. `before` is the last one that did.

        `is_released`: the keeper says it gave it up in time. Else the deadline tells which it was, by `now_ns`, the
        boot-time clock.
        """
        is_over = not is_released and lease.deadline_ns <= now_ns
        detail = {}
        if before is not None and 0 < before.at_ns < lease.deadline_ns:
            detail[HELD_UNTIL] = str(before.at_ns)
        if is_over:
            detail[DEADLINE] = str(lease.deadline_ns)
        self._outbox.append(
            RecordKind.EXPIRED if is_over else RecordKind.RELEASED,
            subject=lease.floating_ip,
            token=lease.token,
            holder=self._node,
            reason=self._end_cause(assignment, is_over=is_over),
            detail=detail,
        )

    def _end_cause(self, assignment: Assignment | None, *, is_over: bool) -> str:
        if is_over:
            return "not renewed by a majority of electors before its deadline"
        if assignment is None:
            return "no longer a floating IP"
        if assignment.holder not in (None, self._node):
            return f"assigned to {assignment.holder}"
        return "given up by the lease keeper"


def _cause(part: Part, node: str, *, is_first_report: bool) -> str:
    previous = part.previous
    if is_first_report:
        return "adopted after restart"
    if previous is None:
        return "assigned"
    if previous.node == node:
        return "acquired again"
    if part.role == "successor" or not part.is_previous_up:
        return "failover: previous holder's lease ended"
    return "move"


@dataclass(frozen=True, slots=True)
class Seen:
    """A holder by the word of a majority of electors."""

    node: str
    token: Token
    first_ns: int
    """When it was first seen."""
    last_ns: int
    """When a majority last named it."""
    renewed_ns: int | None
    """It renewed at this time or later; None while a longer lease than usual hides when."""


class LeaderRecorder(_Recorder):
    """Records of one controller: what it decides and sees while it leads. It follows events also while it does not.

    What happened shortly before it was elected, when perhaps nobody led, is recorded then; so are all standing grants.
    """

    def __init__(self, outbox: Outbox, *, node: str, lease_ns: int, clock: Callable[[], int]) -> None:
        """`clock` is CLOCK_BOOTTIME in nanoseconds."""
        super().__init__(outbox, node=node)
        self._lease_ns = lease_ns
        self._clock = clock
        self._unsaid: deque[tuple[int, RecordKind, Facts]] = deque(maxlen=_UNSAID_MAX)
        """What happened while this controller did not lead, and when."""
        self._term: int | None = None
        self._policies: dict[ObjectKey, EgressPolicy] = {}
        self._changed: dict[ObjectKey, None] = {}
        """Policies that a batch changed and whose state is not known yet."""
        self._verdicts: dict[ObjectKey, tuple[bool, str]] = {}
        self._gateway: NetworkGateway | None = None
        self._floating_ips: tuple[IPv4Address, ...] | None = None
        self._node_states: dict[str, NodeState] = {}
        self._down_since_ns: dict[str, int] = {}
        self._drains: dict[str, str] = {}
        self._has_looked = False
        self._seen: dict[IPv4Address, Seen] = {}
        self._told: dict[IPv4Address, Token] = {}
        """Grants on record since this controller leads."""

    # -- leadership --

    def elected(self, token: Token) -> None:
        """This controller leads. What nobody may have recorded in the ten seconds before goes on record behind it."""
        self._term = token.term
        self._told.clear()
        self._outbox.append(RecordKind.LEADER_ELECTED, subject=LEADER_KEY, token=token, holder=self._node)
        for happened_ns, kind, facts in self._unsaid:
            if self._clock() - happened_ns < _INTERREGNUM_NS:
                facts["detail"] = facts.get("detail", {}) | {"happenedBootTimeNs": str(happened_ns)}
                self._outbox.append(kind, **facts)
        self._unsaid.clear()

    def deposed(self, token: Token, reason: str) -> None:
        """It leads no more; from now on it only remembers."""
        self._outbox.append(RecordKind.LEADER_LOST, subject=LEADER_KEY, token=token, holder=self._node, reason=reason)
        self._term = None

    def _record(self, kind: RecordKind, **facts: Unpack[Facts]) -> None:
        if self._term is not None:
            self._outbox.append(kind, **facts)
        else:
            self._unsaid.append((self._clock(), kind, facts))

    # -- members --

    def member(self, name: str, state: NodeState) -> bool:
        """Note a gateway node's state; False where it is known already."""
        if self._node_states.get(name) is state:
            return False
        before = self._node_states.get(name)
        self._node_states[name] = state
        if state is NodeState.UP:
            self._down_since_ns.pop(name, None)
        else:
            self._down_since_ns[name] = self._clock()
        kind = RecordKind.NODE_UP if state is NodeState.UP else RecordKind.NODE_DOWN
        self._record(kind, subject=name, reason="" if before else "first seen")
        return True

    def drains(self, reasons: Mapping[str, str]) -> None:
        """Note which nodes are to be emptied, each with who says so. What the first look finds may be on record."""
        before, self._drains = self._drains, dict(reasons)
        is_first, self._has_looked = not self._has_looked, True
        for name, reason in reasons.items():
            if name not in before:
                found = "; found so" if is_first else ""
                self._record(RecordKind.DRAIN_STARTED, subject=name, reason=f"{reason}{found}")
        for name in before:
            if name not in reasons:
                self._record(RecordKind.DRAIN_ENDED, subject=name, reason=before[name])

    # -- objects --

    def changes(self, batch: Iterable[Change]) -> None:
        """Note what a batch says, before `policy_states`."""
        for change in batch:
            if isinstance(change, Upsert) and isinstance(change.object, EgressPolicy):
                before = self._policies.get(change.object.key)
                self._policies[change.object.key] = change.object
                if before is not None and _content(before) != _content(change.object):
                    self._changed[change.object.key] = None
            elif isinstance(change, Upsert) and isinstance(change.object, NetworkGateway):
                self._gateway = change.object
            elif isinstance(change, Delete) and change.key.kind is Kind.GATEWAY:
                self._gateway = None

    def policy_states(self, states: Mapping[ObjectKey, PolicyState | None]) -> None:
        """Acceptance, refusal, change and deletion are events; how many pods match is not."""
        for key, state in states.items():
            if state is None and key not in self._verdicts:
                continue
            if state is None:
                self._changed.pop(key, None)
                self._policy(RecordKind.POLICY_DELETED, key, "")
                del self._verdicts[key], self._policies[key]
                continue
            verdict = (state.accepted, state.reason)
            if verdict != self._verdicts.get(key):
                self._verdicts[key] = verdict
                kind = RecordKind.POLICY_ACCEPTED if state.accepted else RecordKind.POLICY_REFUSED
                self._policy(kind, key, state.message, {"reason": str(state.reason)})
        for key in self._changed:
            self._policy(RecordKind.POLICY_CHANGED, key, "")
        self._changed.clear()

    def _policy(self, kind: RecordKind, key: ObjectKey, reason: str, detail: Mapping[str, str] | None = None) -> None:
        policy = self._policies.get(key)
        facts = {"egressSourceIP": str(policy.egress_source_ip)} if policy else {}
        self._record(
            kind,
            subject=key.name,
            reason=reason,
            detail=facts | dict(detail or {}),
            generation=policy.generation if policy else 0,
        )

    def gateway(self, name: str, floating_ips: tuple[IPv4Address, ...]) -> None:
        """The spec as the leader places it now; the first one a leader sees is recorded too."""
        if floating_ips == self._floating_ips:
            return
        before, self._floating_ips = self._floating_ips, floating_ips
        detail = {"before": ", ".join(map(str, before))} if before is not None else {}
        self._record(
            RecordKind.GATEWAY_CHANGED,
            subject=name,
            reason=", ".join(map(str, floating_ips)),
            detail=detail,
            generation=self._gateway.generation if self._gateway else 0,
        )

    # -- assignments --

    def assigned(self, row: Assignment, before: Assignment | None) -> None:
        """A row of the leader's table: where the address shall be, or why nowhere."""
        had = (before.holder or "") if before else ""
        kind = RecordKind.ASSIGNED if row.holder else RecordKind.UNASSIGNED if had else RecordKind.REFUSED
        self._outbox.append(
            kind,
            subject=str(row.floating_ip),
            token=(row.stamp.term, row.stamp.version, 0),
            holder=row.holder or "",
            previous=had,
            reason=row.reason,
            detail={"successor": row.successor or ""},
            generation=self._gateway.generation if self._gateway else 0,
        )

    def removed(self, row: Assignment, token: tuple[int, int, int]) -> None:
        """A floating IP that the spec no longer lists. `token` is of the table that leaves it out."""
        self._outbox.append(
            RecordKind.UNASSIGNED,
            subject=str(row.floating_ip),
            token=token,
            previous=row.holder or "",
            reason="no longer in spec.floatingIPs",
            detail={IS_REMOVED: "true"},
            generation=self._gateway.generation if self._gateway else 0,
        )

    # -- ports --

    def ports_moved(
        self, floating_ip: IPv4Address, runs: Sequence[PortRun], *, former: str, reason: str, term: int
    ) -> None:
        """Which node has these ports from now on, by the leader of that term. `former` had them, empty for nobody."""
        owner, *others = dict.fromkeys(run.node for run in runs)
        for part in parts_of(runs):
            self._outbox.append(
                RecordKind.PORTS_MOVED,
                subject=str(floating_ip),
                holder="" if others else owner,
                previous=former,
                reason=reason,
                detail={PORTS: text_of(part.runs), LEADER_TERM: str(term)},
            )

    def ports_table(self, floating_ip: IPv4Address, runs: Sequence[PortRun], *, term: int) -> None:
        """Which node has which ports now, by the leader of that term; the others are nobody's."""
        for part in parts_of(runs):
            detail = {PORTS: text_of(part.runs), SPAN: f"{part.first}-{part.last}", LEADER_TERM: str(term)}
            self._outbox.append(RecordKind.PORTS_TABLE, subject=str(floating_ip), detail=detail)

    def observed(self, table: Mapping[str, Observation], rows: Mapping[IPv4Address, Assignment]) -> None:
        """What a majority of electors says now: grants, and failovers, told apart from moves by the leader's rows."""
        now_ns = self._clock()
        for key, said in table.items():
            if key == LEADER_KEY or said.node is None:
                continue
            floating_ip = IPv4Address(key)
            before = self._seen.get(floating_ip)
            if before is not None and said.node_token < before.token:
                continue  # electors that answer late speak of the past
            is_new = before is None or before.token < said.node_token
            first_ns = now_ns if before is None or is_new else before.first_ns
            renewed_ns = self._renewed_ns(said, now_ns)
            seen = Seen(said.node, said.node_token, first_ns, now_ns - said.age_ns, renewed_ns)
            self._seen[floating_ip] = seen
            if self._term is None:
                continue
            if self._told.get(floating_ip) != seen.token:
                self._told[floating_ip] = seen.token
                previous = before.node if before is not None and is_new else ""
                self._outbox.append(
                    RecordKind.GRANTED, subject=key, token=seen.token, holder=seen.node, previous=previous
                )
            if before is not None and is_new and before.node != seen.node:
                self._failover(key, before, seen, rows.get(floating_ip))

    def _renewed_ns(self, said: Observation, now_ns: int) -> int | None:
        if not 0 < said.remaining_ns <= self._lease_ns:
            return None
        return now_ns - said.age_ns - (self._lease_ns - said.remaining_ns)

    def _failover(self, key: str, old: Seen, new: Seen, row: Assignment | None) -> None:
        down_ns = self._down_since_ns.get(old.node)
        # Where the rows name another holder than the living old one, the leader has asked for this: a move.
        if down_ns is None and (row is None or row.holder != old.node):
            return
        detail = {
            "previousToken": ".".join(map(str, old.token)),
            "lastSeenBootTimeNs": str(old.last_ns),
            "takenOverBootTimeNs": str(new.first_ns),
        }
        if down_ns is not None:
            detail["detectedBootTimeNs"] = str(down_ns)
        if old.renewed_ns is not None:
            # A bound: the old holder still renewed at its beginning, and the new one was named by its end.
            detail["gapMsMax"] = f"{(new.first_ns - old.renewed_ns) / 1e6:.1f}"
        self._outbox.append(
            RecordKind.FAILOVER,
            subject=key,
            token=new.token,
            holder=new.node,
            previous=old.node,
            reason=f"{old.node} is down" if down_ns is not None else f"the lease of {old.node} ended",
            detail=detail,
        )


def _content(policy: EgressPolicy) -> tuple[object, ...]:
    return (policy.rules, policy.destinations, policy.excluded, policy.egress_source_ip, policy.timeouts)
