"""Tells the holders and successors of floating IPs which pods they serve, reliably over lossy datagrams. Pure.

Rules G5 (steering begins when holder and successor have acknowledged the current version) and W2 (a new holder says
directly where the floating IP is). Each peer gets its own small table of rows:

- A row is resent until its revision is acknowledged, after 50 ms and then at doubled intervals up to 1 s.
- An endpoint is acknowledged only when the receiver's own datapath has it, by `confirm`; a location at once.
- Once a second each pair that shares rows exchanges digests. A divergence starts a new epoch: the table is said anew.
- A sender that restarted replaces its former rows; they stay until it has said everything, and 5 s more.
- A receiver that restarted is told everything again. What it acknowledged still counts meanwhile, for its datapath
  outlives its agent; rows that the former process left in the pinned maps are handed to the new one by `adopt`.
"""

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import NamedTuple

from service.endpoint.announcements import ROUND_DATAGRAMS_MAX, Announcements
from service.endpoint.inbox import Inbox
from service.endpoint.message import (
    ACKS_PER_DATAGRAM,
    Acks,
    EndpointRow,
    LocationRow,
    Rows,
    Status,
    WithdrawnRow,
    decode,
    encode,
)
from service.model.assignment import Location
from service.model.endpoint import Endpoint
from service.model.errors import InvariantError, PeerError
from service.model.machine import Address, Send, Source

_SECOND = 1_000_000_000
STATUS_INTERVAL_NS = _SECOND
SILENT_NS = 3 * _SECOND
"""A peer not heard for so long is given one datagram a round."""
GONE_NS = 30 * _SECOND
"""How long the rows of a node that is no peer (any more) outlast its last word."""
UNSETTLED_NS = 5 * _SECOND
"""While rows are under way and this young, a digest that differs proves nothing."""
RETIRED_NS = 3 * _SECOND
"""A former life is refused until the present one was silent for so long.

Start ids have no order: where two lives overlap (a rolling update) and the later was heard first, the earlier passes
for the present one, and the later must not be refused for ever.
"""
_RETIRED_MAX = 16


@dataclass(frozen=True, slots=True)
class EndpointAnnounced:
    """Install it, then `confirm(endpoint.node, endpoint.pod_ip, revision)`. Replaces an earlier row of this node.

    Said again, while it is not confirmed, whenever its node asks again: within a second.
    """

    endpoint: Endpoint
    start_id: int
    """Process of the announcing node that said it."""
    revision: int


@dataclass(frozen=True, slots=True)
class EndpointWithdrawn:
    """This node no longer announces the pod here."""

    node: str
    pod_ip: IPv4Address


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The peer's datapath now has the current version of this row."""

    pod_ip: IPv4Address
    node: str


@dataclass(frozen=True, slots=True)
class LocationHeard:
    """The sender holds the floating IP. Compare its token with what is known: it may be old news."""

    location: Location


Output = Send | EndpointAnnounced | EndpointWithdrawn | Acknowledged | LocationHeard


class SyncCounts(NamedTuple):
    """For status and metrics."""

    peers: int
    announced: int
    """Endpoint rows, counted once per peer that shall hold them."""
    pending: int
    """Rows not yet acknowledged, withdrawals and locations included."""
    held: int
    """Endpoint rows held of others."""


class _Peer:
    """Everything about one other node."""

    def __init__(self, node: str, epoch: int, now_ns: int) -> None:
        self.node = node
        self.address: Address | None = None
        """Its state socket, while it is a peer."""
        self.source_address: Address | None = None
        self.start_id: int | None = None
        self.retired: deque[int] = deque(maxlen=_RETIRED_MAX)
        """Start ids it had before: what still comes from them is late."""
        self.heard_ns = now_ns
        self.changed_ns = now_ns
        self.status_at_ns = now_ns
        self.scheduled_ns: int | None = None
        self.outbox = Announcements(epoch)
        self.inbox = Inbox(node)
        self.acks: list[int] = []

    @property
    def reply_address(self) -> Address | None:
        return self.address or self.source_address

    @property
    def has_stake(self) -> bool:
        """Whether digests need comparing. What waits for the return of a gone node does not."""
        return not self.inbox.is_empty or (self.address is not None and not self.outbox.is_empty)

    def deadline_ns(self) -> int | None:
        deadlines = [self.inbox.purge_at_ns]
        if self.address is not None:
            deadlines.append(self.outbox.next_due_ns)
        elif not self.inbox.is_empty or self.outbox.is_empty:
            deadlines.append(self.heard_ns + GONE_NS)
        if self.has_stake and self.reply_address is not None:
            deadlines.append(self.status_at_ns)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)


class EndpointSync:
    """The endpoint channel of one agent; follows the contract of service.model.machine.Machine."""

    def __init__(self, *, node: str, start_id: int, now_ns: int) -> None:
        """`start_id` is the one this process's envelope seals with."""
        self._node = node
        self._start_id = start_id
        self._now_ns = now_ns
        self._revision = 0
        self._is_complete = False
        """Whether our full state was announced in this life."""
        self._targets: dict[IPv4Address, tuple[str, ...]] = {}
        self._peers: dict[str, _Peer] = {}
        self._agenda: list[tuple[int, str]] = []
        """Heap of (deadline, node); entries that are no peer's current deadline are stale."""
        self._acking: dict[str, None] = {}
        self._outputs: list[Output] = []

    # What the agent tells

    def set_peer(self, node: str, address: Address | None, *, now_ns: int) -> None:
        """Say where a node's state socket is; None: it is gone.

        The rows of a gone node stay for 30 s after its last word: whoever believes it dead may be the one cut off.
        """
        self._pass_time(now_ns)
        if node == self._node:
            return
        peer = self._peers.get(node)
        if peer is None and address is None:
            return
        peer = peer or self._meet(node)
        was, peer.address = peer.address, address
        if address is None:
            peer.outbox.detach()
        elif was is None:
            # Whatever it held of us may have been given up meanwhile, so it is told anew.
            peer.outbox.begin_epoch(self._next_revision)
            peer.heard_ns = now_ns
            self._send_status(peer, wants_reply=True)
            self._flush_changes(peer)
        self._schedule(peer)

    def announce(
        self,
        targets: Mapping[IPv4Address, Collection[str]],
        endpoints: Mapping[IPv4Address, Endpoint],
        *,
        now_ns: int,
    ) -> None:
        """Give the full desired state: for each of our pods its endpoint and the nodes that must know it.

        Rows are compared, so that only what changed is sent. This node among the targets is skipped: its own datapath
        is the agent's affair. Raises InvariantError for an endpoint of another node, with no state changed.
        """
        self._pass_time(now_ns)
        if any(endpoint.node != self._node for endpoint in endpoints.values()):
            raise InvariantError(f"{self._node} can announce its own endpoints only")
        # Targets may be sets: their order must not reach the wire.
        self._targets = {
            pod_ip: tuple(node for node in sorted(nodes) if node != self._node)
            for pod_ip, nodes in targets.items()
            if pod_ip in endpoints
        }
        wanted: dict[str, dict[int, Endpoint]] = {}
        for pod_ip, nodes in self._targets.items():
            for node in nodes:
                wanted.setdefault(node, {})[int(pod_ip)] = endpoints[pod_ip]
        for node in wanted:
            if node not in self._peers:
                self._meet(node)
        is_first, self._is_complete = not self._is_complete, True
        for peer in list(self._peers.values()):
            self._replace(peer, wanted.get(peer.node, {}))
            if is_first and peer.address is not None:
                # Holders of rows of our former life wait for this word, also where we have no row for them now.
                self._send_status(peer, wants_reply=False)
            self._schedule(peer)

    def _replace(self, peer: _Peer, wanted: Mapping[int, Endpoint]) -> None:
        is_attached = peer.address is not None
        if peer.outbox.replace_endpoints(wanted, self._next_revision, keep_withdrawals=is_attached):
            self._flush_changes(peer)

    def locate(self, location: Location, nodes: Sequence[str], *, now_ns: int) -> None:
        """Tell `nodes` that this node holds a floating IP (W2), until each acknowledges or a newer word replaces it.

        Nodes without a state socket are skipped: they learn it from gossip when they come.
        """
        self._pass_time(now_ns)
        if location.node != self._node:
            raise InvariantError(f"{self._node} can speak of floating IPs it holds itself only, not {location}")
        for node in nodes:
            peer = self._peers.get(node)
            if peer is None or peer.address is None:
                continue
            if peer.outbox.put_location(location, self._next_revision):
                self._flush_changes(peer)
                self._schedule(peer)

    def adopt(self, node: str, pod_ips: Iterable[IPv4Address], *, now_ns: int) -> None:
        """Name rows of `node` that a former life of this agent left in the pinned maps.

        They end as rows of a restarted sender do: by EndpointWithdrawn, once the node has said everything but them, or
        is gone. Without this, what was withdrawn while no agent ran would stay in the datapath.
        """
        self._pass_time(now_ns)
        if node == self._node:
            return
        peer = self._peers.get(node) or self._meet(node)
        peer.inbox.adopt(pod_ips)
        self._schedule(peer)

    def confirm(self, node: str, pod_ip: IPv4Address, revision: int, *, now_ns: int) -> None:
        """The local datapath has installed that EndpointAnnounced: acknowledge it. Superseded revisions are ignored."""
        self._pass_time(now_ns)
        peer = self._peers.get(node)
        if peer is not None and peer.inbox.confirm(int(pod_ip), revision):
            self._acknowledge(peer, revision)

    def acknowledged(self, pod_ip: IPv4Address) -> tuple[str, ...]:
        """Return the targets, in name order and without this node, that acknowledged the current version of the row."""
        key = int(pod_ip)
        return tuple(node for node in self._targets.get(pod_ip, ()) if self._peers[node].outbox.is_acknowledged(key))

    def counts(self) -> SyncCounts:
        """How many peers there are, rows told, rows not acknowledged, and rows held for others."""
        peers = self._peers.values()
        return SyncCounts(
            peers=sum(peer.address is not None for peer in peers),
            announced=sum(peer.outbox.count for peer in peers),
            pending=sum(peer.outbox.pending_count for peer in peers),
            held=sum(peer.inbox.count for peer in peers),
        )

    # The contract of a machine

    def receive(self, source: Source, payload: bytes, *, now_ns: int) -> None:
        """Take one datagram. Raises PeerError, with no state changed, where it is malformed or of a former life."""
        self._pass_time(now_ns)
        if source.node == self._node:
            raise PeerError("endpoint message from another process of this node")
        message = decode(payload)
        known = self._peers.get(source.node)
        if known is not None and source.start_id in known.retired and now_ns - known.heard_ns < RETIRED_NS:
            raise PeerError("endpoint message of a former life")
        peer = known or self._meet(source.node)
        self._recognize(peer, source)
        if isinstance(message, Rows):
            self._take_rows(peer, message)
        elif isinstance(message, Acks):
            self._take_acks(peer, message)
        else:
            self._take_status(peer, message)
        self._schedule(peer)

    def advance(self, *, now_ns: int) -> None:
        """Resend what is due, exchange digests, and let go of what has outlived its sender."""
        self._pass_time(now_ns)
        due: list[_Peer] = []
        while (deadline_ns := self.deadline_ns()) is not None and deadline_ns <= now_ns:
            peer = self._peers[heapq.heappop(self._agenda)[1]]
            peer.scheduled_ns = None
            due.append(peer)
        # Each peer once, whatever it schedules anew.
        for peer in due:
            self._advance_peer(peer)

    def deadline_ns(self) -> int | None:
        """When `advance` is wanted next; None: nothing waits."""
        while self._agenda:
            deadline_ns, node = self._agenda[0]
            peer = self._peers.get(node)
            if peer is not None and peer.scheduled_ns == deadline_ns:
                return deadline_ns
            heapq.heappop(self._agenda)
        return None

    def drain(self) -> list[Output]:
        """Return the outputs in order; acknowledgements of one step travel together at its end."""
        for node in self._acking:
            peer = self._peers.get(node)
            if peer is None or peer.reply_address is None or peer.start_id is None:
                continue
            for start in range(0, len(peer.acks), ACKS_PER_DATAGRAM):
                revisions = tuple(peer.acks[start : start + ACKS_PER_DATAGRAM])
                self._outputs.append(Send(peer.reply_address, encode(Acks(peer.start_id, revisions))))
            peer.acks.clear()
        self._acking.clear()
        outputs, self._outputs = self._outputs, []
        return outputs

    # Inside

    def _pass_time(self, now_ns: int) -> None:
        if now_ns < self._now_ns:
            raise InvariantError(f"time went back from {self._now_ns} to {now_ns}")
        self._now_ns = now_ns

    def _next_revision(self) -> int:
        self._revision += 1
        return self._revision

    def _meet(self, node: str) -> _Peer:
        # Epochs come from the revision counter: they grow even where a peer was forgotten in between.
        peer = self._peers[node] = _Peer(node, self._next_revision(), self._now_ns)
        return peer

    def _recognize(self, peer: _Peer, source: Source) -> None:
        """Note who is speaking; another start id than before is a restart."""
        peer.heard_ns = self._now_ns
        peer.source_address = source.address
        if peer.start_id == source.start_id:
            return
        former, peer.start_id = peer.start_id, source.start_id
        # Acknowledgements still queued name revisions of the former life.
        peer.acks.clear()
        if former is not None:
            peer.retired.append(former)
            if source.start_id in peer.retired:
                peer.retired.remove(source.start_id)
            peer.inbox.begin_life()
            peer.outbox.resend_all()
            self._flush_changes(peer)

    def _take_rows(self, peer: _Peer, message: Rows) -> None:
        if not peer.inbox.enter_epoch(message.epoch):
            return
        for row in message.rows:
            if isinstance(row, EndpointRow):
                endpoint, is_known = peer.inbox.take_endpoint(row)
                if endpoint is not None and peer.start_id is not None:
                    self._outputs.append(EndpointAnnounced(endpoint, peer.start_id, row.revision))
                if is_known:
                    self._acknowledge(peer, row.revision)
            elif isinstance(row, WithdrawnRow):
                self._take_withdrawal(peer, row)
            else:
                self._take_location(peer, row)

    def _take_withdrawal(self, peer: _Peer, row: WithdrawnRow) -> None:
        was_in_force, is_current = peer.inbox.take_withdrawal(row, self._now_ns)
        if was_in_force:
            self._outputs.append(EndpointWithdrawn(peer.node, IPv4Address(row.pod_ip)))
        if is_current:
            self._acknowledge(peer, row.revision)

    def _take_location(self, peer: _Peer, row: LocationRow) -> None:
        location = peer.inbox.take_location(row)
        if location is not None:
            self._outputs.append(LocationHeard(location))
        # Old news is acknowledged too: it needs no resending.
        self._acknowledge(peer, row.revision)

    def _acknowledge(self, peer: _Peer, revision: int) -> None:
        peer.acks.append(revision)
        self._acking[peer.node] = None

    def _take_acks(self, peer: _Peer, message: Acks) -> None:
        if message.start_id != self._start_id:
            # Meant for our former life, whose revisions were other rows.
            return
        for revision in message.revisions:
            pod_ip = peer.outbox.acknowledge(revision)
            if pod_ip is not None:
                self._outputs.append(Acknowledged(pod_ip, peer.node))
        # Room for the rows that the last round held back.
        self._flush(peer)

    def _take_status(self, peer: _Peer, status: Status) -> None:
        if peer.inbox.enter_epoch(status.epoch):
            peer.inbox.settle(status, self._now_ns)
        is_answered = self._compare(peer, status)
        if status.wants_reply and not is_answered:
            self._send_status(peer, wants_reply=False)

    def _compare(self, peer: _Peer, status: Status) -> bool:
        """Check what the peer holds of us; True where a status was sent in answer.

        One digest that differs may have crossed our last rows on the way. So the peer is asked again, and only a
        second one starts a new epoch.
        """
        outbox = peer.outbox
        if peer.address is None:
            # Nothing can be repaired now; its return as a peer starts a new epoch anyway.
            return False
        is_of_this_table = (status.held_start_id, status.held_epoch) == (self._start_id, outbox.epoch)
        agrees = is_of_this_table and (status.held_count, status.held_digest) == (outbox.count, outbox.digest)
        has_nothing = outbox.count == 0 and status.held_count == 0
        is_unsettled = outbox.pending_count > 0 and self._now_ns - peer.changed_ns < UNSETTLED_NS
        if agrees or has_nothing or is_unsettled:
            outbox.mismatches = 0
            return False
        outbox.mismatches += 1
        if outbox.mismatches == 1:
            self._send_status(peer, wants_reply=True)
            return True
        outbox.begin_epoch(self._next_revision)
        self._flush_changes(peer)
        return False

    def _send_status(self, peer: _Peer, *, wants_reply: bool) -> None:
        address = peer.reply_address
        if address is None:
            return
        peer.status_at_ns = self._now_ns + STATUS_INTERVAL_NS
        status = Status(
            epoch=peer.outbox.epoch,
            complete=self._is_complete,
            count=peer.outbox.count,
            digest=peer.outbox.digest,
            held_start_id=peer.start_id or 0,
            held_epoch=peer.inbox.epoch,
            held_count=peer.inbox.count,
            held_digest=peer.inbox.digest,
            wants_reply=wants_reply,
        )
        self._outputs.append(Send(address, encode(status)))

    def _flush_changes(self, peer: _Peer) -> None:
        peer.changed_ns = self._now_ns
        self._flush(peer)

    def _flush(self, peer: _Peer) -> None:
        if peer.address is None:
            return
        is_silent = self._now_ns - peer.heard_ns > SILENT_NS
        datagrams = peer.outbox.take_due(self._now_ns, datagrams_max=1 if is_silent else ROUND_DATAGRAMS_MAX)
        self._outputs.extend(Send(peer.address, datagram) for datagram in datagrams)

    def _advance_peer(self, peer: _Peer) -> None:
        now_ns = self._now_ns
        if peer.inbox.purge_at_ns is not None and peer.inbox.purge_at_ns <= now_ns:
            self._outputs.extend(EndpointWithdrawn(peer.node, pod_ip) for pod_ip in peer.inbox.purge())
        if peer.address is None and peer.heard_ns + GONE_NS <= now_ns:
            self._outputs.extend(EndpointWithdrawn(peer.node, pod_ip) for pod_ip in peer.inbox.clear())
            if peer.outbox.is_empty:
                del self._peers[peer.node]
                return
        if peer.outbox.next_due_ns is not None and peer.outbox.next_due_ns <= now_ns:
            self._flush(peer)
        if peer.has_stake and peer.status_at_ns <= now_ns:
            self._send_status(peer, wants_reply=True)
        self._schedule(peer)

    def _schedule(self, peer: _Peer) -> None:
        deadline_ns = peer.deadline_ns()
        if deadline_ns != peer.scheduled_ns:
            peer.scheduled_ns = deadline_ns
            if deadline_ns is not None:
                heapq.heappush(self._agenda, (deadline_ns, peer.node))
