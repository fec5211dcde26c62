"""When to send gratuitous ARP for the floating IPs a node holds (design, section 6).

At once, again at 0.2 s, then five times 1.1 s apart (Linux ignores a change within its ARP locktime of 1 s), then each
60 s, below the 300 s after which switches forget a MAC. The machine says when; the driver sends request and reply form.

Two forms, because hosts differ in which of them they heed: RFC 826 updates a known entry on either, RFC 5227 (section
3) announces by requests. Whether somebody else uses the address was asked before it was first claimed, by ARP probes
(RFC 5227, section 2.1): that is the driver's affair, too.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address

from service.model.errors import InvariantError

_MS = 1_000_000
FIRST_GAPS_NS = (200 * _MS, *(1100 * _MS,) * 5)
"""Waits after the announcements of the opening burst."""
STEADY_GAP_NS = 60_000 * _MS


@dataclass(frozen=True, slots=True)
class Announce:
    """Send gratuitous ARP for this floating IP now, in request and in reply form."""

    floating_ip: IPv4Address


@dataclass(slots=True)
class _Plan:
    sent: int
    """Announcements since start or restart: the place in the opening burst."""
    due_ns: int
    """When the next is due."""


class AnnouncementSchedule:
    """One plan per floating IP held. Times are any monotonic nanoseconds that never go backwards."""

    def __init__(self) -> None:
        self._plans: dict[IPv4Address, _Plan] = {}
        self._outputs: list[Announce] = []
        self._now_ns = 0

    def start(self, floating_ip: IPv4Address, now_ns: int) -> None:
        """Begin with an announcement at once. An IP that is being announced goes on as it was."""
        # Idempotent, because the keeper repeats what it holds several times a second.
        if floating_ip not in self._plans:
            self._begin(floating_ip, now_ns)

    def restart(self, floating_ip: IPv4Address, now_ns: int) -> None:
        """Begin anew after link-up or a healed partition: what listeners learned meanwhile is unknown.

        An IP that was not started is not held, and stays silent.
        """
        if floating_ip in self._plans:
            self._begin(floating_ip, now_ns)

    def stop(self, floating_ip: IPv4Address) -> None:
        """Be silent from now on, also about what has not been drained yet: the lease is lost."""
        self._plans.pop(floating_ip, None)
        self._outputs = [output for output in self._outputs if output.floating_ip != floating_ip]

    def advance(self, now_ns: int) -> None:
        """Announce what is due. Late is harmless: each plan says one announcement, and goes on from now."""
        self._tick(now_ns)
        for floating_ip, plan in self._plans.items():
            if plan.due_ns <= now_ns:
                self._announce(floating_ip, plan, now_ns)

    def deadline_ns(self) -> int | None:
        """When the next announcement is due; None where nothing is held."""
        return min((plan.due_ns for plan in self._plans.values()), default=None)

    def drain(self) -> list[Announce]:
        """Return the announcements since the last call, in order."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def _begin(self, floating_ip: IPv4Address, now_ns: int) -> None:
        self._tick(now_ns)
        plan = self._plans[floating_ip] = _Plan(sent=0, due_ns=now_ns)
        self._announce(floating_ip, plan, now_ns)

    def _announce(self, floating_ip: IPv4Address, plan: _Plan, now_ns: int) -> None:
        self._outputs.append(Announce(floating_ip))
        gap_ns = FIRST_GAPS_NS[plan.sent] if plan.sent < len(FIRST_GAPS_NS) else STEADY_GAP_NS
        plan.sent += 1
        # From now, not from when it was due: after a pause there is one announcement, not a burst of missed ones, and
        # two are never closer than the locktime that the gaps are made for.
        plan.due_ns = now_ns + gap_ns

    def _tick(self, now_ns: int) -> None:
        if now_ns < self._now_ns:
            raise InvariantError(f"time went backwards: {now_ns} after {self._now_ns}")
        self._now_ns = now_ns
