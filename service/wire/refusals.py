"""Datagrams that a socket refused: counted by reason, told in the log and, while strangers' ones come, in status.

A node with another key is cut off without a sound: it hears nobody, and nobody hears it. Both sides refuse each other's
datagrams all the while, so this is where it shows.
"""

import logging
from collections.abc import Callable, Iterable

from service.model.machine import Address

_log = logging.getLogger(__name__)

NOT_UNDERSTOOD = "not-understood"
"""An authentic datagram that a machine of ours cannot read."""
STRANGE = {
    "unknown-key": "it is sealed with a key that is not in our keyring",
    "bad-tag": "its cluster name or key is another than ours, or it was changed on its way",
    "version": "its sender speaks another version",
    "malformed": "it is none of ours",
    "rate": "more senders than there can be",
    NOT_UNDERSTOOD: "its sender is of another release, or out of order",
    "members-full": "more members are named than there is room for",
    "members-rate": "more new members are named than a cluster gets at once",
    "rows-full": "a table has more rows than there is room for",
    "row-malformed": "it has a row that no member can use",
}
"""What each reason means that does not come about between members that are set up alike. All others do: a member was
restarted, or a datagram came twice."""
REASONS_MAX = 32
"""Reasons counted apart beside the strange ones; what a receiver refuses in words of its own is bounded by it."""
OTHER = "other"
_DETAIL_MAX = 160
LATELY_NS = 10_000_000_000
"""So long after the last strange datagram status still tells of it."""
LOG_EVERY_NS = 60_000_000_000


def count(by_reason: dict[str, int], reason: str) -> str:
    """Count one datagram in a bounded table; under which reason, which is `OTHER` where there are too many."""
    if reason not in by_reason and reason not in STRANGE and len(by_reason) >= REASONS_MAX:
        reason = OTHER
    by_reason[reason] = by_reason.get(reason, 0) + 1
    return reason


class Refusals:
    """Of one socket. `channel` names it to people; `clock`: any that does not go back, in ns.

    `keyring` tells what is wrong with the keys by which datagrams are judged, empty where nothing is.
    """

    def __init__(self, channel: str, *, keyring: Callable[[], str] = lambda: "", clock: Callable[[], int]) -> None:
        self.channel = channel
        self.by_reason: dict[str, int] = {}
        """Datagrams since the socket was made; at most `REASONS_MAX` reasons, the strange ones and `OTHER`."""
        self._keyring = keyring
        self._clock = clock
        self._last: tuple[int, str, str] | None = None
        """When the last strange one came, for which reason it was refused, and what else is told of it."""
        self._logged_ns: dict[str, int] = {}

    def note(self, reason: str, origin: Address, *, detail: str = "") -> None:
        """Count one datagram, or one item of it. Of one that did not open the address is as unproved as all of it: who
        sent it may have written any other."""
        reason = count(self.by_reason, reason)
        if reason not in STRANGE:
            return
        now_ns = self._clock()
        told = f"at last from {origin}: {detail[:_DETAIL_MAX] or STRANGE[reason]}"
        self._last = now_ns, reason, told
        logged_ns = self._logged_ns.get(reason)
        if logged_ns is None or now_ns - logged_ns >= LOG_EVERY_NS:
            self._logged_ns[reason] = now_ns
            _log.error("%s", self._told(reason, told))

    def trouble(self) -> str:
        """What comes now and should not, in one line for status; empty where nothing does and the keys are known."""
        lines = [f"{self.channel}: {keyring}"] if (keyring := self._keyring()) else []
        if self._last is not None and self._clock() - self._last[0] < LATELY_NS:
            _, reason, told = self._last
            lines.append(self._told(reason, told))
        return "; ".join(lines)

    def _told(self, reason: str, told: str) -> str:
        return f"{self.channel}: {self.by_reason[reason]} datagrams refused as {reason}, {told}"


def troubles(sockets: Iterable[Refusals]) -> list[str]:
    """One line for each socket that refuses strange datagrams now; for status."""
    return [trouble for refusals in sockets if (trouble := refusals.trouble())]
