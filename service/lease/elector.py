"""One elector: it promises each key to at most one session at a time, and keeps its word (leases.md, Promises).

Safety rests on three sentences. A promise lasts L from receipt and ends only when both clocks have passed it (T2, T3).
It never shrinks but by a release that says the fence is closed (P1). It outlives the process, or the elector is silent
until it is over (P2). Majorities intersect, so two sessions can never both count a majority for one key.

Liveness rests on standing claims (S1): every claim that is not granted stays recorded, and the moment a promise ends
the elector grants to the best claim of its own accord.
"""

from collections.abc import Mapping

from service.lease.answer import acknowledgement, grants_leadership, rows_of
from service.lease.elector_output import ElectorOutput, Persist, Promised, Remember, SendPersisted, Settled
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
from service.lease.standing_claim import STANDING_INTERVALS, ClaimedGroup, HolderSession, StandingClaim
from service.model.errors import InvariantError, PeerError
from service.model.lease import LEADER_KEY, ZERO_TOKEN, Elector, Electorate, Stamp
from service.model.machine import Send, Source

_IDLE_NS = 60_000_000_000
"""A session unheard of for this long is forgotten; its promises, if any, live on by themselves."""
_STARTS_REMEMBERED = 8


class ElectorMachine:
    """Answers Renew and Query. Follows the machine contract, but takes time on both clocks (rule T3).

    Every keeper has one; it promises something only while the electorate names it. Outputs: Send, SendPersisted,
    Persist, Remember, Promised, Settled, in the order in which they must be executed.
    """

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
        promises: bytes | None,
        tokens: bytes | None,
        now: Instant,
    ) -> None:
        """Everything as found in shared memory (`promises`) and on disk; None where there is no such record."""
        self._node = node
        self._boot_id = boot_id
        self._memory = memory
        self._lease_port = lease_port
        self._electorate = electorate
        self._settled = settled
        self._settlement: Settlement | None = None
        self._lease_ns_max = lease_ns_max
        self._now = now
        self.misses_other = False  # told by the driver, for whoever asks (leases.md, Two nodes)
        self._outputs: list[ElectorOutput] = []
        self._sessions: dict[Identity, HolderSession] = {}
        self._claims: dict[str, dict[Identity, StandingClaim]] = {}
        # Stamp of the newest assignment that any claim for the key had, and when it was first heard.
        self._news: dict[str, tuple[Stamp, int]] = {}
        # Start ids that another start of the same node has replaced, the most recent last.
        self._replaced: dict[tuple[Identity, int], None] = {}
        self._purge_ns = now.boot_ns + _IDLE_NS
        self._new_tokens: dict[str, None] = {}
        stored = decode_promises(promises)
        self._promises: dict[str, Promise] = {}
        # The disk knows tokens only; the promises of this boot, where they survive, know at least as much (K1).
        for key, token in (decode_tokens(tokens) or {}).items():
            self._promises[key] = Promise(token)
        self._silent_until = NEVER
        if stored is not None and stored.boot_id == boot_id:
            self._restore(stored)
        else:
            # P2: promises that this elector made and forgot may still be alive. The longest one it could have made is
            # over after 1.2 of its length: the fifth covers the difference of the clocks before and after.
            longest_ns = max(lease_ns_max, stored.lease_ns_max if stored is not None else 0)
            self._silent_until = now.later_by(longest_ns * 12 // 10)
        self._begin_settlement()

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
        return self._electorate.epoch

    @property
    def electorate(self) -> Electorate:
        return self._electorate

    @property
    def is_elector(self) -> bool:
        """The electorate names this node, and means the disk it has (M7)."""
        return self._is_named(self._electorate.members)

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
            self._answer_query(source, message)
            return
        if message.lease_ns > self._lease_ns_max:
            # The silence of P2 is measured by the longest lease: a longer one must never be promised.
            raise PeerError(f"lease of {message.lease_ns} ns asked, at most {self._lease_ns_max} ns are promised")
        if self.is_voting:
            self._renew(source, message)

    def _receive_of_electorate(self, source: Source, message: object, now: Instant) -> None:
        self.advance(now=now)
        if isinstance(message, Survey):
            flags = (self.is_voting, self._settled, self.is_elector, self.misses_other)
            standing = Standing(self.epoch, message.sequence, self._memory, *flags)
            self._outputs.append(Send(source.address, encode_electorate_message(standing)))
        elif isinstance(message, TransferQuery) and message.epoch != self.epoch:
            self._outputs.append(Send(source.address, encode_electorate_message(self._electorate)))
        elif isinstance(message, TransferQuery):
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
        elif isinstance(message, Transfer):
            if self._settlement is not None:
                self._settlement.take(source.node, message)
                self._settle_if_complete()
        else:
            raise PeerError("lease datagram: not for an elector")

    def _settle_if_complete(self) -> None:
        settlement = self._settlement
        # In its own silence (P2) it does not even know what it promised itself.
        if settlement is None or not self.is_voting or not settlement.is_complete():
            return
        for rows in settlement.heard.values():
            for row in rows:
                inherit(self._promises.setdefault(row.key, Promise()), row, self._now)
        self._settlement = None
        self._outputs.append(Persist(encode_promises(self._boot_id, self._lease_ns_max, self._promises), durable=False))
        self._outputs.append(Settled(self.epoch, encode_tokens(self._promises)))

    def advance(self, *, now: Instant) -> None:
        """Let time pass: grant every key whose promise has ended to the best standing claim (S1)."""
        if now.boot_ns < self._now.boot_ns or now.raw_ns < self._now.raw_ns:
            raise InvariantError("time went backwards")
        self._now = now
        due = [key for key in self._claims if self._is_open(key)]
        self._settle(due, [])
        if self._settlement is not None and self.is_voting:
            self._outputs += self._settlement.ask(now.boot_ns)
            self._settle_if_complete()
        if now.boot_ns >= self._purge_ns:
            self._purge()

    def deadline_ns(self) -> int | None:
        """The next end of a promise, or of patience, that somebody waits for (CLOCK_BOOTTIME); None where nobody is."""
        due = self._settlement_due_ns()
        for key, claims in self._claims.items():
            promise = self._promises.get(key)
            holder = promise.holder if promise is not None else None
            waiting = [claim for identity, claim in claims.items() if identity != holder and claim.is_alive(self._now)]
            if not waiting:
                continue
            if promise is None or promise.is_over(self._now):
                # What is open and not granted waits for patience to end, or for a better token, which is no timer.
                ends = [claim.patient_until_ns for claim in waiting if claim.patient_until_ns > self._now.boot_ns]
            else:
                # T3: both clocks must pass; the raw one's share is what is left on it now.
                left_ns = max(promise.until.boot_ns - self._now.boot_ns, promise.until.raw_ns - self._now.raw_ns)
                ends = [self._now.boot_ns + left_ns]
            due = min(ends + ([] if due is None else [due]), default=None)
        return due

    def _settlement_due_ns(self) -> int | None:
        if self._settlement is None:
            return None
        silent_ns = max(self._silent_until.boot_ns - self._now.boot_ns, self._silent_until.raw_ns - self._now.raw_ns)
        return max(self._settlement.next_ns, self._now.boot_ns + silent_ns)

    def drain(self) -> list[ElectorOutput]:
        outputs, self._outputs = self._outputs, []
        return outputs

    # --- sessions ---

    def _renew(self, source: Source, message: Renew) -> None:
        session = self._session(source, message)
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
            self._replace_list(session, message.group, group, message.entries)
            group.list_number = message.list_number
        elif message.list_number != group.list_number:
            ack = Ack(self.epoch, session.start_id, message.sequence, message.group, message.list_number, True, ())
            self._outputs.append(Send(session.address, encode(ack)))
            return
        self._refresh(session, message.group, group)

    def _session(self, source: Source, message: Renew) -> HolderSession | None:
        """The session of this process; None where a newer process of the same node has taken its place."""
        identity = Identity(source.node, message.boot_id)
        session = self._sessions.get(identity)
        if session is not None and session.start_id != source.start_id:
            # A keeper was restarted. Its predecessor's datagrams may still be under way and must not bring back its
            # claims, but if the newcomer is the one that fell silent, the other is heard again: no order is known
            # between two start ids, and a wrong guess for ever would cost the node its IPs.
            quiet = self._now.boot_ns - session.heard.boot_ns >= STANDING_INTERVALS * session.renew_ns
            if (identity, source.start_id) in self._replaced and not quiet:
                return None
            self._replace_session(session)
            session = None
        if session is None:
            order = tuple(-letter for letter in source.node.encode() + message.boot_id)
            session = HolderSession(
                identity, source.start_id, source.address, message.lease_ns, message.renew_ns, self._now, order
            )
            self._sessions[identity] = session
        session.heard = self._now
        return session

    def _replace_session(self, session: HolderSession) -> None:
        for key in list(self._claims):
            self._drop_claim(key, session.identity)
        mark = (session.identity, session.start_id)
        self._replaced.pop(mark, None)
        self._replaced[mark] = None
        while len(self._replaced) > _STARTS_REMEMBERED * max(1, len(self._sessions)):
            del self._replaced[next(iter(self._replaced))]

    def _replace_list(
        self, session: HolderSession, number: int, group: ClaimedGroup, entries: tuple[Entry, ...]
    ) -> None:
        # A key that vanished from the list is no longer claimed. Its promise, if any, lives on to its end (P1).
        listed = {entry.key for entry in entries}
        for entry in group.entries:
            claim = self._claims.get(entry.key, {}).get(session.identity)
            if entry.key not in listed and claim is not None and claim.group == number:
                self._drop_claim(entry.key, session.identity)
        group.entries = entries

    def _drop_claim(self, key: str, identity: Identity) -> None:
        claims = self._claims.get(key, {})
        claims.pop(identity, None)
        if not claims:
            self._claims.pop(key, None)

    def _purge(self) -> None:
        self._purge_ns = self._now.boot_ns + _IDLE_NS
        for identity, session in list(self._sessions.items()):
            if self._now.boot_ns - session.heard.boot_ns < _IDLE_NS:
                continue
            del self._sessions[identity]
            for key in list(self._claims):
                self._drop_claim(key, identity)

    # --- promises ---

    def _refresh(self, session: HolderSession, number: int, group: ClaimedGroup) -> None:
        until = self._now.later_by(session.lease_ns)
        waiting = []
        changed = False
        for entry in group.entries:
            if entry.role is ClaimRole.RELEASED:
                changed |= self._release(session, entry)
                waiting.append(entry.key)
                continue
            self._put_claim(session, number, entry)
            promise = self._promises.get(entry.key)
            if promise is not None and promise.holder == session.identity:
                changed |= self._extend(promise, session, entry, until)
            if self._is_open(entry.key):
                waiting.append(entry.key)
        self._settle(waiting, [(session, number)], changed=changed)

    def _put_claim(self, session: HolderSession, number: int, entry: Entry) -> None:
        claims = self._claims.setdefault(entry.key, {})
        known = claims.get(session.identity)
        news = self._news.get(entry.key)
        if news is None or entry.token.stamp > news[0]:
            news = self._news[entry.key] = (entry.token.stamp, self._now.boot_ns)
        patient_until_ns = self._now.boot_ns
        if entry.role is ClaimRole.STANDING and entry.key != LEADER_KEY:
            if known is not None and known.role is entry.role:
                patient_until_ns = known.patient_until_ns
            elif self._is_open(entry.key):
                # News of an assignment reaches its successor first as often as its holder. Where nobody holds the key
                # there is nothing to take over yet: the holder named has one lease time to come, from the moment the
                # assignment was first heard of; a claim that was given up and made again does not wait anew. A claim
                # that was standing when a promise ended has no such wait (S1).
                patient_until_ns = news[1] + session.lease_ns
        claims[session.identity] = StandingClaim(
            session, number, entry.role, entry.token, self._now.boot_ns, patient_until_ns
        )

    def _extend(self, promise: Promise, session: HolderSession, entry: Entry, until: Instant) -> bool:
        """Renew what this session has; True where the promise changed."""
        if entry.token == promise.token:
            # Also where the promise had lapsed meanwhile: nobody was granted in between, or the token would be higher.
            # But a new process that happens to propose its predecessor's token is not its predecessor (K1).
            if not entry.held and promise.start_id != session.start_id:
                return False
        elif entry.token > promise.token and not promise.is_over(self._now):
            # The same fence under a higher token: another elector knew a higher one, so the claimant went above it.
            promise.token = entry.token
            self._new_tokens[entry.key] = None
        else:
            return False
        promise.start_id = session.start_id
        promise.extend(until)
        return True

    def _release(self, session: HolderSession, entry: Entry) -> bool:
        self._drop_claim(entry.key, session.identity)
        promise = self._promises.get(entry.key)
        # Only who was promised may release, and only the tenure it means: not a later one of its own.
        if promise is None or promise.holder != session.identity or promise.token > entry.token:
            return False
        promise.release()
        return True

    def _is_open(self, key: str) -> bool:
        promise = self._promises.get(key)
        return promise is None or promise.is_over(self._now)

    def _settle(self, keys: list[str], answered: list[tuple[HolderSession, int]], *, changed: bool = False) -> None:
        """Grant the open ones of `keys` to their best claims, then write, then answer: `answered` and who won."""
        acks: dict[tuple[Identity, int], tuple[HolderSession, int]] = {}
        for session, number in answered:
            acks[session.identity, number] = (session, number)
        for key in keys:
            winner = self._grant(key) if self._is_open(key) and not self._is_ignorant else None
            if winner is not None:
                changed = True
                acks[winner.session.identity, winner.group] = (winner.session, winner.group)
        if changed:
            # P2: the promise is written before anybody hears of it.
            self._outputs.append(
                Persist(encode_promises(self._boot_id, self._lease_ns_max, self._promises), durable=False)
            )
        # K1: a leader's term orders every other token, so it is on disk before the leader hears of it. So is every
        # token of an elector that decides alone; of others one is lost only if a majority loses power in that moment.
        if LEADER_KEY in self._new_tokens or (self._new_tokens and self._electorate.is_sole):
            self._outputs.append(Persist(encode_tokens(self._promises), durable=True))
        for session, number in acks.values():
            self._acknowledge(session, number)
        for key in self._new_tokens:
            promise = self._promises[key]
            if key != LEADER_KEY and promise.holder is not None:
                # One elector's word is no tenure yet, but a majority's is, even if the holder never comes to say so.
                self._outputs.append(Promised(key, promise.holder.node, promise.token))
        if self._new_tokens and LEADER_KEY not in self._new_tokens and not self._electorate.is_sole:
            self._outputs.append(Remember(encode_tokens(self._promises)))
        self._new_tokens = {}

    def _grant(self, key: str) -> StandingClaim | None:
        """Promise an open key to the best live claim. None where there is none with a token above the highest."""
        promise = self._promises.get(key)
        highest = promise.token if promise is not None else ZERO_TOKEN
        best: StandingClaim | None = None
        for claim in self._claims.get(key, {}).values():
            # K1: a token at or below the highest ever granted would let an old holder's traces outrank the new one's.
            is_ready = claim.is_alive(self._now) and claim.patient_until_ns <= self._now.boot_ns
            if is_ready and claim.token > highest and (best is None or claim.rank > best.rank):
                best = claim
        if best is None:
            return None
        if promise is None:
            promise = self._promises[key] = Promise()
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
            claims=self._claims,
            now=self._now,
            epoch=self.epoch,
            settled=self._settled,
        )
        send = SendPersisted if self._electorate.is_sole or grants_leadership(session, ack) else Send
        self._outputs.append(send(session.address, encode(ack)))

    def _answer_query(self, source: Source, message: Query) -> None:
        rows = rows_of(self._promises, self._now)
        for report in reports(self.epoch, message.sequence, voting=self.is_voting, rows=rows, settled=self._settled):
            self._outputs.append(Send(source.address, encode(report)))
