"""Who may answer for the statuses, and when that has to be renewed. Pure.

Age is measured here and never read from a written time, so the clocks of two controllers need not agree: a validity
that was read unchanged for VALID_NS is over.
"""

from service.model.validity import LEADER_SILENT, Loss, Validity

RENEW_NS = 5_000_000_000
"""How often it is renewed, and read by who does not answer."""
VALID_NS = 15_000_000_000
"""Not renewed for so long, it is over (rule V1)."""


class ValidityView:
    """The validity as one controller sees it. `name` is that controller's."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.seen: Validity | None = None
        self._since_ns: int | None = None
        """Since when the present version was read again and again; None before the first reading."""
        self._looked_ns: int | None = None
        self._next_ns = 0

    def is_due(self, *, now_ns: int) -> bool:
        """It is time to read or renew."""
        return now_ns >= self._next_ns

    def note(self, seen: Validity | None, *, now_ns: int) -> None:
        """This was read or written just now; None: there is none."""
        # Who has not looked for long does not know that nothing came meanwhile: the source may have been away for all.
        is_gap = self._looked_ns is None or now_ns - self._looked_ns > 2 * RENEW_NS
        if is_gap or seen != self.seen:
            self._since_ns = now_ns
        self._looked_ns, self._next_ns, self.seen = now_ns, now_ns + RENEW_NS, seen

    def hurry(self) -> None:
        """Look again at once."""
        self._next_ns = 0

    def is_own(self, term: int) -> bool:
        """This controller answers for the statuses, as leader of that term."""
        seen = self.seen
        return seen is not None and (seen.speaker, seen.term, seen.loss) == (self._name, term, None)

    def claim_as_leader(self, term: int, *, wall: str, now_ns: int) -> Validity | None:
        """What a leader has to write; None while a leader of a higher term answers. Nobody else is waited for (V2)."""
        if self.seen is not None and self.seen.term > term and not self._is_over(now_ns):
            return None
        return Validity(self._name, term, wall)

    def claim_as_witness(self, loss: Loss, *, now_ns: int) -> Validity | None:
        """What who does not lead has to write; None while somebody else answers, or a leader may come back (V2)."""
        seen = self.seen
        is_mine = seen is not None and seen.speaker == self._name and seen.loss is not None
        if not (is_mine or self._is_over(now_ns)):
            return None
        if seen is None:
            # Who leads and has never renewed any is of a release before it; what it writes, it would not write again.
            return Validity(self._name, 0, "", loss) if loss.reason != LEADER_SILENT else None
        # The same words for as long as the reason is the same: another word is another write of every object.
        said = seen.loss if seen.loss is not None and seen.loss.reason == loss.reason else loss
        return Validity(self._name, seen.term, seen.confirmed, said)

    def _is_over(self, now_ns: int) -> bool:
        return self._since_ns is not None and now_ns - self._since_ns >= VALID_NS
