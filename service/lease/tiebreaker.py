"""When one of two electors may ask to go on alone (leases.md, Two nodes).

Of two electors both are a majority: with one of them gone nothing is granted. Who misses the other asks for the next
epoch with itself as the only elector, by a compare-and-swap on the object that holds the electorate; of two who ask,
one gets it. It only asks. The epoch is gone over to when the object is seen to say so, never because it was asked for:
where the outcome is unknown the change may have been refused, or made, or may yet be made.

Why that shows no two holders. In an epoch of two every quorum has both votes in it, so each of the two has promised,
and remembers, everything that holds in it. Who has settled in it also knows everything from before, and that nothing
can be granted there any more, because so many have left it, on disk. So a settled member may be the only elector of
the next epoch without asking anybody: what the other holds is among its own promises, in their whole length, the long
one of a planned restart too, and is granted to nobody before they end (T3). The other needs this vote to take or to
keep anything, and finds it gone.

Who asks goes on voting until it goes over to the new epoch. To stop before would add nothing to that, and a moment's
loss of each other while the API server is away would leave both dark until it is back.
"""

from dataclasses import dataclass

from service.lease.electorate_message import Standing, Survey, decode_electorate_message, encode_electorate_message
from service.lease.message import MessageKind, kind_of
from service.model.errors import InvariantError, PeerError
from service.model.lease import NO_ELECTORATE, Elector, Electorate, LeaseProfile
from service.model.machine import Address, Send, Source

GRACE_NS = 2_000_000_000
"""From the beginning of an epoch, or of this process: both have to write it down and to go over."""
SURVEYS_PER_RENEWAL = 3
"""As often as a renewal that is not answered is sent (T4): a few lost datagrams are no loss of each other."""
UNFIT_PATIENCE = 10
"""A node that could not serve an address waits so many times as long: if the other can, it should win."""


@dataclass(frozen=True, slots=True)
class Swap:
    """A change of the electorate object that is asked for: only while it says `before`."""

    before: Electorate
    following: Electorate


class Tiebreaker:
    """Listens whether the other of two electors votes. Follows the machine contract. Outputs: Send, Swap.

    A Swap is put out when it begins to be wanted; it is to be tried again as long as `swap` says so.
    """

    swap: Swap | None
    """What is wanted now."""
    _peer: Elector | None
    """The other of two, or the one that a sole elector has just lost; None where there is none."""
    _heard_ns: int
    """When it was last heard to vote. May lie ahead: nobody is missed before the grace is over."""
    _is_ready: bool
    """This elector knows everything that was promised, and may go on alone."""
    _is_fit: bool
    """This node could serve an address. One that could not asks, too, but later."""

    def __init__(
        self, *, node: str, lease_port: int, profile: LeaseProfile, now_ns: int, grace_ns: int = GRACE_NS
    ) -> None:
        self._node = node
        self._lease_port = lease_port
        self._grace_ns = grace_ns
        # Half a lease is left for the object to be changed: what the survivor holds itself is then not interrupted.
        self._patience_ns = profile.lease_ns // 2
        self._interval_ns = profile.renew_ns // SURVEYS_PER_RENEWAL
        self._now_ns = self._next_ns = now_ns
        self._sequence = now_ns
        self._electorate = NO_ELECTORATE
        self._peer = None
        self._is_ready = self._is_fit = False
        self._heard_ns = now_ns
        self._outputs: list[Send | Swap] = []
        self.swap = None

    def set_standing(self, electorate: Electorate, *, ready: bool, fit: bool, now_ns: int) -> None:
        """The electorate in force here. `ready`: its elector votes in this very epoch and has settled in it, so that it
        knows all that was promised; `fit`: it could serve an address."""
        self._pass(now_ns)
        if electorate.epoch != self._electorate.epoch:
            self._electorate = electorate
            self._peer = self._other_of_two(electorate)
            # Alone, it has just missed the other, and says so until it has heard it.
            self._heard_ns = now_ns + (-UNFIT_PATIENCE * self._patience_ns if self._is_alone else self._grace_ns)
        self._is_ready, self._is_fit = ready, fit
        self._judge()

    @property
    def is_missing_other(self) -> bool:
        """The other of two electors is not heard, or, of one that goes on alone, the one that it lost."""
        return self._peer is not None and self._now_ns - self._heard_ns >= self._patience_ns

    @property
    def _is_alone(self) -> bool:
        return [member.name for member in self._electorate.members] == [self._node]

    def _other_of_two(self, electorate: Electorate) -> Elector | None:
        others = [elector for elector in electorate.contacts if elector.name != self._node]
        is_one_of_two = len(electorate.members) == 2 and electorate.member(self._node) is not None
        if is_one_of_two:
            others = [member for member in electorate.members if member.name != self._node]
        return others[0] if len(others) == 1 and (is_one_of_two or self._is_alone) else None

    def receive(self, source: Source, payload: bytes, *, now_ns: int) -> None:
        """Take a standing. Raises PeerError with nothing changed."""
        if kind_of(payload) is not MessageKind.STANDING:
            raise PeerError("lease datagram: not for a tiebreaker")
        said = decode_electorate_message(payload)
        self._pass(now_ns)
        if self._peer is None or source.node != self._peer.name or not isinstance(said, Standing):
            return
        if said.epoch != self._electorate.epoch:
            # One of the two can learn from the other: who is ahead answers with what is in force there.
            self._outputs.append(Send(source.address, encode_electorate_message(self._electorate)))
        elif said.voting and (said.elector or self._is_alone):
            # One that is silent (P2), or has another disk than was meant (M7), is as good as gone.
            self._heard_ns = max(self._heard_ns, now_ns)
        self._judge()

    def advance(self, *, now_ns: int) -> None:
        """Ask again when the interval is over."""
        self._pass(now_ns)
        self._judge()
        if self._peer is None or now_ns < self._next_ns:
            return
        self._next_ns = now_ns + self._interval_ns
        self._sequence += 1
        payload = encode_electorate_message(Survey(self._electorate.epoch, self._sequence))
        self._outputs.append(Send(Address(self._peer.host, self._lease_port), payload))

    def deadline_ns(self) -> int | None:
        """When to ask next; None where there is no other of two."""
        return None if self._peer is None else self._next_ns

    def drain(self) -> list[Send | Swap]:
        """The outputs since the last call, in order, and forget them."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def _judge(self) -> None:
        before, self.swap = self.swap, self._wanted()
        if self.swap is not None and self.swap != before:
            self._outputs.append(self.swap)

    def _wanted(self) -> Swap | None:
        """The next epoch with this node alone, if all that must be true for it is true now."""
        own = self._electorate.member(self._node)
        patience_ns = self._patience_ns * (1 if self._is_fit else UNFIT_PATIENCE)
        is_lost = self._peer is not None and self._now_ns - self._heard_ns >= patience_ns
        if own is None or not is_lost or self._is_alone or not self._is_ready:
            return None
        electorate = self._electorate
        return Swap(electorate, Electorate(electorate.epoch + 1, (own,), electorate.members))

    def _pass(self, now_ns: int) -> None:
        if now_ns < self._now_ns:
            raise InvariantError("time went backwards")
        # A process that was stopped has not listened: its answers may wait in the socket, and count first.
        gap_ns = now_ns - self._now_ns
        if gap_ns > self._patience_ns // 2:
            self._heard_ns += gap_ns
        self._now_ns = now_ns
