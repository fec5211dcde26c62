"""The highest token of each key that any elector has named to a claimant, and what to propose above it (rule K1).

Majorities intersect: the highest token of any tenure so far is known to some elector of every majority, which refuses
what is not above it and names it; so a proposal that a majority grants is above all former tenures.
"""

from service.model.lease import COUNTER_MAX, LEADER_KEY, ZERO_TOKEN, Stamp, Token


class HighestTokens:
    """Only grows. It is hearsay, of one elector alone perhaps: enough to go above, never enough to act upon."""

    def __init__(self) -> None:
        self._highest: dict[str, Token] = {}

    def note(self, key: str, token: Token) -> None:
        """An elector, or the fence that an earlier process left, knows this token."""
        if token > self._highest.get(key, ZERO_TOKEN):
            self._highest[key] = token

    def proposal(self, key: str, stamp: Stamp, *, own: Token) -> Token:
        """The token to claim the key under, for an assignment of this age. `own`: what was proposed so far."""
        highest = self._highest.get(key, ZERO_TOKEN)
        if key == LEADER_KEY:
            # A new leader outranks the traces of every other: the term goes above all terms seen in any token. The
            # stamps of its assignments begin with this term, so they are newer than those of every leader before.
            term = max(token.term for token in (own, *self._highest.values()))
            return Token(term + 1, 0, 1)
        # Of an older stamp than what was granted it stays refused until a newer assignment names us (P4): an
        # assignment directs a claim, and nobody may make his own look newer than it is.
        # At the last one there is it stays refused, like an older stamp: beyond it the whole datagram would be.
        return Token(*stamp, min(highest.counter + 1, COUNTER_MAX) if stamp == highest.stamp else 1)
