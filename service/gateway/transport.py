"""Over which transport each {member, floating IP} is reached: asked over the data path itself (rule X1). Pure.

Port security, an allowed-address list of a hypervisor or a filter in a switch may swallow frames of an address that is
no node's own, and nothing else. So frames like those that matter are sent: to the member from the floating IP, and its
answer back to the floating IP from an address outside. Where some in a row came back in time, both directions pass, and
the segment is used; else, and as soon as some in a row did not, the tunnel. Who asks says in its question whether it is
content, so that the member's way back follows the same word.

Where the transport is the segment in any case, a member is asked only when somebody says there that it has an address.

A member whose agent is gone, by gossip, answers nothing: that says nothing of the segment, and what was proven stays.
A segment that comes and goes is believed later each time.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address

_MS = 1_000_000
GAP_NS = 1_000 * _MS
"""Between two questions where all is well."""
DOUBT_GAP_NS = 200 * _MS
"""Where a segment is not proven, or an answer is missing."""
ANSWER_NS = 500 * _MS
"""What comes later is no answer: packets of pods that take so long are as good as lost."""
CONFIRMATIONS = 5
"""Answers in a row that prove a segment."""
CONFIRMATIONS_MAX = 320
"""However often it has come and gone: about a minute of answers."""
LOSSES = 3
"""Questions in a row without an answer that end a proof."""
CALM_NS = 600_000 * _MS
"""After so long without one, as if there had been no loss."""
WORD_NS = 4 * GAP_NS
"""So long a member's word that it is content holds; longer while it is gone."""

_NEVER = 1 << 63
"""Not due."""

Pair = tuple[str, IPv4Address]
"""A member, and a floating IP on whose segment both are."""


@dataclass(frozen=True, slots=True)
class Proven:
    """Where segments let frames of floating IPs pass, both ways. A filter may sit at one of two ports alone, so what is
    proven of the pods of one node says nothing of those of the other."""

    out: frozenset[Pair] = frozenset()
    """By own answers: of what pods of this node send to the member, and get back from it."""
    back: frozenset[Pair] = frozenset()
    """By the member's word: of what its pods send to this node, and get back."""


@dataclass(frozen=True, slots=True)
class Question:
    """To be sent from the floating IP to the member, as a frame of the segment."""

    to: str
    floating_ip: IPv4Address
    sequence: int
    is_content: bool
    """What was sent so far has come back: the member may answer pods by the segment, too."""


@dataclass(frozen=True, slots=True)
class Reply:
    """To be sent from outside to the floating IP, to the member that asked. `nonce` is that of its question."""

    to: str
    floating_ip: IPv4Address
    nonce: int
    sequence: int


@dataclass(slots=True)
class _Asked:
    due_ns: int
    sequence: int = 0
    sent_ns: int | None = None
    """When the last question went out; None once it was answered, or given up."""
    is_proven: bool = False
    run: int = 0
    losses: int = 0
    needed: int = CONFIRMATIONS
    lost_ns: int | None = None


@dataclass(slots=True)
class _Word:
    is_content: bool
    at_ns: int


@dataclass(slots=True)
class Transports:
    """One machine for a node. Times are nanoseconds of a clock that never goes backwards."""

    nonce: int
    """Of this start of the agent: answers to questions of an earlier one are none."""
    is_steady: bool = True
    """Asks again and again; else only when it is told to, until it is answered or some in a row were not."""
    _asked: dict[Pair, _Asked] = field(default_factory=dict)
    _words: dict[Pair, _Word] = field(default_factory=dict)
    _living: frozenset[str] = frozenset()
    _adopted: set[IPv4Address] = field(default_factory=set)
    _outputs: list[Question | Reply] = field(default_factory=list)

    def adopt(self, floating_ips: Iterable[IPv4Address]) -> None:
        """A former agent of this node used the segment for these: so it goes on until an answer is missing."""
        self._adopted |= set(floating_ips)

    def update(self, pairs: Iterable[Pair], living: Iterable[str], *, now_ns: int) -> None:
        """Whom to ask about what, and which members answer by gossip."""
        wanted = dict.fromkeys(pairs)
        self._living = frozenset(living)
        self._asked = {pair: asked for pair, asked in self._asked.items() if pair in wanted}
        for pair in wanted:
            if pair not in self._asked:
                due_ns = now_ns if self.is_steady else _NEVER
                self._asked[pair] = _Asked(due_ns, is_proven=pair[1] in self._adopted)
        self._adopted -= {floating_ip for _, floating_ip in wanted}

    def hear_question(
        self, sender: str, floating_ip: IPv4Address, *, nonce: int, sequence: int, is_content: bool, now_ns: int
    ) -> None:
        """A member asked, over the data path: `sender` is authenticated."""
        self._words[sender, floating_ip] = _Word(is_content, now_ns)
        self._outputs.append(Reply(sender, floating_ip, nonce, sequence))

    def ask_now(self, pair: Pair, *, now_ns: int) -> None:
        """Somebody says on the segment that this member has the address: it is asked at once, if it is asked at all.

        One that is not asked again and again need be neither the holder nor the successor that was known so far.
        """
        if not self.is_steady and pair not in self._asked and any(pair[1] == ip for _, ip in self._asked):
            self._asked[pair] = _Asked(now_ns)
        asked = self._asked.get(pair)
        if asked is not None and asked.sent_ns is None:
            asked.due_ns = min(asked.due_ns, now_ns)

    def hear_reply(self, sender: str, floating_ip: IPv4Address, *, nonce: int, sequence: int, now_ns: int) -> bool:
        """A member answered, over the data path. Of another start, or not to the last question, it changes nothing.

        What is late proves nothing, but it did come: an agent was slow, and the segment swallows nothing. Returns
        whether it is the first answer to the last question, in time: then its word is of now.
        """
        asked = self._asked.get((sender, floating_ip))
        if asked is None or nonce != self.nonce or sequence != asked.sequence:
            return False
        asked.losses = 0
        if asked.sent_ns is None or now_ns - asked.sent_ns > ANSWER_NS:
            return False
        asked.sent_ns = None
        asked.run += 1
        if asked.lost_ns is not None and now_ns - asked.lost_ns > CALM_NS:
            asked.needed, asked.lost_ns = CONFIRMATIONS, None
        if not asked.is_proven and asked.run >= asked.needed:
            asked.is_proven = True
        return True

    def advance(self, *, now_ns: int) -> None:
        """Give up what was not answered in time, and ask what is due."""
        for (peer, floating_ip), asked in self._asked.items():
            if asked.sent_ns is not None and now_ns - asked.sent_ns > ANSWER_NS:
                self._lose(asked, is_living=peer in self._living, now_ns=now_ns)
            if asked.sent_ns is None and asked.due_ns <= now_ns:
                asked.sequence += 1
                asked.sent_ns = now_ns
                asked.due_ns = now_ns + self._gap_ns(asked) if self.is_steady else _NEVER
                self._outputs.append(Question(peer, floating_ip, asked.sequence, asked.is_proven))
        self._words = {
            pair: word
            for pair, word in self._words.items()
            if now_ns - word.at_ns <= WORD_NS or pair[0] not in self._living
        }

    def _gap_ns(self, asked: _Asked) -> int:
        is_calm = asked.is_proven and asked.losses == 0
        return GAP_NS if is_calm else DOUBT_GAP_NS

    def _lose(self, asked: _Asked, *, is_living: bool, now_ns: int) -> None:
        asked.sent_ns, asked.run = None, 0
        if not self.is_steady:
            asked.losses = (asked.losses + 1) % LOSSES
            asked.due_ns = now_ns + DOUBT_GAP_NS if asked.losses else _NEVER
            return
        asked.due_ns = min(asked.due_ns, now_ns + DOUBT_GAP_NS)
        if not is_living:
            return
        asked.losses += 1
        if asked.is_proven and asked.losses >= LOSSES:
            asked.is_proven = False
            asked.needed = min(2 * asked.needed, CONFIRMATIONS_MAX) if asked.lost_ns is not None else CONFIRMATIONS
            asked.lost_ns = now_ns

    def proven(self) -> Proven:
        """As far as is known now."""
        return Proven(
            frozenset(pair for pair, asked in self._asked.items() if asked.is_proven),
            frozenset(pair for pair, word in self._words.items() if word.is_content),
        )

    def asked(self) -> dict[Pair, bool]:
        """Every pair that is asked about, and whether it is proven."""
        return {pair: asked.is_proven for pair, asked in self._asked.items()}

    def deadline_ns(self) -> int | None:
        """When to advance next; None where nothing is asked and no word grows old."""
        dues = [
            asked.due_ns if asked.sent_ns is None else asked.sent_ns + ANSWER_NS + 1 for asked in self._asked.values()
        ]
        dues += [word.at_ns + WORD_NS + 1 for pair, word in self._words.items() if pair[0] in self._living]
        return min((due_ns for due_ns in dues if due_ns < _NEVER), default=None)

    def drain(self) -> list[Question | Reply]:
        """What is to be sent since the last call, in order."""
        outputs, self._outputs = self._outputs, []
        return outputs
