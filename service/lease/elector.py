"""One elector: it promises each key to at most one session at a time, and keeps its word (leases.md, Promises).

Safety rests on three sentences. A promise lasts L from receipt and ends only when both clocks have passed it (T2, T3).
It never shrinks but by a release that says the fence is closed (P1). It outlives the process, or the elector is silent
until it is over (P2). Majorities intersect, so two sessions can never both count a majority for one key.

Liveness rests on standing claims (S1): every claim that is not granted stays recorded, and the moment a promise ends
the elector grants to the best claim of its own accord.
"""

from collections.abc import Mapping

from service.lease.answer import acknowledgement, rows_of
from service.lease.claimants import Claimants
from service.lease.elector_output import ElectorOutput, Persist, Promised, Remember, Settled
from service.lease.electorate_message import (
    ELECTORATE_KINDS,
    Standing,
    Survey,
    Transfer,
    TransferQuery,
    decode_electorate_message,
    encode_electorate_message,
    transfers,
)
from service.lease.message import Ack, ClaimRole, Entry, Query, Renew, decode, encode, kind_of, reports
from service.lease.oblivion import forget_idle, highest_token
from service.lease.promise import (
    NEVER,
    Identity,
    Instant,
    Promise,
    StoredPromises,
    decode_promises,
    decode_tokens,
    encode_promises,
    encode_tokens,
)
from service.lease.settlement import Settlement, inherit
from service.lease.standing_claim import ClaimedGroup, HolderSession, StandingClaim
from service.model.errors import InvariantError, PeerError
from service.model.lease import LEADER_KEY, Elector, Electorate
from service.model.machine import Send, Source


class ElectorMachine:
    """Answers Renew and Query. Follows the machine contract, but takes time on both clocks (rule T3).

    Every keeper has one; it promises something only while the electorate names it. Outputs: Send, Persist, Remember,
    Promised, Settled, in the order in which they must be executed.
    """

    misses_other: bool
    """Told by the driver, for whoever asks: of two electors this one does not hear the other (leases.md, Two nodes)."""
    _memory: int
    """Number of the disk that this elector's records are on (M7)."""
    _electorate: Electorate
    """The one in force here: it is on disk, and nothing is answered in an older epoch (M1, M4)."""
    _settled: bool
    """That this elector knows what was promised before the epoch is on disk (M3)."""
    _settlement: Settlement | None
    """The asking for it; None where there is nothing to ask, or the answer is on its way to the disk."""
    _lease_ns_max: int
    """No renewal is granted that asks for more."""
    _longest_ns: int
    """That, or more where an earlier process allowed more: the silence of P2 is measured by it."""
    _now: Instant
    """The latest time that any call brought. Promises are judged by it, never by a clock read in between."""
    _silent_until: Instant
    """End of the silence of P2; NEVER, which has passed, where the promises survived."""
    _promises: dict[str, Promise]
    """Every key that was granted, as long as it is remembered. One that is over stays for its token, which the next
    must be above (K1)."""
    _new_tokens: dict[str, None]
    """Keys whose token has grown in the present call, and is not yet on its way to the disk; empty between calls."""
    _undurable: dict[str, int]
    """Keys that were granted under a token that must be on disk before its holder hears of it, by the number of the
    record that has it (K1). Only they wait for the disk, not what was granted before."""
    _records: int
    """Number of the last record of tokens."""
    _claimants: Claimants
    """Who asks for what. Unlike promises it is lost with the process, and costs nothing to lose."""

    def __init__(
        self,
        *,
        node: str,
        boot_id: bytes,
        electorate: Electorate,
        memory: int = 0,
        settled: bool = True,
        lease_port: int = 9644,
        lease_ns_max: int,
        longest_ns: int = 0,
        promises: bytes | None,
        tokens: bytes | None,
        now: Instant,
    ) -> None:
        """Everything as found in shared memory (`promises`) and on disk; None where there is no such record.

        `longest_ns`: how long a lease may be that an earlier process promised, where that was more than is allowed now.
        """
        self._node, self._boot_id, self._memory = node, boot_id, memory
        self._lease_port = lease_port
        self._electorate, self._settled = electorate, settled
        self._lease_ns_max = lease_ns_max
        self._longest_ns = max(longest_ns, lease_ns_max)
        self._now = now
        self.misses_other = False
        self._outputs: list[ElectorOutput] = []
        self._claimants = Claimants(now)
        self._undurable, self._records = {}, 0
        # The disk knows tokens only; the promises of this boot, where they survive, know at least as much (K1).
        on_disk = decode_tokens(tokens) or {}
        self._promises = {key: Promise(token) for key, token in on_disk.items()}
        self._silent_until = NEVER
        self._recall(decode_promises(promises))
        # What the process before could not write any more is written first, and waited for as if it were new.
        self._new_tokens = {key: None for key, promise in self._promises.items() if on_disk.get(key) != promise.token}
        self._outputs += self._record_new_tokens(is_news=False)
        self._settlement = None
        self._begin_settlement()

    def _recall(self, stored: StoredPromises | None) -> None:
        """Go on with the promises of an earlier process of this boot, or be silent until they are over (P2)."""
        if stored is not None and stored.boot_id == self._boot_id:
            self._restore(stored)
            return
        # Promises that this elector made and forgot may still be alive. The longest one it could have made is over
        # after 1.2 of its length: the fifth covers the difference of the clocks before and after. A record of an
        # earlier boot promises nothing any more, but says how long a lease may have been then.
        longest_ns = max(self._longest_ns, stored.lease_ns_max if stored is not None else 0)
        self._silent_until = self._now.later_by(longest_ns * 12 // 10)

    def _restore(self, stored: StoredPromises) -> None:
        for key, promise in stored.promises.items():
            known = self._promises.get(key)
            # The disk can be ahead by one grant that was never answered: the process died between the two writes.
            # The promise stands as it is; only what is granted next must go above both.
            if known is not None and known.token > promise.token:
                promise.token = known.token
            self._promises[key] = promise

    @property
    def is_voting(self) -> bool:
        """False in the silence of rule P2."""
        return self._now.boot_ns >= self._silent_until.boot_ns and self._now.raw_ns >= self._silent_until.raw_ns

    @property
    def epoch(self) -> int:
        """The only one in which anything is answered (M4)."""
        return self._electorate.epoch

    @property
    def electorate(self) -> Electorate:
        """The one in force here; a newer one may be on its way to the disk."""
        return self._electorate

    @property
    def is_elector(self) -> bool:
        """The electorate names this node, and means the disk it has (M7)."""
        return self._is_named(self._electorate.members)

    def is_elector_alone_in(self, electorate: Electorate) -> bool:
        """The electorate is this elector and nobody else."""
        return electorate.is_sole and self._is_named(electorate.members) and self.is_elector

    @property
    def is_settled(self) -> bool:
        """It knows what was promised before this epoch (M3)."""
        return self._settled

    @property
    def _has_say(self) -> bool:
        """In this epoch, or, where both are needed (M3), in the one before."""
        return self.is_elector or self._is_named(self._electorate.previous)

    def _is_named(self, electors: tuple[Elector, ...]) -> bool:
        return any(one.name == self._node and one.memory in (0, self._memory) for one in electors)

    @property
    def _is_ignorant(self) -> bool:
        # A newcomer that has not settled knows of no promise: it would only keep its vote from who holds the key.
        return self.is_elector and not self._settled and not self._is_named(self._electorate.previous)

    def adopt(self, electorate: Electorate, *, now: Instant) -> None:
        """Go over to a newer electorate, which is on disk already (M1). One that is not newer changes nothing.

        From now on nothing is answered in older epochs. What was promised stays promised.
        """
        self.advance(now=now)
        if electorate.epoch <= self._electorate.epoch:
            return
        self._electorate = electorate
        # A first electorate, or one begun anew after the longest lease (M6), has nothing to learn.
        self._settled = not electorate.previous
        self._begin_settlement()

    def confirm_settled(self, epoch: int) -> None:
        """What `Settled` told is on disk."""
        if epoch == self._electorate.epoch:
            self._settled, self._settlement = True, None

    def _begin_settlement(self) -> None:
        self._settlement = None
        if not self._settled and self.is_elector:
            self._settlement = Settlement(
                self._electorate, node=self._node, lease_port=self._lease_port, now_ns=self._now.boot_ns
            )

    def promises(self) -> Mapping[str, Promise]:
        """What is promised, by key; for status."""
        return self._promises

    def receive(self, source: Source, payload: bytes, *, now: Instant) -> None:
        """Take one datagram; `now` read after it was received (T1). Raises PeerError with no promise changed."""
        if kind_of(payload) in ELECTORATE_KINDS:
            self._receive_of_electorate(source, decode_electorate_message(payload), now)
            return
        message = decode(payload)
        # Promises that have ended go to the standing claims first. A late renewal of the old holder must not win
        # against a successor only because the timer was late (S1).
        self.advance(now=now)
        if not isinstance(message, Renew | Query):
            raise PeerError("lease datagram: not for an elector")
        if message.epoch != self._electorate.epoch:
            # M4: what another electorate asks is not ours to answer; but one of the two can learn from the other.
            self._outputs.append(Send(source.address, encode_electorate_message(self._electorate)))
            return
        if not self._has_say:
            raise PeerError(f"lease datagram: not an elector in epoch {message.epoch}")
        if isinstance(message, Query):
            # Also in the silence, of which the report speaks: the observer then does not count it.
            self._answer_query(source, message)
            return
        if message.lease_ns > self._lease_ns_max:
            # The silence of P2 is measured by the longest lease: a longer one must never be promised.
            raise PeerError(f"lease of {message.lease_ns} ns asked, at most {self._lease_ns_max} ns are promised")
        # In the silence (P2) it says nothing: what it has forgotten it can neither grant nor refuse.
        if self.is_voting:
            self._renew(source, message)

    def _receive_of_electorate(self, source: Source, message: object, now: Instant) -> None:
        self.advance(now=now)
        if isinstance(message, Survey):
            flags = (self.is_voting, self._settled, self.is_elector, self.misses_other)
            standing = Standing(self.epoch, message.sequence, self._memory, *flags)
            self._outputs.append(Send(source.address, encode_electorate_message(standing)))
        elif isinstance(message, TransferQuery):
            self._hand_over(source, message)
        elif isinstance(message, Transfer):
            if self._settlement is not None:
                self._settlement.take(source.node, message)
                self._settle_if_complete()
        else:
            raise PeerError("lease datagram: not for an elector")

    def _hand_over(self, source: Source, message: TransferQuery) -> None:
        """Tell an elector of this epoch everything that was promised here, in whichever epoch (M3)."""
        if message.epoch != self.epoch:
            # Who asks is behind, or is ahead of us. In the second case our answer would be worth nothing: only who has
            # gone over itself, and so promises nothing in the epoch before any more, has said the last word on it.
            self._outputs.append(Send(source.address, encode_electorate_message(self._electorate)))
            return
        parts = transfers(
            self.epoch,
            message.sequence,
            # One that lost its disk is another elector than the one that is asked (M7).
            voting=self.is_voting and self._has_say,
            settled=self._settled,
            promises=self._promises,
            now=self._now,
        )
        self._outputs += [Send(source.address, encode_electorate_message(part)) for part in parts]

    def _settle_if_complete(self) -> None:
        settlement = self._settlement
        # In its own silence (P2) it does not even know what it promised itself.
        if settlement is None or not self.is_voting or not settlement.is_complete():
            return
        for rows in settlement.heard.values():
            for row in rows:
                inherit(self._promises.setdefault(row.key, Promise()), row, self._now)
        # Nobody is told that this elector is settled before `confirm_settled` says that it is on disk: an epoch that
        # was once seen in force must stay so through every restart (electorate.is_in_force).
        self._settlement = None
        self._records += 1
        self._outputs.append(self._persisted_promises())
        self._outputs.append(Remember(encode_tokens(self._promises), self._records))
        self._outputs.append(Settled(self.epoch))

    def advance(self, *, now: Instant) -> None:
        """Let time pass: grant every key whose promise has ended to the best standing claim (S1)."""
        if now.boot_ns < self._now.boot_ns or now.raw_ns < self._now.raw_ns:
            raise InvariantError("time went backwards")
        self._now = now
        self._grant_open([key for key in self._claimants.claims if self._is_open(key)], [])
        if self._settlement is not None and self.is_voting:
            self._outputs += self._settlement.ask(now.boot_ns)
            self._settle_if_complete()
        if self._claimants.purge(now):
            self._forget_idle()

    def _forget_idle(self) -> None:
        if forget_idle(self._promises, {*self._claimants.claims, *self._undurable}, self._now):
            self._records += 1
            self._outputs.append(self._persisted_promises())
            self._outputs.append(Remember(encode_tokens(self._promises), self._records))

    def deadline_ns(self) -> int | None:
        """The next end of a promise, or of patience, that somebody waits for (CLOCK_BOOTTIME); None where nobody is."""
        due = [] if self._settlement is None else [self._settlement_due_ns(self._settlement)]
        for key, claims in self._claimants.claims.items():
            promise = self._promises.get(key)
            # Its holder does not wait for a promise to end: it renews it, or it takes it up again by renewing.
            holder = promise.holder if promise is not None else None
            waiting = [claim for identity, claim in claims.items() if identity != holder and claim.is_alive(self._now)]
            if not waiting:
                continue
            if promise is None or promise.is_over(self._now):
                # What is open and not granted waits for patience to end, or for a better token, which is no timer.
                due += [claim.patient_until_ns for claim in waiting if claim.patient_until_ns > self._now.boot_ns]
            else:
                # T3: both clocks must pass; the raw one's share is what is left on it now.
                due.append(self._now.boot_ns + promise.until.left_ns(self._now))
        return min(due, default=None)

    def _settlement_due_ns(self, settlement: Settlement) -> int:
        # Nobody is asked in the silence (P2): it could not settle before its end anyway.
        return max(settlement.next_ns, self._now.boot_ns + self._silent_until.left_ns(self._now))

    def drain(self) -> list[ElectorOutput]:
        """The outputs since the last call, to be executed strictly in this order (P2, K1), and forget them."""
        outputs, self._outputs = self._outputs, []
        return outputs

    # --- renewals ---

    def _renew(self, source: Source, message: Renew) -> None:
        session = self._claimants.session(source, message, now=self._now)
        if session is None:
            return
        group = session.groups.setdefault(message.group, ClaimedGroup())
        if message.sequence <= group.sequence:
            # Reordered or duplicated. Above all, a renewal sent before a release must not undo it (P1).
            return
        group.sequence = message.sequence
        session.address = source.address
        session.lease_ns, session.renew_ns = message.lease_ns, message.renew_ns
        if message.entries is not None:
            self._claimants.replace_list(session, message.group, group, message.entries)
            group.list_number = message.list_number
        elif message.list_number != group.list_number:
            # Which keys are meant is not known here, since this process or the one before it missed the list. Nothing
            # is refreshed: to extend what an older list says could extend what has been given up since.
            ack = Ack(self.epoch, session.start_id, message.sequence, message.group, message.list_number, True, ())
            self._outputs.append(Send(session.address, encode(ack)))
            return
        self._refresh(session, message.group, group)

    def _refresh(self, session: HolderSession, number: int, group: ClaimedGroup) -> None:
        """Extend, release or claim every key of a group, then grant what is open, and answer once for all of it."""
        until = self._now.later_by(session.lease_ns)
        waiting = []
        changed = False
        for entry in group.entries:
            if entry.role is ClaimRole.RELEASED:
                changed |= self._release(session, entry)
                # Open now, perhaps: whoever stands for it gets it in this very step, not at the next timer (S1).
                waiting.append(entry.key)
                continue
            is_open = self._is_open(entry.key)
            self._claimants.put(session, number, entry, is_open=is_open, now=self._now)
            promise = self._promises.get(entry.key)
            if promise is not None and promise.holder == session.identity:
                changed |= self._extend(promise, session, entry, until)
            # Not `is_open`: an extension may just have taken up again what had lapsed.
            if self._is_open(entry.key):
                waiting.append(entry.key)
        self._grant_open(waiting, [(session, number)], changed=changed)

    # --- promises ---

    def _extend(self, promise: Promise, session: HolderSession, entry: Entry, until: Instant) -> bool:
        """Renew what this session has; True where the promise changed."""
        if entry.token == promise.token:
            # Also where the promise had lapsed meanwhile: nobody was granted in between, or the token would be higher.
            # But a new process that happens to propose its predecessor's token is not its predecessor (K1).
            if not entry.held and promise.start_id != session.start_id:
                return False
        elif entry.token > promise.token and not promise.is_over(self._now):
            # The same fence under a higher token: another elector knew a higher one, so the claimant went above it.
            # Where the promise is over this is a claim like any other, to be granted in its turn.
            promise.token = entry.token
            self._new_tokens[entry.key] = None
        else:
            return False
        promise.start_id = session.start_id
        promise.extend(until)
        return True

    def _release(self, session: HolderSession, entry: Entry) -> bool:
        """End a promise early, as only its holder may; True where it changed."""
        self._claimants.drop(entry.key, session.identity)
        promise = self._promises.get(entry.key)
        # Only who was promised may release, and only the tenure it means: not a later one of its own.
        if promise is None or promise.holder != session.identity or promise.token > entry.token:
            return False
        promise.release()
        return True

    def _is_open(self, key: str) -> bool:
        promise = self._promises.get(key)
        return promise is None or promise.is_over(self._now)

    def _grant_open(self, keys: list[str], answered: list[tuple[HolderSession, int]], *, changed: bool = False) -> None:
        """Grant the open ones of `keys` to their best claims, then write, then answer: `answered` and who won.

        `changed`: promises have changed already in this call. Every promise passes here before anybody hears of it.
        """
        # A winner need not be who is answered: it may have stood for long, and hears of its own accord (S1).
        acks = {(session.identity, number): (session, number) for session, number in answered}
        for key in keys:
            winner = self._grant(key) if self._is_open(key) and not self._is_ignorant else None
            if winner is not None:
                changed = True
                acks[winner.session.identity, winner.group] = (winner.session, winner.group)
        if changed:
            # P2: the promise is written before anybody hears of it.
            self._outputs.append(self._persisted_promises())
        records = self._record_new_tokens()
        for session, number in acks.values():
            self._acknowledge(session, number)
        self._outputs += records

    def _record_new_tokens(self, *, is_news: bool = True) -> list[ElectorOutput]:
        """Tokens on their way to the disk, and, where they are news, the audit log's word of each promise."""
        if not self._new_tokens:
            return []
        outputs: list[ElectorOutput] = []
        self._records += 1
        for key in self._new_tokens:
            promise = self._promises[key]
            # K1: a leader's term orders every other token, so it is on disk before the leader hears of it. So is every
            # token of an elector that decides alone; of others one is lost only if a majority loses power right then.
            if key == LEADER_KEY or self._electorate.is_sole:
                self._undurable[key] = self._records
            if is_news and key != LEADER_KEY and promise.holder is not None:
                # One elector's word is no tenure yet, but a majority's is, even if the holder never comes to say so.
                outputs.append(Promised(key, promise.holder.node, promise.token))
        self._new_tokens = {}
        return [*outputs, Remember(encode_tokens(self._promises), self._records)]

    def confirm_durable(self, number: int) -> None:
        """The record of this number is on disk, or a later one: whoever waited for it hears what he was granted."""
        durable = [key for key, record in self._undurable.items() if record <= number]
        waiting: dict[tuple[Identity, int], HolderSession] = {}
        for key in durable:
            del self._undurable[key]
            holder = self._promises[key].holder
            claim = self._claimants.of(key).get(holder) if holder is not None else None
            if claim is not None:
                waiting[claim.session.identity, claim.group] = claim.session
        for (_, group), session in waiting.items():
            self._acknowledge(session, group)

    def _persisted_promises(self) -> Persist:
        return Persist(encode_promises(self._boot_id, self._lease_ns_max, self._promises))

    def _grant(self, key: str) -> StandingClaim | None:
        """Promise an open key to the best claim that is ready. None where there is none above the highest token."""
        best = self._claimants.best(key, above=highest_token(self._promises, key), now=self._now)
        if best is None:
            return None
        promise = self._promises.setdefault(key, Promise())
        promise.grant(
            best.session.identity, best.session.start_id, best.token, self._now.later_by(best.session.lease_ns)
        )
        self._new_tokens[key] = None
        return best

    # --- answers ---

    def _acknowledge(self, session: HolderSession, number: int) -> None:
        ack = acknowledgement(
            session,
            number,
            promises=self._promises,
            claims=self._claimants.claims,
            withheld=self._undurable,
            now=self._now,
            epoch=self.epoch,
            settled=self._settled,
        )
        self._outputs.append(Send(session.address, encode(ack)))

    def _answer_query(self, source: Source, message: Query) -> None:
        rows = rows_of(self._promises, self._now)
        for report in reports(self.epoch, message.sequence, voting=self.is_voting, rows=rows, settled=self._settled):
            self._outputs.append(Send(source.address, encode(report)))
