"""What a datagram carries: what it is sent for, what its receiver must hear about itself, then as much news as fits.

SWIM has no datagrams of its own for news: it rides on the probes (4.1, piggyback). So every datagram of this member
is put together here, and here alone is the budget of one datagram kept.
"""

from service.gossip.config import GossipConfig
from service.gossip.digest import Index
from service.gossip.dissemination import Broadcasts
from service.gossip.event import Output
from service.gossip.member import MemberState
from service.gossip.message import PACKET_OVERHEAD_BYTES, Ack, Message, Ping, Suspect, encode_message, encode_packet
from service.gossip.retention import Retention
from service.gossip.roster import Roster
from service.model.machine import Address, Send


class Outbound:
    """Appends a Send to the machine's outputs for each datagram; sends nothing itself."""

    def __init__(
        self, config: GossipConfig, *, index: Index, roster: Roster, broadcasts: Broadcasts, retention: Retention
    ) -> None:
        self._budget = config.payload_bytes_max - PACKET_OVERHEAD_BYTES
        self._index = index
        self._roster = roster
        self._broadcasts = broadcasts
        self._retention = retention
        # Shared, not copied: events and datagrams leave the machine in the order in which they came about.
        self._outputs: list[Output] = roster.outputs

    def ping(self, address: Address, name: str, sequence: int, *more: Message, now_ns: int) -> None:
        """Ask `name` at this address for an Ack; empty where only the address is known (a seed)."""
        self.send(address, name, Ping(sequence, name, self._index.short_fingerprint), *more, now_ns=now_ns)

    def acknowledge(self, address: Address, name: str, sequence: int, *, now_ns: int) -> None:
        """Answer a ping, or pass an answer on, under the asker's sequence."""
        self.send(address, name, Ack(sequence, self._index.short_fingerprint), now_ns=now_ns)

    def send(self, address: Address, name: str, *messages: Message, now_ns: int) -> None:
        """Send `messages` with all that rides on them; nothing at all where there is nothing to say.

        The messages themselves must fit a datagram: each kind does by its own bounds, an answer by how it was split.
        """
        parts = [encode_message(message) for message in messages]
        budget = self._budget - sum(len(part) for part in parts)
        about_it = self._about(name, now_ns=now_ns)
        # Already among the parts where the message is the correction itself.
        if about_it is not None and about_it not in parts and len(about_it) <= budget:
            parts.append(about_it)
            budget -= len(about_it)
        parts.extend(self._broadcasts.take(budget, live_members=self._roster.live_count, skip=parts))
        if parts:
            self._outputs.append(Send(address, encode_packet(parts, tick=self._retention.tick)))

    def _about(self, name: str, *, now_ns: int) -> bytes | None:
        """An accusation or death notice for its own subject, first hand (Lifeguard, buddy system).

        The queue would bring it there too, by chance and a bounded number of times. But only the accused can refute,
        so it must not be the last to know.
        """
        member = self._roster.get(name)
        if member is None or member.state is MemberState.ALIVE or name == self._roster.name:
            return None
        if member.state is MemberState.SUSPECT:
            # One accuser is enough to be refuted; which, makes no difference.
            suspicion = self._roster.suspicions[name]
            return encode_message(Suspect(name, member.incarnation, next(iter(suspicion.accusers))))
        record = self._roster.record(name, now_ns=now_ns)
        return None if record is None else encode_message(record)
