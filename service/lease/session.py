"""The holder's side of its sessions: what is sent to which elector when, and which sending an answer counts from.

One datagram per elector and group of keys each renew interval; the key list goes along until the elector has confirmed
its number. A renewal that is not acknowledged within a third of the interval is sent again, as a new one with a new
sequence and a new time (rule T4).

A key has one place while anything is said of it, and for a minute more: what is said in another group could overtake
what was said in this one. After that the place is free. A datagram that came even later would do no harm: it names a
token of a tenure that is over, and later ones are above it (K1).
"""

from dataclasses import dataclass, field

from service.lease.message import GROUP_KEYS, GROUPS_MAX, Ack, Entry, Renew, encode
from service.model.errors import InvariantError
from service.model.lease import Electorate, LeaseProfile
from service.model.machine import Address, Send

RESEND_DIVISOR = 3
"""A renewal that is not answered within this fraction of the interval is sent again (T4)."""


PLACE_KEPT_NS = 60_000_000_000
"""How long after the last word of a key its place is kept."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One renewal under way: what it said and when."""

    sent_ns: int
    """Read before the datagram was built (T1). Whatever an answer grants is counted from here (P5)."""
    lease_ns: int
    """What was asked for then; a later renewal may ask for more or less."""
    list_number: int
    entries: tuple[Entry, ...]


@dataclass(slots=True)
class _Group:
    """Keys that share a datagram."""

    entries: dict[str, Entry] = field(default_factory=dict)
    keys: int = 0
    """Keys whose place it is, also those of which nothing is said any more."""
    list_number: int = 0
    listed: tuple[Entry, ...] = ()
    """`entries` as of `list_number`."""
    changed: bool = False
    """`entries` differ from what is listed under `list_number`: the next renewals have a new number."""


@dataclass(slots=True)
class _Lane:
    """One group towards one elector."""

    sent: dict[int, Sent] = field(default_factory=dict)
    """By sequence, oldest first; answered ones too, until their lease is over: a spontaneous grant answers again."""
    confirmed: int = -1
    """List number that the elector has said it knows."""
    round_ns: int = 0
    """When the first renewal of the present interval was sent; the next interval is counted from it."""
    round_sequence: int = 0
    """Its sequence: an answer to it or to a repetition of it ends the repeating (T4)."""
    last_ns: int = 0
    """When the last one was sent, of whichever kind."""
    acknowledged: int = -1
    """The highest sequence that was answered."""
    urgent: bool = True
    """There is something to say that does not wait for the interval."""


class Session:
    """Renewals to all electors of the electorate. It decides when; what is said of a key is the holder's."""

    _lease_ns: int
    """What is asked for: the profile's lease, or the long one of a process that ends."""
    _sequences: dict[str, int]
    """The last sequence to each elector, of any group and epoch."""
    _sequence_floor: int
    """Not below any that was ever used: an elector that comes back must not take new renewals for old ones."""
    _group_of: dict[str, int]
    """Where each key has its place."""
    _removed_ns: dict[str, int]
    """When each key was removed that keeps its place a while, oldest first."""
    _lanes: dict[tuple[str, int], _Lane]
    """By elector and number of the group."""

    def __init__(self, *, electorate: Electorate, lease_port: int, profile: LeaseProfile, boot_id: bytes) -> None:
        self._electorate = electorate
        self._profile = profile
        self._lease_ns = profile.lease_ns
        self._boot_id = boot_id
        self._lease_port = lease_port
        self._addresses: dict[str, Address] = {}
        self._groups: list[_Group] = []
        self._sequences, self._group_of, self._lanes, self._removed_ns = {}, {}, {}, {}
        self._sequence_floor = 0
        self.set_electorate(electorate)

    def set_electorate(self, electorate: Electorate) -> None:
        """Renew with these electors from now on. In a new epoch no earlier renewal counts (M4), so all is said anew."""
        is_new_epoch = electorate.epoch != self._electorate.epoch
        self._electorate = electorate
        self._addresses = {elector.name: Address(elector.host, self._lease_port) for elector in electorate.contacts}
        self._sequence_floor = max(self._sequence_floor, *self._sequences.values(), 0)
        self._sequences = {name: self._sequences.get(name, self._sequence_floor) for name in self._addresses}
        lanes = {(name, number): _Lane() for name in self._addresses for number in range(len(self._groups))}
        self._lanes = lanes if is_new_epoch else {key: self._lanes.get(key, lane) for key, lane in lanes.items()}

    def has_room(self, key: str) -> bool:
        """Whether the key has a place, or can get one."""
        return len(self._group_of) < GROUP_KEYS * GROUPS_MAX or key in self._group_of

    def put(self, entry: Entry, *, urgent: bool = True) -> None:
        """Say this of the key from now on: at once, or with the next renewal. Only for a key that there is room for."""
        self._removed_ns.pop(entry.key, None)
        number = self._group_of.get(entry.key)
        if number is None:
            number = self._place(entry.key)
        group = self._groups[number]
        if group.entries.get(entry.key) == entry:
            return
        group.entries[entry.key] = entry
        group.changed = True
        for name in self._addresses if urgent else ():
            self._lanes[name, number].urgent = True

    def ask_for(self, lease_ns: int) -> None:
        """Ask for leases of this length from now on, at once."""
        self._lease_ns = lease_ns
        for lane in self._lanes.values():
            lane.urgent = True

    def remove(self, key: str, *, now_ns: int) -> None:
        """Say nothing more of the key; the electors learn it with the next renewal."""
        number = self._group_of.get(key)
        if number is not None and self._groups[number].entries.pop(key, None) is not None:
            self._groups[number].changed = True
            self._removed_ns[key] = now_ns

    def forget(self, now_ns: int) -> list[str]:
        """The keys whose place is free from now on: of none of them anything was said for a minute."""
        forgotten = []
        for key, removed_ns in self._removed_ns.items():
            if now_ns - removed_ns < PLACE_KEPT_NS:
                break
            forgotten.append(key)
        for key in forgotten:
            del self._removed_ns[key]
            self._groups[self._group_of.pop(key)].keys -= 1
        return forgotten

    def _place(self, key: str) -> int:
        number = next((index for index, group in enumerate(self._groups) if group.keys < GROUP_KEYS), len(self._groups))
        if number == len(self._groups):
            if number >= GROUPS_MAX:
                raise InvariantError(f"a session has no place for {key}")
            self._groups.append(_Group())
            for name in self._addresses:
                self._lanes[name, number] = _Lane()
        self._groups[number].keys += 1
        self._group_of[key] = number
        return number

    def due_ns(self) -> int | None:
        """When the next renewal is to be sent; None where there is nothing to renew."""
        due: int | None = None
        for (_, number), lane in self._lanes.items():
            if self._groups[number].entries:
                lane_due = self._lane_due_ns(lane)
                due = lane_due if due is None else min(due, lane_due)
        return due

    def _lane_due_ns(self, lane: _Lane) -> int:
        if lane.urgent:
            return 0
        # Answered, so the interval is waited out; its length is from sending to sending, however late the answer came.
        if lane.acknowledged >= lane.round_sequence:
            return lane.round_ns + self._profile.renew_ns
        return lane.last_ns + self._profile.renew_ns // RESEND_DIVISOR

    def renewals(self, now_ns: int) -> list[Send]:
        """Every datagram that is due, counted as sent at `now_ns`, which was read before (rule T1)."""
        sends = []
        for (name, number), lane in self._lanes.items():
            group = self._groups[number]
            if group.changed:
                group.changed = False
                group.list_number += 1
                group.listed = tuple(group.entries.values())
            if group.entries and self._lane_due_ns(lane) <= now_ns:
                sends.append(self._renewal(name, number, lane, now_ns))
        return sends

    def _renewal(self, name: str, number: int, lane: _Lane, now_ns: int) -> Send:
        group = self._groups[number]
        self._sequences[name] += 1
        sequence = self._sequences[name]
        if lane.urgent or now_ns >= lane.round_ns + self._profile.renew_ns:
            # A new round; otherwise it is a repetition within the present one, which any of its answers ends.
            lane.round_ns, lane.round_sequence = now_ns, sequence
        lane.last_ns = now_ns
        lane.urgent = False
        lane.sent[sequence] = Sent(now_ns, self._lease_ns, group.list_number, group.listed)
        self._forget_old(lane, now_ns)
        renew = Renew(
            epoch=self._electorate.epoch,
            boot_id=self._boot_id,
            sequence=sequence,
            lease_ns=self._lease_ns,
            renew_ns=self._profile.renew_ns,
            group=number,
            list_number=group.list_number,
            entries=None if lane.confirmed == group.list_number else group.listed,
        )
        return Send(self._addresses[name], encode(renew))

    def _forget_old(self, lane: _Lane, now_ns: int) -> None:
        # An answer to a renewal older than its lease promises nothing any more. So what is kept is bounded by the lease
        # (and the resends in it), and the dict's order, that of sending, lets the search end at the first that lives.
        for sequence, sent in list(lane.sent.items()):
            if sent.sent_ns + sent.lease_ns > now_ns:
                break
            del lane.sent[sequence]

    def acknowledge(self, elector: str, ack: Ack) -> Sent | None:
        """The renewal that is answered, to be counted from its sending (rule P5); None where nothing is to be counted.

        An acknowledgement repeated by the elector with a spontaneous grant is found again: it still is from then.
        """
        lane = self._lanes.get((elector, ack.group))
        # Three ways to be no answer of ours: a group we do not have, a sequence of long ago or of another process, and
        # a list other than the one we sent with that sequence.
        sent = lane.sent.get(ack.sequence) if lane is not None else None
        if lane is None or sent is None or sent.list_number != ack.list_number:
            return None
        lane.acknowledged = max(lane.acknowledged, ack.sequence)
        if ack.needs_list:
            # It was restarted, or lost the datagram with the list: tell it at once, the next interval may be too late.
            if lane.confirmed == ack.list_number:
                lane.confirmed = -1
                lane.urgent = True
            return None
        if len(ack.granted) != len(sent.entries):
            # It answers another list under our number: a bit would be taken for another key's.
            return None
        lane.confirmed = max(lane.confirmed, ack.list_number)
        return sent
