"""The holder: claims keys for this node, renews what it has, and lets go in time (leases.md, Promises and Succession).

Every path keeps one order: the fence is closed before anything is said that lets another node open its own (P1, P3).
The fence is opened only until the moment at which a majority of electors is still bound (T2, T4).

A claim is not refused but left standing at the electors (S1). Two rules end a split vote, in which each of several
claimants has some electors and none a majority: a claimant that an elector calls outranked gives way at once; any other
gives way after three intervals, if somebody else wants what it has. Both then wait a random time, so that whoever
reaches a majority gets it. Nobody gives way where nobody waits: a successor may keep the vote of an elector that its
holder cannot reach, and has so much less to collect when the holder dies. Controllers that stand for leadership come to
one leader by the same two rules (K2).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from service.lease.highest_tokens import HighestTokens
from service.lease.message import Ack, ClaimRole, Detail, Entry, Verdict, decode
from service.lease.randomness import Random
from service.lease.release import Releases
from service.lease.session import Sent, Session
from service.lease.tenure import Tenure, counted_until
from service.model.errors import InvariantError, PeerError
from service.model.lease import LEADER_KEY, ZERO_TOKEN, Electorate, LeaseProfile, Stamp, Token
from service.model.machine import Send, Source

PATIENCE_INTERVALS = 3
"""Renew intervals that a claimant keeps a contested minority."""
_YIELD_PAUSE_INTERVALS = 8
"""It gives way to a higher rank at most once in so many intervals, lest the higher rank block a key it cannot take."""

CloseReason = Literal["released", "expired", "refused"]


@dataclass(frozen=True, slots=True)
class DesiredClaim:
    """This node's part in the assignment of one key. For leadership: `holder` and Stamp(0, 0)."""

    role: Literal["holder", "successor"]
    stamp: Stamp


class HeldKey(NamedTuple):
    """A lease that is held: the fence is open until the deadline (CLOCK_BOOTTIME)."""

    token: Token
    deadline_ns: int


@dataclass(frozen=True, slots=True)
class OpenFence:
    """Let the kernel forward for this key until the deadline: a new lease (`first`), or a longer one."""

    key: str
    token: Token
    deadline_ns: int
    first: bool


@dataclass(frozen=True, slots=True)
class CloseFence:
    """Let the kernel forward nothing more for this key, before executing anything that follows.

    `released`: given up; `expired`: the deadline passed; `refused`: a newer assignment displaced it (P4).
    """

    key: str
    token: Token
    reason: CloseReason


class Holder:
    """Claims and renews the keys of one node, or leadership for one controller. Follows the machine contract.

    Outputs: Send, OpenFence, CloseFence, in the order in which they must be executed.
    """

    _electorate: Electorate
    """The one in force here; once its epoch is seen in force by a majority, without those of the epoch before (M3)."""
    _now_ns: int
    """The latest time that any call brought (CLOCK_BOOTTIME); renewals of that call count as sent then (T1)."""
    _claiming: bool
    """Whether anything new may be taken (S3)."""
    _prolonged_ns: int
    """The long lease that was asked for, as this process ends; 0 before."""
    _desired: dict[str, DesiredClaim] | None
    """What this node should hold and stand for; None until that is known, when only what was adopted is renewed."""
    _tenures: dict[str, Tenure]
    """Every key that is claimed or held. A key is in here or in `_releases` or in neither, never in both."""
    _releases: Releases
    """What was given up, until every elector knows."""
    _highest: HighestTokens
    """What to go above."""
    _resume_ns: dict[str, int]
    """When a key that was given way on may be claimed again."""
    _next_yield_ns: dict[str, int]
    """Until when a claim to the key does not give way to a higher rank again."""
    _settled: dict[str, bool]
    """What each elector last said of itself in this epoch (M3)."""

    def __init__(
        self,
        *,
        node: str,
        boot_id: str,
        start_id: int,
        electorate: Electorate,
        profile: LeaseProfile,
        lease_port: int,
        random: Random,
        now_ns: int,
    ) -> None:
        self.node = node
        self.start_id = start_id
        self._electorate = electorate
        self._profile = profile
        self._random = random
        self._now_ns = now_ns
        self._session = Session(
            electorate=electorate, lease_port=lease_port, profile=profile, boot_id=boot_id_bytes(boot_id)
        )
        self._claiming = True
        self._prolonged_ns = 0
        self._desired = None
        self._tenures = {}
        self._releases = Releases()
        self._highest = HighestTokens()
        self._resume_ns = {}
        self._next_yield_ns = {}
        self._settled = {}
        self._outputs: list[Send | OpenFence | CloseFence] = []

    # --- what the driver asks for ---

    def set_claims(self, claims: Mapping[str, DesiredClaim], *, now_ns: int) -> None:
        """Replace the whole desired set. What is held and no longer desired is handed over at once."""
        self._pass(now_ns)
        self._desired = dict(claims)
        for key in list(self._tenures):
            if key not in claims:
                self._give_up(key, "released")
                # If it is desired again one day, that is another claim, and nobody is given way to by waiting.
                self._resume_ns.pop(key, None)
        self._claim_all()
        self._flush()

    def give_up(self, key: str, *, now_ns: int) -> None:
        """Hand one key over, and want it no more until `set_claims` names it again."""
        self._pass(now_ns)
        (self._desired or {}).pop(key, None)
        if key in self._tenures:
            self._give_up(key, "released")
        self._flush()

    def crowded_out(self) -> tuple[str, ...]:
        """What is desired and not claimed, as a session has no place for more keys; in order."""
        return tuple(key for key in self._desired or {} if key not in self._tenures and not self._session.has_room(key))

    def set_claiming(self, allowed: bool, *, now_ns: int) -> None:
        """S3: with False nothing new is taken; what is held goes on being renewed."""
        self._pass(now_ns)
        self._claiming = allowed
        if not allowed:
            for key, tenure in list(self._tenures.items()):
                if not tenure.held:
                    # Also its standing claim: the electors must not grant to a node that would not serve.
                    self._give_up(key, "released")
        self._claim_all()
        self._flush()

    def set_electorate(self, electorate: Electorate, *, now_ns: int) -> None:
        """Go over to a newer electorate. What is held stays open to its deadline, and is renewed by the new one."""
        self._pass(now_ns)
        if electorate.epoch <= self._electorate.epoch:
            return
        self._electorate = electorate
        # Nothing that was said in the old epoch is counted in the new one (M4). The fences stay open all the same: what
        # a majority promised it has promised, in whichever epoch, and by M3 the new one knows of it or asks the old.
        self._settled.clear()
        self._session.set_electorate(electorate)
        for tenure in self._tenures.values():
            tenure.enter_epoch()
        self._releases.ask_all(self._everyone())
        self._claim_all()
        self._flush()

    def adopt(self, key: str, token: Token, deadline_ns: int, *, now_ns: int) -> None:
        """S8: go on with what an earlier process of this boot held, as found in the fence, until it is confirmed anew.

        To be called before `set_claims`. A deadline that has passed is not adopted; the caller closes that fence.
        """
        self._pass(now_ns)
        if deadline_ns > now_ns and key not in self._tenures and self._session.has_room(key):
            self._highest.note(key, token)
            # As an assigned holder's: whether the assignment still says so, `set_claims` will tell. The deadline is the
            # fence's own and no elector's grant is known yet, so it ends then unless a majority renews it.
            tenure = Tenure(key, token, ClaimRole.HOLDER, token.stamp, held_token=token, deadline_ns=deadline_ns)
            self._tenures[key] = tenure
            self._put(tenure)
        self._flush()

    def prolong(self, lease_ns: int, *, now_ns: int) -> None:
        """Ask for one long lease of what is held, and stand for nothing more: this process ends and is started again.

        The electors keep their word to it meanwhile (P1), and the kernel forwards; the next process adopts it (S8).
        """
        self.set_claiming(False, now_ns=now_ns)
        self._prolonged_ns = lease_ns
        self._session.ask_for(lease_ns)
        self._flush()

    @property
    def is_prolonged(self) -> bool:
        """After `prolong`: a majority has promised it for what is held, and every elector knows what is not claimed."""
        deadlines = [tenure.deadline_ns for tenure in self._tenures.values() if tenure.held]
        # Half of it: far more than a profile's lease, and less than what is left when the slowest elector has answered.
        return not self._releases and all(
            deadline_ns - self._now_ns > self._prolonged_ns // 2 for deadline_ns in deadlines
        )

    def held(self) -> Mapping[str, HeldKey]:
        """The leases whose deadline has not passed as of the last call into the machine."""
        return {
            key: HeldKey(tenure.held_token, tenure.deadline_ns)
            for key, tenure in self._tenures.items()
            if tenure.held_token is not None
        }

    @property
    def is_released(self) -> bool:
        """Nothing is held or claimed, and every elector knows it (or its promise is over by itself)."""
        return not self._tenures and not self._releases

    # --- the machine contract ---

    def receive(self, source: Source, payload: bytes, *, now_ns: int) -> None:
        """Take one acknowledgement. Raises PeerError, with no claim changed, where it is not one of this electorate."""
        message = decode(payload)
        # What expired while this was in the socket's buffer has expired (P3, P5).
        self._pass(now_ns)
        if not isinstance(message, Ack):
            raise PeerError("lease datagram: not for a holder")
        if message.epoch != self._electorate.epoch:
            # M4: only acknowledgements of one epoch are counted together.
            raise PeerError(f"lease datagram: epoch {message.epoch}, ours is {self._electorate.epoch}")
        if source.node not in self._everyone():
            raise PeerError(f"lease datagram: {source.node} is no elector")
        # P5: an answer to an earlier process at our address has nothing to do with our sequences.
        ours = message.start_id == self.start_id
        if ours:
            self._note_settled(source.node, message.settled)
        sent = self._session.acknowledge(source.node, message) if ours else None
        if sent is not None:
            # The bits belong to the list as it was when that renewal was sent, not to the list as it is now.
            for index, entry in enumerate(sent.entries):
                self._take(source.node, sent, entry, message.granted[index], message.details.get(index))
        self._claim_all()
        self._flush()

    def advance(self, *, now_ns: int) -> None:
        """Let time pass: expire, resume claims, send what is due."""
        self._pass(now_ns)
        self._claim_all()
        self._flush()

    def deadline_ns(self) -> int | None:
        """The next renewal, expiry, end of patience or of a pause."""
        times = [] if (due := self._session.due_ns()) is None else [due]
        times += self._releases.ends_ns()
        for tenure in self._tenures.values():
            if tenure.held:
                times.append(tenure.deadline_ns)
            elif tenure.minority_since_ns is not None:
                # Once patience is over, every answer is judged anew; time alone changes nothing more.
                patient_until_ns = tenure.minority_since_ns + self._patience_ns
                times += [patient_until_ns] if patient_until_ns > self._now_ns else []
        if self._claiming and self._desired is not None:
            times += [time for key, time in self._resume_ns.items() if key in self._desired]
        return min(times) if times else None

    def drain(self) -> list[Send | OpenFence | CloseFence]:
        """The outputs since the last call, to be executed strictly in this order (P1), and forget them."""
        outputs, self._outputs = self._outputs, []
        return outputs

    # --- claiming ---

    @property
    def _patience_ns(self) -> int:
        return PATIENCE_INTERVALS * self._profile.renew_ns

    def _claim_all(self) -> None:
        """Bring tenures in line with what is desired and allowed."""
        for key, desired in (self._desired or {}).items():
            role = ClaimRole.HOLDER if desired.role == "holder" and key != LEADER_KEY else ClaimRole.STANDING
            tenure = self._tenures.get(key)
            if tenure is None:
                self._begin(key, role, desired.stamp)
            elif (tenure.role, tenure.stamp) != (role, desired.stamp):
                # The assignment was renewed. What is held goes on under its token: a token tells tenures apart, and a
                # tenure does not end because the table was written anew, or because a successor has become the holder.
                tenure.role, tenure.stamp = role, desired.stamp
                if not tenure.held:
                    self._propose(tenure)
                self._put(tenure)
                # What the electors said of rivals was about another claim of ours.
                tenure.verdicts.clear()

    def _begin(self, key: str, role: ClaimRole, stamp: Stamp) -> None:
        """Claim a key, unless nothing may be taken (S3) or somebody is being given way to."""
        if not self._claiming or self._resume_ns.get(key, 0) > self._now_ns or not self._session.has_room(key):
            return
        self._resume_ns.pop(key, None)
        tenure = Tenure(key, ZERO_TOKEN, role, stamp)
        self._tenures[key] = tenure
        self._releases.abandon(key)
        self._propose(tenure)
        self._put(tenure)

    def _propose(self, tenure: Tenure) -> None:
        """Choose a token above every one that any elector has named (K1)."""
        token = self._highest.proposal(tenure.key, tenure.stamp, own=tenure.token)
        # Never down: what is held is held under a token that a majority knows.
        if not tenure.held or token > tenure.token:
            tenure.token = token

    def _put(self, tenure: Tenure, *, urgent: bool = True) -> None:
        self._session.put(Entry(tenure.key, tenure.role, tenure.token, tenure.held), urgent=urgent)

    # --- answers ---

    def _everyone(self) -> dict[str, None]:
        """Those whose word counts: the members, and while both sets are needed (M3) those of the epoch before."""
        return dict.fromkeys(elector.name for elector in self._electorate.contacts)

    def _note_settled(self, elector: str, settled: bool) -> None:
        """Learn whether an elector is settled; once a majority is, be done with the epoch before."""
        self._settled[elector] = settled
        # Members only, and settled ones only: this quorum does not lean on the epoch before.
        if self._electorate.previous and self._electorate.has_quorum(
            {name: True for name, is_settled in self._settled.items() if is_settled}
        ):
            # The epoch is in force: those who were electors before it have no more say (M3). It stays so, as every
            # elector has it on disk that it is settled before it says so.
            self._electorate = replace(self._electorate, previous=())
            self._session.set_electorate(self._electorate)
            self._releases.keep(self._everyone())

    def _take(self, elector: str, sent: Sent, entry: Entry, granted: bool, detail: Detail | None) -> None:
        """What one elector says of one key, as the renewal named it that is answered."""
        if entry.role is ClaimRole.RELEASED:
            if self._releases.confirm(elector, entry.key, entry.token):
                self._session.remove(entry.key, now_ns=self._now_ns)
            return
        # Without a detail there is nothing to say but `granted`, and the highest token there is ours.
        highest = detail.highest if detail is not None else entry.token
        self._highest.note(entry.key, highest)
        tenure = self._tenures.get(entry.key)
        if tenure is None:
            # Given up meanwhile: what arrives after the release is ignored (P1).
            return
        if granted:
            until_ns = counted_until(sent.sent_ns, sent.lease_ns)
            tenure.count(elector, entry.token, until_ns, settled=self._settled[elector])
        if entry.token != tenure.token:
            # Late news: we have gone above that token since. What the elector thought of it decides nothing now, though
            # what it promised under it may count while we hold (Tenure.count).
            return
        if detail is None:
            tenure.verdicts.pop(elector, None)
        else:
            tenure.verdicts[elector] = detail
        self._judge(tenure)
        # Judging may have given the key up, and then there is nothing to outbid any more.
        if highest >= tenure.token and not granted and entry.key in self._tenures:
            self._outbid(tenure, promised=detail is not None and Verdict.PROMISED in detail.verdict)

    def _outbid(self, tenure: Tenure, *, promised: bool) -> None:
        """An elector has granted as high a token as ours, or a higher one: go above it where our stamp allows.

        Also while holding: otherwise an elector that once granted to a successor (it could not hear us) would be lost
        to us for the rest of the tenure, and the next elector's death would be ours. But then only once the key is
        open there: two that go above each other's promises would never come to rest.
        """
        if promised and tenure.held:
            return
        before = tenure.token
        self._propose(tenure)
        if tenure.token != before:
            # A standing claim has time until the promise to the other ends; an open key is taken at once.
            self._put(tenure, urgent=not promised)

    def _judge(self, tenure: Tenure) -> None:
        """Open or extend the fence if a majority allows; otherwise see whether to give way."""
        deadline_ns = tenure.deadline(self._electorate)
        if tenure.held_token is not None:
            # First the extension, then the question who goes first: until a newer assignment's holder is known to a
            # majority, what is held is held.
            self._extend(tenure, tenure.held_token, deadline_ns)
            if tenure.is_superseded(self._electorate, self._settled):
                self._pause(tenure.key)
                self._give_up(tenure.key, "refused")
        elif deadline_ns is not None and deadline_ns > self._now_ns:
            tenure.held_token, tenure.deadline_ns = tenure.token, deadline_ns
            tenure.minority_since_ns = None
            self._outputs.append(OpenFence(tenure.key, tenure.token, deadline_ns, first=True))
            # From the first round on the list says that it is held; nothing depends on it at once.
            self._put(tenure, urgent=False)
        else:
            self._contend(tenure)

    def _extend(self, tenure: Tenure, held_token: Token, deadline_ns: int | None) -> None:
        """Let the fence be open for longer, under the higher token if a majority knows that by now (K1)."""
        moved = tenure.token != held_token and tenure.moved_token(self._electorate)
        if moved:
            tenure.held_token = tenure.token
        # An adopted deadline may lie behind what this process has collected so far; it never goes back.
        if deadline_ns is None or (deadline_ns <= tenure.deadline_ns and not moved):
            return
        tenure.deadline_ns = max(tenure.deadline_ns, deadline_ns)
        self._outputs.append(OpenFence(tenure.key, tenure.held_token or held_token, tenure.deadline_ns, first=False))

    def _contend(self, tenure: Tenure) -> None:
        """End a split vote: give up a minority that somebody else waits for."""
        granting = tenure.granting(self._now_ns)
        if not granting:
            # Nothing is kept from anybody: to stand and wait costs the others nothing (S1).
            tenure.minority_since_ns = None
            return
        if tenure.minority_since_ns is None:
            tenure.minority_since_ns = self._now_ns
        # Only of those who have granted: with the others there is nothing to give up.
        verdicts = [tenure.verdicts[name].verdict for name in granting if name in tenure.verdicts]
        outranked = any(Verdict.OUTRANKED in verdict for verdict in verdicts)
        contested = any(Verdict.CONTESTED in verdict for verdict in verdicts)
        patient_until_ns = tenure.minority_since_ns + self._patience_ns
        may_yield = self._next_yield_ns.get(tenure.key, 0) <= self._now_ns
        if (outranked and may_yield) or (contested and self._now_ns >= patient_until_ns):
            self._next_yield_ns[tenure.key] = self._now_ns + _YIELD_PAUSE_INTERVALS * self._profile.renew_ns
            self._pause(tenure.key)
            self._give_up(tenure.key, "released")

    # --- letting go ---

    def _give_up(self, key: str, reason: CloseReason) -> None:
        """Close the fence if it is open, and only then release (P1). The tenure is over; a later one starts afresh."""
        tenure = self._tenures.pop(key)
        # A later claim goes under a higher token. A grant of this one may still be under way, and must not be counted
        # as one of the next: its elector takes the release after it, and may promise the key to another.
        self._highest.note(key, tenure.token)
        if tenure.held_token is not None:
            self._outputs.append(CloseFence(key, tenure.held_token, reason))
        # What was said stays in the list as released until all electors know, or until no promise can be left. Twice
        # the time, for electors count the whole lease from receipt, by clocks of their own (T2, T3).
        # A promise may be longer than the leases asked for now: an earlier process of this node may have prolonged it.
        until_ns = self._now_ns + 2 * max(self._profile.lease_ns, tenure.deadline_ns - self._now_ns)
        self._releases.begin(key, tenure.token, until_ns=until_ns, electors=self._everyone())
        self._session.put(Entry(key, ClaimRole.RELEASED, tenure.token))

    def _pause(self, key: str) -> None:
        """Claim again only after one to two intervals: the other goes first, and two losers do not meet again."""
        self._resume_ns[key] = self._now_ns + int(self._profile.renew_ns * (1 + self._random.random()))

    # --- time ---

    def _pass(self, now_ns: int) -> None:
        """Every call comes through here first: whatever it brings, it finds nothing held that is over."""
        if now_ns < self._now_ns:
            raise InvariantError("time went backwards")
        self._now_ns = now_ns
        for key, tenure in list(self._tenures.items()):
            if tenure.held and now_ns >= tenure.deadline_ns:
                # P3: past its deadline a holder releases and renews no more. Otherwise a minority of electors could
                # keep its claim alive for ever, and the successor would never see a majority.
                self._pause(key)
                self._give_up(key, "expired")
            elif tenure.minority_since_ns is not None and now_ns >= tenure.minority_since_ns + self._patience_ns:
                self._contend(tenure)
        for key in self._releases.expire(now_ns):
            self._session.remove(key, now_ns=now_ns)
        for key in self._session.forget(now_ns):
            # K1: who granted it knows its token, and names it to whoever claims the key again.
            self._highest.forget(key)
            self._next_yield_ns.pop(key, None)
            self._resume_ns.pop(key, None)

    def _flush(self) -> None:
        self._outputs += self._session.renewals(self._now_ns)  # T1: built after the driver read the clock


def boot_id_bytes(boot_id: str) -> bytes:
    """The sixteen bytes of /proc/sys/kernel/random/boot_id. Raises InvariantError where it is not one."""
    try:
        data = bytes.fromhex(boot_id.strip().replace("-", ""))
    except ValueError:
        data = b""
    if len(data) != 16:
        raise InvariantError(f"boot id {boot_id!r} is not a UUID")
    return data
