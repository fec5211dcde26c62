"""What a holder does about others that use its address: RFC 5227, section 2.4 (c), for one that must be kept. Pure.

A foreign word is an ARP packet with the floating IP as its sender and a MAC that is not this node's. The holder answers
it with one announcement, at most each DEFEND_INTERVAL_NS, so that two who both defend do not talk for ever. Who took
the address in silence is found by asking for it now and then.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

_MS = 1_000_000
DEFEND_INTERVAL_NS = 10_000 * _MS
"""DEFEND_INTERVAL of RFC 5227."""
REPLY_AFTER_NS = 2_100 * _MS
"""An announcement has two forms. The request goes at once; the reply when the other has been silent for so long, since
whoever takes an address announces it twice, 2 s apart (ANNOUNCE_INTERVAL), and Linux routers heed no reply within a
second of another."""
REPLY_WITHIN_NS = 5_000 * _MS
"""The reply does not wait longer for that."""
MEMBER_PATIENCE_NS = 800 * _MS
"""Whose MAC is a member's may have the address on an interface (A1): its word comes in this time, and ends the tenure.
Else the MAC was forged."""
SETTLING_NS = 1_000 * _MS
"""Words of members so soon after the lease was taken may be those of the holder before."""
ASK_GAP_NS = 10_000 * _MS
ASK_GAP_IN_CONFLICT_NS = 5_000 * _MS
ASK_PACE_NS = 200 * _MS
"""Between two questions, however many addresses are held: switches that inspect ARP shut a port that sends more than
15 packets in a second."""
LASTS_NS = 12_000 * _MS
"""A conflict is over when nothing foreign was heard for so long, two questions among it."""


@dataclass(frozen=True, slots=True)
class Defend:
    """Announce the address in one of its two forms."""

    floating_ip: IPv4Address
    is_reply: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """Send an ARP probe for the address: this node's datapath does not answer itself."""

    floating_ip: IPv4Address


@dataclass(slots=True)
class _Tenure:
    since_ns: int
    ask_ns: int
    """When to ask next."""
    asked_ns: int | None = None
    mac: bytes = b""
    """Of the other, while there is one."""
    heard_ns: int = 0
    defend_ns: int | None = None
    defended_ns: int | None = None
    reply_ns: int | None = None


@dataclass(slots=True)
class Defence:
    """One tenure per floating IP held. Times are nanoseconds of a clock that never goes backwards."""

    defences: int = 0
    """Begun since the start."""
    _tenures: dict[IPv4Address, _Tenure] = field(default_factory=dict)
    _ask_ns: int = 0
    """Before then nothing is asked."""
    _outputs: list[Defend | Ask] = field(default_factory=list)

    def hold(self, floating_ips: Iterable[IPv4Address], *, now_ns: int) -> None:
        """These are held now. What is held no more is not defended, nor its conflict remembered."""
        held = dict.fromkeys(floating_ips)
        self._tenures = {address: tenure for address, tenure in self._tenures.items() if address in held}
        for address in held:
            if address not in self._tenures:
                self._tenures[address] = _Tenure(now_ns, now_ns + SETTLING_NS)
        self._outputs = [output for output in self._outputs if output.floating_ip in held]

    def holds(self, floating_ip: IPv4Address) -> bool:
        """Whether a foreign word for the address concerns this node."""
        return floating_ip in self._tenures

    def hear(self, floating_ip: IPv4Address, mac: bytes, *, is_member: bool, now_ns: int) -> bool:
        """A foreign word. True where it begins a conflict, or another MAC goes on with one."""
        tenure = self._tenures.get(floating_ip)
        if tenure is None or (is_member and now_ns - tenure.since_ns < SETTLING_NS):
            return False
        is_news = tenure.mac != mac
        tenure.mac, tenure.heard_ns = mac, now_ns
        tenure.ask_ns = min(tenure.ask_ns, now_ns + ASK_GAP_IN_CONFLICT_NS)
        if tenure.reply_ns is not None and tenure.defended_ns is not None:
            tenure.reply_ns = min(now_ns + REPLY_AFTER_NS, tenure.defended_ns + REPLY_WITHIN_NS)
        elif tenure.defend_ns is None:
            earliest_ns = now_ns + (MEMBER_PATIENCE_NS if is_member else 0)
            allowed_ns = now_ns if tenure.defended_ns is None else tenure.defended_ns + DEFEND_INTERVAL_NS
            tenure.defend_ns = max(earliest_ns, allowed_ns)
        return is_news

    def advance(self, *, now_ns: int) -> None:
        """Defend and ask what is due, and forget conflicts that are over."""
        for address, tenure in self._tenures.items():
            if tenure.mac and now_ns - tenure.heard_ns >= LASTS_NS:
                tenure.mac, tenure.defend_ns = b"", None
            self._defend(address, tenure, now_ns)
        self._ask(now_ns)

    def _ask(self, now_ns: int) -> None:
        """One at a time: those in conflict first, then who has waited longest."""
        due = [(not one.mac, one.ask_ns, address) for address, one in self._tenures.items() if one.ask_ns <= now_ns]
        if not due or now_ns < self._ask_ns:
            return
        address = min(due)[2]
        tenure = self._tenures[address]
        self._outputs.append(Ask(address))
        self._ask_ns, tenure.asked_ns = now_ns + ASK_PACE_NS, now_ns
        tenure.ask_ns = now_ns + (ASK_GAP_IN_CONFLICT_NS if tenure.mac else ASK_GAP_NS)

    def _defend(self, address: IPv4Address, tenure: _Tenure, now_ns: int) -> None:
        if tenure.defend_ns is not None and tenure.defend_ns <= now_ns:
            self._outputs.append(Defend(address, is_reply=False))
            self.defences += 1
            tenure.defend_ns, tenure.defended_ns, tenure.reply_ns = None, now_ns, now_ns + REPLY_AFTER_NS
        elif tenure.reply_ns is not None and tenure.reply_ns <= now_ns:
            self._outputs.append(Defend(address, is_reply=True))
            tenure.reply_ns = None

    def deadline_ns(self) -> int | None:
        """When something is due next; None where nothing is held."""
        due: list[int] = []
        for tenure in self._tenures.values():
            due.append(max(tenure.ask_ns, self._ask_ns))
            due += [time_ns for time_ns in (tenure.defend_ns, tenure.reply_ns) if time_ns is not None]
            due += [tenure.heard_ns + LASTS_NS] if tenure.mac else []
        return min(due, default=None)

    def drain(self) -> list[Defend | Ask]:
        """Return what is to be sent since the last call, in order."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def conflicts(self) -> Mapping[IPv4Address, bytes]:
        """MAC of whoever else uses an address that is held, while it does."""
        return {address: tenure.mac for address, tenure in self._tenures.items() if tenure.mac}

    def is_clear(self, floating_ip: IPv4Address, *, now_ns: int) -> bool:
        """It is held, was asked for a second ago or longer, and nobody else has it."""
        tenure = self._tenures.get(floating_ip)
        if tenure is None or tenure.asked_ns is None:
            return False
        return not tenure.mac and now_ns - tenure.since_ns >= 2 * SETTLING_NS
