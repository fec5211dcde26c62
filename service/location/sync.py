"""The machine: words of this node by peer, each until it is acknowledged; what others say is handed on."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from service.location.message import ROWS_MAX, Acks, LocationRow, Rows, decode, encode_acks, encode_rows
from service.model.assignment import Location
from service.model.errors import InvariantError, PeerError
from service.model.lease import Token
from service.model.machine import Address, Send, Source

_MS = 1_000_000
RESEND_FIRST_NS = 50 * _MS
RESEND_LAST_NS = 1_000 * _MS
DATAGRAMS_MAX = 8
"""Sent to one peer at once; the rest follows with the next round."""


@dataclass(frozen=True, slots=True)
class LocationHeard:
    """A holder says directly that an address is with it. Said again until this node has acknowledged it."""

    location: Location


@dataclass(slots=True)
class _Peer:
    address: Address
    unheard: dict[IPv4Address, LocationRow] = field(default_factory=dict)
    """Words that it has not acknowledged."""
    due_ns: int = 0
    wait_ns: int = RESEND_FIRST_NS


class LocationSync:
    """Follows the machine contract. Outputs: Send, LocationHeard."""

    def __init__(self, node: str, start_id: int, *, now_ns: int) -> None:
        """`start_id` tells this process from every other of this node: acknowledgements name it."""
        self._node, self._start_id = node, start_id
        self._now_ns = now_ns
        self._revision = 0
        self._peers: dict[str, _Peer] = {}
        self._outputs: list[Send | LocationHeard] = []

    def set_peer(self, node: str, address: Address | None, *, now_ns: int) -> None:
        """Where that agent's socket is; None where it is none any more. This node is passed over."""
        self._pass(now_ns)
        if node == self._node:
            return
        known = self._peers.get(node)
        if address is None:
            self._peers.pop(node, None)
        elif known is None:
            # It hears by gossip of what was before.
            self._peers[node] = _Peer(address)
        else:
            known.address = address

    def locate(self, location: Location, nodes: Iterable[str], *, now_ns: int) -> None:
        """Tell these agents that this node holds a floating IP, until each has heard it or a newer word replaces it.

        Raises InvariantError for a location of another node, with no state changed. Who is no peer is passed over: it
        learns of it by gossip when it comes.
        """
        self._pass(now_ns)
        if location.node != self._node:
            raise InvariantError(f"{self._node} can speak of floating IPs that it holds itself, not of {location}")
        self._revision += 1
        row = LocationRow(self._revision, int(location.floating_ip), *location.token)
        for peer in [self._peers[node] for node in nodes if node in self._peers]:
            peer.unheard[location.floating_ip] = row
            # The others have just been said, or are due soon: the new one does not wait for them.
            peer.wait_ns, peer.due_ns = RESEND_FIRST_NS, now_ns + RESEND_FIRST_NS
            self._outputs.append(Send(peer.address, encode_rows([row])))

    def receive(self, source: Source, payload: bytes, *, now_ns: int) -> None:
        """Take one datagram. Raises PeerError, with no state changed, where it is malformed or of this node itself."""
        if source.node == self._node:
            raise PeerError("location message from another process of this node")
        message = decode(payload)
        self._pass(now_ns)
        if isinstance(message, Rows):
            self._hear(source, message.locations())
        elif isinstance(message, Acks) and message.start_id == self._start_id:
            self._settle(source.node, frozenset(message.revisions))

    def advance(self, *, now_ns: int) -> None:
        """Say again what is due."""
        self._pass(now_ns)
        for peer in self._peers.values():
            if peer.unheard and now_ns >= peer.due_ns:
                self._say(peer)

    def deadline_ns(self) -> int | None:
        """When `advance` is wanted next; None where everybody has heard everything."""
        return min((peer.due_ns for peer in self._peers.values() if peer.unheard), default=None)

    def drain(self) -> list[Send | LocationHeard]:
        """The outputs since the last call, in order, and forget them."""
        outputs, self._outputs = self._outputs, []
        return outputs

    # Inside

    def _hear(self, source: Source, rows: list[LocationRow]) -> None:
        for row in rows:
            token = Token(row.term, row.version, row.counter)
            self._outputs.append(LocationHeard(Location(IPv4Address(row.floating_ip), source.node, token)))
        if rows:
            # Old news is acknowledged too: it needs no resending.
            acks = encode_acks(source.start_id, [row.revision for row in rows])
            self._outputs.append(Send(source.address, acks))

    def _settle(self, node: str, revisions: frozenset[int]) -> None:
        peer = self._peers.get(node)
        if peer is not None:
            peer.unheard = {ip: row for ip, row in peer.unheard.items() if row.revision not in revisions}

    def _say(self, peer: _Peer) -> None:
        rows = list(peer.unheard.values())[: DATAGRAMS_MAX * ROWS_MAX]
        for start in range(0, len(rows), ROWS_MAX):
            self._outputs.append(Send(peer.address, encode_rows(rows[start : start + ROWS_MAX])))
        peer.due_ns = self._now_ns + peer.wait_ns
        peer.wait_ns = min(2 * peer.wait_ns, RESEND_LAST_NS)

    def _pass(self, now_ns: int) -> None:
        if now_ns < self._now_ns:
            raise InvariantError(f"time went back from {self._now_ns} to {now_ns}")
        self._now_ns = now_ns
