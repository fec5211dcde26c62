"""What this node holds, by the word of its lease keeper: what is new is announced and told, what is gone is stopped."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from service.audit.recorder import AgentRecorder, Part
from service.model.assignment import Assignment, Location
from service.model.gateway_node import NodeState
from service.model.keeper_message import HeldLease, LeaseReport
from service.network.announcer import Announcer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lost:
    """A lease that a report lists no more."""

    lease: HeldLease
    is_released: bool
    """The keeper says that it gave it up in time; else its deadline tells."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What one report changes."""

    acquired: tuple[HeldLease, ...]
    """New addresses, and known ones under a new token: another lease, even if no report was without it."""
    lost: tuple[Lost, ...]


def compare(held: Mapping[IPv4Address, HeldLease], report: LeaseReport) -> Difference:
    """What the report says that was not so before."""
    now = by_address(report.held)
    acquired = tuple(
        lease for floating_ip, lease in now.items() if floating_ip not in held or held[floating_ip].token != lease.token
    )
    lost = tuple(
        Lost(lease, lease.floating_ip in report.released)
        for floating_ip, lease in held.items()
        if floating_ip not in now
    )
    return Difference(acquired, lost)


def by_address(leases: Iterable[HeldLease]) -> dict[IPv4Address, HeldLease]:
    """The leases by their floating IPs."""
    return {IPv4Address(lease.floating_ip): lease for lease in leases}


class Holdings:
    """Takes the keeper's reports in the order they come, and acts on what they change, at once.

    Acts in this order for an address that is new: the word is spread before anything is recorded, for pods wait for it.
    """

    def __init__(
        self,
        node: str,
        *,
        clock: Callable[[], int],
        announcer: Announcer,
        recorder: AgentRecorder,
        assignments: Callable[[], Mapping[IPv4Address, Assignment]],
        locations: Callable[[], Mapping[IPv4Address, Location]],
        is_up: Callable[[str], bool],
        tell: Callable[[Location], None],
        changed: Callable[[], None],
    ) -> None:
        """`tell` spreads that an address is here now. `clock` is CLOCK_BOOTTIME in ns, as deadlines are."""
        self._node = node
        self._clock = clock
        self._announcer = announcer
        self._recorder = recorder
        self._assignments = assignments
        self._locations = locations
        self._is_up = is_up
        self._tell = tell
        self._changed = changed
        self.report: LeaseReport | None = None
        """The last one that came, however old: whether the keeper lives is the link's to say."""
        self.held: dict[IPv4Address, HeldLease] = {}

    def take_report(self, report: LeaseReport) -> None:
        """Announce what is new, stop what is gone."""
        before, self.report = self.report, report
        difference = compare(self.held, report)
        for lease in difference.acquired:
            self._acquire(lease, report, is_first_report=before is None)
        for lost in difference.lost:
            self._lose(lost, before)
        self.held = by_address(report.held)

    def expire(self) -> None:
        """Let go of what has run out. For when the keeper says nothing any more: nobody else tells of it then."""
        now_ns = self._clock()
        for floating_ip in [one for one, lease in self.held.items() if lease.deadline_ns <= now_ns]:
            self._lose(Lost(self.held.pop(floating_ip), is_released=False), self.report)

    def _acquire(self, lease: HeldLease, report: LeaseReport, *, is_first_report: bool) -> None:
        floating_ip = IPv4Address(lease.floating_ip)
        previous = self._locations().get(floating_ip)
        self._tell(Location(floating_ip, self._node, lease.token))
        self._announcer.start(floating_ip)
        self._recorder.acquired(lease, self._part(floating_ip, previous), report, is_first_report=is_first_report)
        _log.info("holding %s with token %s", floating_ip, ".".join(map(str, lease.token)))
        self._changed()

    def _part(self, floating_ip: IPv4Address, previous: Location | None) -> Part:
        assignment = self._assignments().get(floating_ip)
        roles = {assignment.successor: "successor", assignment.holder: "holder"} if assignment else {}
        is_previous_up = previous is not None and self._is_up(previous.node)
        return Part(roles.get(self._node, ""), previous, is_previous_up)

    def _lose(self, lost: Lost, before: LeaseReport | None) -> None:
        floating_ip = IPv4Address(lost.lease.floating_ip)
        self._announcer.stop(floating_ip)
        now_ns = self._clock()
        is_over = not lost.is_released and lost.lease.deadline_ns <= now_ns
        assignment = self._assignments().get(floating_ip)
        self._recorder.ended(lost.lease, before, assignment, now_ns, is_released=lost.is_released)
        _log.info("%s %s", "lease expired for" if is_over else "released", floating_ip)
        self._changed()


class Returns:
    """Notices members that come back: the segment was parted, and its hosts may have learned anything meanwhile."""

    def __init__(self, returned: Callable[[], None]) -> None:
        self._returned = returned
        self._states: dict[str, NodeState] = {}

    def note(self, name: str, state: NodeState) -> None:
        """A member's state as gossip has it now."""
        if state is NodeState.UP and self._states.get(name) is NodeState.DOWN:
            self._returned()
        self._states[name] = state
