"""Who asks one elector for keys, and what each of them wants of which key (leases.md, S1, P4).

Nothing here is a promise, and nothing is written anywhere: an elector that restarts hears it all again within one renew
interval. What is lost with it is only the time for which a claim had been standing.
"""

from collections.abc import Mapping

from service.lease.message import ClaimRole, Entry, Renew
from service.lease.promise import Identity, Instant
from service.lease.standing_claim import STANDING_INTERVALS, ClaimedGroup, HolderSession, StandingClaim
from service.model.lease import LEADER_KEY, Stamp, Token
from service.model.machine import Source

IDLE_NS = 60_000_000_000
"""A session unheard of for this long is forgotten; its promises, if any, live on by themselves."""
_STARTS_REMEMBERED = 8
"""Replaced start ids kept per session; a datagram of an older start than these can hardly still be under way."""


class Claimants:
    """The sessions of holder processes, and their claims. Time is passed in, on both clocks of the elector."""

    sessions: dict[Identity, HolderSession]
    """One per kernel and node name: the process that was heard last, and has not been replaced."""
    claims: dict[str, dict[Identity, StandingClaim]]
    """By key; a key that nobody claims is absent."""
    _news: dict[str, tuple[Stamp, int]]
    """Stamp of the newest assignment that any claim for the key had, and when it was first heard (CLOCK_BOOTTIME)."""
    _replaced: dict[tuple[Identity, int], None]
    """Start ids that another start of the same node has replaced, the most recent last."""

    def __init__(self, now: Instant) -> None:
        self.sessions, self.claims, self._news, self._replaced = {}, {}, {}, {}
        self._purge_ns = now.boot_ns + IDLE_NS

    def of(self, key: str) -> Mapping[Identity, StandingClaim]:
        """All claims for a key, also those that are void by now."""
        return self.claims.get(key, {})

    def best(self, key: str, *, above: Token, now: Instant) -> StandingClaim | None:
        """The claim that goes first (P4) of those that are alive, have waited long enough, and go above the token."""
        ready = [
            claim
            for claim in self.of(key).values()
            # K1: a token at or below the highest ever granted would let an old holder's traces outrank the new one's.
            if claim.token > above and claim.is_alive(now) and claim.patient_until_ns <= now.boot_ns
        ]
        return max(ready, key=lambda claim: claim.rank, default=None)

    # --- sessions ---

    def session(self, source: Source, message: Renew, *, now: Instant) -> HolderSession | None:
        """The session of this process; None where a newer process of the same node has taken its place."""
        identity = Identity(source.node, message.boot_id)
        session = self.sessions.get(identity)
        if session is not None and session.start_id != source.start_id:
            # A keeper was restarted. Its predecessor's datagrams may still be under way and must not bring back its
            # claims, but if the newcomer is the one that fell silent, the other is heard again: no order is known
            # between two start ids, and a wrong guess for ever would cost the node its IPs.
            quiet = now.boot_ns - session.heard.boot_ns >= STANDING_INTERVALS * session.renew_ns
            if (identity, source.start_id) in self._replaced and not quiet:
                return None
            self._replace(session)
            session = None
        if session is None:
            # Letter by letter negated: of two equal claims the node that comes first by name has the greater rank.
            order = tuple(-letter for letter in source.node.encode() + message.boot_id)
            session = HolderSession(
                identity, source.start_id, source.address, message.lease_ns, message.renew_ns, now, order
            )
            self.sessions[identity] = session
        session.heard = now
        return session

    def _replace(self, session: HolderSession) -> None:
        # Only claims go: what the process was promised stays promised to this kernel, whose fence is still open (S8).
        for key in list(self.claims):
            self.drop(key, session.identity)
        mark = (session.identity, session.start_id)
        # Taken out first: one that is replaced again is the most recent again.
        self._replaced.pop(mark, None)
        self._replaced[mark] = None
        while len(self._replaced) > _STARTS_REMEMBERED * max(1, len(self.sessions)):
            del self._replaced[next(iter(self._replaced))]

    def purge(self, now: Instant) -> bool:
        """Forget what has not been heard of for a minute; looks, and says True, only once a minute itself."""
        if now.boot_ns < self._purge_ns:
            return False
        self._purge_ns = now.boot_ns + IDLE_NS
        for identity, session in list(self.sessions.items()):
            if now.boot_ns - session.heard.boot_ns < IDLE_NS:
                continue
            del self.sessions[identity]
            for key in list(self.claims):
                self.drop(key, identity)
        # A key that nobody claims any more: its next assignment is news again.
        self._news = {key: news for key, news in self._news.items() if key in self.claims}
        return True

    # --- claims ---

    def replace_list(
        self, session: HolderSession, number: int, group: ClaimedGroup, entries: tuple[Entry, ...]
    ) -> None:
        """Take a new list of a group. A key that vanished from it is no longer claimed.

        Its promise, if any, lives on to its end (P1): vanishing is not a release, which says that the fence is closed.
        """
        listed = {entry.key for entry in entries}
        for entry in group.entries:
            claim = self.of(entry.key).get(session.identity)
            if entry.key not in listed and claim is not None and claim.group == number:
                self.drop(entry.key, session.identity)
        group.entries = entries

    def put(self, session: HolderSession, number: int, entry: Entry, *, is_open: bool, now: Instant) -> None:
        """Make or refresh a claim. `is_open`: nobody has the key promised at present."""
        news = self._news.get(entry.key)
        if news is None or entry.token.stamp > news[0]:
            news = self._news[entry.key] = (entry.token.stamp, now.boot_ns)
        known = self.of(entry.key).get(session.identity)
        patient_until_ns = now.boot_ns
        # All controllers stand for leadership, and none is assigned: there is nobody to wait for.
        if entry.role is ClaimRole.STANDING and entry.key != LEADER_KEY:
            if known is not None and known.role is entry.role:
                patient_until_ns = known.patient_until_ns
            elif is_open:
                # News of an assignment reaches its successor first as often as its holder. Where nobody holds the key
                # there is nothing to take over yet: the holder named has one lease time to come, from the moment the
                # assignment was first heard of; a claim that was given up and made again does not wait anew. A claim
                # that was standing when a promise ended has no such wait (S1).
                patient_until_ns = news[1] + session.lease_ns
        claim = StandingClaim(session, number, entry.role, entry.token, now.boot_ns, patient_until_ns)
        self.claims.setdefault(entry.key, {})[session.identity] = claim

    def drop(self, key: str, identity: Identity) -> None:
        """Forget a claim, if there is one."""
        claims = self.claims.get(key, {})
        claims.pop(identity, None)
        if not claims:
            self.claims.pop(key, None)
