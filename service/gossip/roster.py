"""What this member believes of all members, and how news changes it (SWIM 4.2).

Everything that arrives about members passes through `merge` and `accuse`, and every change of belief does the same four
things there: keep the index for anti-entropy, queue the news for others, tell our own process, and keep the lists by
which members are probed. The local member is in the roster too, but only its own words change it.
"""

from collections.abc import Callable

from service.gossip.admission import MEMBERS_FULL, MEMBERS_RATE, Admission
from service.gossip.awareness import Awareness
from service.gossip.config import GossipConfig
from service.gossip.digest import Index
from service.gossip.dissemination import Broadcasts, Subject
from service.gossip.event import MemberChanged, NameConflict, Output
from service.gossip.member import Member, MemberState, member_of, record_of, record_version
from service.gossip.message import ALIVE, DEAD, LEFT, Record, Suspect, encode_message
from service.gossip.probe import Rotation
from service.gossip.randomness import Random
from service.gossip.reconnect import Reconnect
from service.gossip.suspicion import Suspicion, open_suspicion
from service.model.machine import Address

# Between defences against another process of the same name, which defends itself too: an argument, not a storm.
NAMESAKE_INTERVAL_NS = 5_000_000_000


class Roster:
    """All known members, the open suspicions, and the local member's own record."""

    def __init__(
        self,
        local: Member,
        *,
        config: GossipConfig,
        random: Random,
        index: Index,
        broadcasts: Broadcasts,
        refused: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """`refused` is told why a record was not taken over."""
        self._config = config
        self._random = random
        self._index = index
        self._broadcasts = broadcasts
        self._refused = refused
        self._admission = Admission(config)
        self._members: dict[str, Member] = {local.name: local}
        self._ended_ns: dict[str, int] = {}
        """When each dead or left member became so, in our time; it may lie before our start."""
        self._live: list[str] | None = None
        """What `live_others` returned last; None once somebody came up or went down."""
        self._sorted: tuple[Member, ...] | None = None
        """What `all` returned last; None once anything about anybody has changed."""
        self._foreign_raises = 0
        """How often a record of our name, but of another address, was newer than our own words."""
        self._namesake_ns: int | None = None
        """When we last complained of a namesake."""
        self.name = local.name
        self.suspicions: dict[str, Suspicion] = {}
        """Open cases by the accused; exactly the members in state suspect have one."""
        self.awareness = Awareness(config.awareness_max)
        self.rotation = Rotation(random)
        self.reconnect: Reconnect[str] = Reconnect(
            random, interval_ns_min=config.reconnect_interval_ns_min, interval_ns_max=config.reconnect_interval_ns_max
        )
        self.outputs: list[Output] = []
        self.counters = {"refutations": 0, "accusations": 0, "deaths": 0, "members_refused": 0}
        self._publish(local, now_ns=0, urgent=False)

    # Questions

    @property
    def local(self) -> Member:
        """Ourselves, in our own words."""
        return self._members[self.name]

    @property
    def has_left(self) -> bool:
        """We said good-bye: from then on this member only answers."""
        return self.local.state is MemberState.LEFT

    @property
    def live_count(self) -> int:
        """Members that count as up, ourselves included."""
        return len(self.live_others()) + 1

    def get(self, name: str) -> Member | None:
        """A member by name; None where it is unknown, or was forgotten."""
        return self._members.get(name)

    def all(self) -> tuple[Member, ...]:
        """Everybody we know of, the dead and ourselves included, by name in order; the same tuple until one changes."""
        if self._sorted is None:
            self._sorted = tuple(self._members[name] for name in sorted(self._members))
        return self._sorted

    def live_others(self) -> list[str]:
        """Names of the other members that count as up, in order of arrival."""
        if self._live is None:
            self._live = [m.name for m in self._members.values() if m.is_live and m.name != self.name]
        return self._live

    def pick(self, count: int, *, skip: str = "") -> list[Member]:
        """At most `count` different live members at random."""
        names = [name for name in self.live_others() if name != skip]
        return [self._members[name] for name in self._random.sample(names, k=min(count, len(names)))]

    def record(self, name: str, *, now_ns: int) -> Record | None:
        """What we would tell others of a member. A suspect's says alive: suspicion is told by accusations."""
        member = self._members.get(name)
        return None if member is None else record_of(member, age_ns=now_ns - self._ended_ns.get(name, now_ns))

    def is_outdated(self, sender: str, news: Suspect | Record) -> bool:
        """Whether we know better than what the sender says, so that it should be told."""
        # Only first-hand news is corrected: of the sender itself, of us, or its own accusation of somebody. What it
        # merely passes on has reached it by others, as our view will.
        known = self._members.get(news.name)
        if known is None or news.incarnation > known.incarnation:
            return False
        if news.name == self.name or (isinstance(news, Suspect) and news.accuser == sender):
            return news.incarnation < known.incarnation
        return isinstance(news, Record) and news.name == sender and member_of(news) != known

    def has_accused(self) -> list[str]:
        """Members that we ourselves accuse at present."""
        return [name for name, suspicion in self.suspicions.items() if self.name in suspicion.accusers]

    # The local member's own words

    def announce(self, *, now_ns: int, state: MemberState = MemberState.ALIVE, metadata: bytes | None = None) -> None:
        """Say something new about ourselves, under a higher incarnation."""
        self._raise(self.local.incarnation + 1, now_ns=now_ns, state=state, metadata=metadata)

    def _raise(
        self, incarnation: int, *, now_ns: int, state: MemberState = MemberState.ALIVE, metadata: bytes | None = None
    ) -> None:
        local = self.local
        # The address is what we were started with: we do not learn our own from others.
        words = local.metadata if metadata is None else metadata
        member = Member(self.name, local.address, state, words, incarnation)
        self._set(member)
        if not member.is_live:
            self._ended_ns[self.name] = now_ns
        self._publish(member, now_ns=now_ns, urgent=True)

    def _defend(self, record: Record, *, now_ns: int) -> None:
        """Somebody's view of ourselves: refute what is not as new as our own words, or not ours at all.

        This is also what makes a restart certain: whatever incarnation an earlier life had reached, and however low
        the one we were started with, hearing the old record (dead, or alive with old words) raises us above it.
        """
        local = self.local
        # After leaving, being called dead or gone is no accusation any more.
        if not local.is_live or record.incarnation < local.incarnation or record == record_of(local):
            return
        is_foreign = record.state == ALIVE and record.address != local.address
        if is_foreign and record.incarnation > local.incarnation:
            # The dead cannot answer: an earlier life's record stays below our refutation. One that climbs over it again
            # belongs to a living namesake.
            self._foreign_raises += 1
            if self._foreign_raises > 1:
                self.report_namesake(record.address, above=record.incarnation, now_ns=now_ns)
                return
        self._refute(record.incarnation, now_ns=now_ns)

    def report_namesake(self, address: Address, *, above: int | None = None, now_ns: int) -> None:
        """Another process bears our name. Said, and contradicted, once per interval.

        `above` is the incarnation it has spread of itself, to be risen above; None where its datagram alone gave it
        away, so that there is nothing to contradict.
        """
        if self._namesake_ns is not None and now_ns - self._namesake_ns < NAMESAKE_INTERVAL_NS:
            return
        self._namesake_ns = now_ns
        self.outputs.append(NameConflict(self.name, address))
        if above is not None:
            self._refute(above, now_ns=now_ns)

    def _refute(self, incarnation: int, *, now_ns: int) -> None:
        self.counters["refutations"] += 1
        # Only the owner raises its incarnation, and only above what it contradicts (SWIM 4.2).
        self._raise(max(incarnation, self.local.incarnation) + 1, now_ns=now_ns)

    # What others say

    def merge(self, record: Record, *, hearsay_of: str | None, now_ns: int) -> None:
        """Take a record. `hearsay_of` names the sender where it came by anti-entropy, that is, where it may be old."""
        if record.name == self.name:
            self._defend(record, now_ns=now_ns)
            return
        known = self._members.get(record.name)
        if known is None:
            self._meet(record, now_ns=now_ns)
            return
        # Equal is old, too: an item heard twice must not be passed on twice as often.
        if record_version(record) <= known.version:
            return
        if record.state == DEAD and hearsay_of is not None and known.is_live:
            self._doubt(record, known, accuser=hearsay_of, now_ns=now_ns)
            return
        self._adopt(record, known, now_ns=now_ns)

    def _meet(self, record: Record, *, now_ns: int) -> None:
        # Not what is about to be forgotten: who forgot it first would be told again by the slower ones.
        if record.state != ALIVE and record.age_s * 1_000_000_000 > self._retention_ns(record.state) * 9 // 10:
            return
        reason = self._refusal(record, now_ns=now_ns)
        if reason:
            self.counters["members_refused"] += 1
            self._refused(reason)
            return
        self._adopt(record, None, now_ns=now_ns)

    def _refusal(self, record: Record, *, now_ns: int) -> str:
        """Why an unknown member cannot be taken in; empty where it can, and then there is room for it."""
        if not self._admission.admit(now_ns=now_ns):
            return MEMBERS_RATE
        if len(self._members) < self._config.members_max:
            return ""
        # The dead make room for the living, and for nobody else: those who still remember them would bring them back.
        gone = min((name for name in self._ended_ns if name != self.name), key=self._ended_ns.__getitem__, default=None)
        if record.state != ALIVE or gone is None:
            return MEMBERS_FULL
        self._forget(gone)
        return ""

    def _doubt(self, record: Record, known: Member, *, accuser: str, now_ns: int) -> None:
        """Old news of a death, about one we believe alive: only an accusation, which the accused can still refute.

        After a partition each side brings the other a list of its dead. Believing it would take everybody down for the
        moment that the refutations need.
        """
        # It names a newer word than ours, so that word was said: take it, and doubt only the death.
        if record.incarnation > known.incarnation:
            alive = Record(record.name, record.host, record.port, record.incarnation, ALIVE, 0, record.metadata)
            self._adopt(alive, known, now_ns=now_ns)
        self.accuse(record.name, record.incarnation, accuser=accuser, now_ns=now_ns)

    def _adopt(self, record: Record, known: Member | None, *, now_ns: int) -> None:
        self._close_suspicion(record.name)
        member = member_of(record)
        self._set(member)
        self._keep_lists(member, now_ns=now_ns - record.age_s * 1_000_000_000)
        # Joins may wait for deaths and refutations; everything else about members may not wait for joins.
        self._publish(member, now_ns=now_ns, urgent=known is not None)
        self._tell(member, known)

    def _keep_lists(self, member: Member, *, now_ns: int) -> None:
        self._live = None
        if member.is_live:
            self._ended_ns.pop(member.name, None)
            self.reconnect.forget(member.name)
            self.rotation.add(member.name)
            return
        # The first time counts: from dead to left is no new end.
        self._ended_ns.setdefault(member.name, now_ns)
        self.rotation.remove(member.name)
        if member.state is MemberState.DEAD:
            self.reconnect.watch(member.name, now_ns=now_ns)
        else:
            # Who left did so on purpose; it will come to us if it returns.
            self.reconnect.forget(member.name)

    def _tell(self, member: Member, known: Member | None) -> None:
        # A raised incarnation alone is bookkeeping.
        if known is None or (member.state, member.address, member.metadata) != (
            known.state,
            known.address,
            known.metadata,
        ):
            self.outputs.append(MemberChanged(member, None if known is None else known.state))

    def _publish(self, member: Member, *, now_ns: int, urgent: bool) -> None:
        subject: Subject = ("member", member.name)
        self._index.put(subject, member.version)
        record = record_of(member, age_ns=now_ns - self._ended_ns.get(member.name, now_ns))
        self._broadcasts.offer(subject, encode_message(record), urgent=urgent)

    # Suspicion

    def accuse(self, name: str, incarnation: int, *, accuser: str, now_ns: int) -> None:
        """Count an accusation: our own, or one that was passed on."""
        if name == self.name:
            self._answer_accusation(incarnation, now_ns=now_ns)
            return
        member = self._members.get(name)
        # An accusation counts for the incarnation it names. An older one is refuted already; a newer one is news that
        # anti-entropy will bring.
        if member is None or not member.is_live or incarnation != member.incarnation:
            return
        suspicion = self.suspicions.get(name)
        if suspicion is None:
            self._open_suspicion(member, accuser=accuser, now_ns=now_ns)
        elif not suspicion.confirm(accuser):
            # Adds nothing, so it is not passed on either: this is what bounds the traffic of an accusation.
            return
        self.counters["accusations"] += 1
        message = encode_message(Suspect(name, incarnation, accuser))
        self._broadcasts.offer(("suspect", name, accuser), message, urgent=True)

    def _answer_accusation(self, incarnation: int, *, now_ns: int) -> None:
        local = self.local
        # An older incarnation is refuted already; who missed that is told again by `_correct` of the machine.
        if not local.is_live or incarnation < local.incarnation:
            return
        # Having to refute means that our answers come late (Lifeguard, local health).
        self.awareness.worsen()
        self._refute(incarnation, now_ns=now_ns)

    def _open_suspicion(self, member: Member, *, accuser: str, now_ns: int) -> None:
        suspicion = open_suspicion(
            self._config,
            accuser=accuser,
            live_members=self.live_count,
            now_ns=now_ns,
        )
        self.suspicions[member.name] = suspicion
        suspect = Member(member.name, member.address, MemberState.SUSPECT, member.metadata, member.incarnation)
        # Not published: suspect has the rank of alive, and what spreads is the accusation.
        self._set(suspect)
        self._tell(suspect, member)
        # Some of those who hear of it look for themselves at once (on average twice as many as can confirm), so that
        # confirmations come within a period or two. Not all: a thousand pings would bury the suspect.
        if accuser != self.name and self._random.random() * self.live_count < 2 * suspicion.confirmations_max + 2:
            self.rotation.hasten(member.name)

    def _close_suspicion(self, name: str) -> None:
        suspicion = self.suspicions.pop(name, None)
        if suspicion is not None:
            for accuser in suspicion.accusers:
                self._broadcasts.retire(("suspect", name, accuser))

    def bury_overdue(self, *, now_ns: int) -> None:
        """Declare dead whoever has not refuted in time."""
        overdue = [name for name, suspicion in self.suspicions.items() if suspicion.deadline_ns <= now_ns]
        for name in overdue:
            member = self._members[name]
            # First hand: our own timeout ended, so others may believe it at once (see `merge`).
            self.counters["deaths"] += 1
            dead = Member(name, member.address, MemberState.DEAD, member.metadata, member.incarnation)
            self._adopt(record_of(dead), member, now_ns=now_ns)

    def forget_expired(self, *, now_ns: int) -> None:
        """Drop members that have been dead or gone for so long that nobody remembers them."""
        for name, ended_ns in list(self._ended_ns.items()):
            state = LEFT if self._members[name].state is MemberState.LEFT else DEAD
            # Our own end, after leaving, is for nobody here to forget.
            if name != self.name and now_ns - ended_ns >= self._retention_ns(state):
                self._forget(name)

    def _set(self, member: Member) -> None:
        self._members[member.name] = member
        self._sorted = None

    def _forget(self, name: str) -> None:
        self._sorted = None
        del self._members[name], self._ended_ns[name]
        self.reconnect.forget(name)
        self._index.remove(("member", name))
        self._broadcasts.retire(("member", name))

    def _retention_ns(self, state: int) -> int:
        return self._config.retain_left_ns if state == LEFT else self._config.retain_dead_ns
