"""The rows one node wants one peer to hold, and how far the peer is with them. Pure.

A row is sent until its exact revision is acknowledged, at growing intervals. A withdrawal is a row like any other and
disappears when it is acknowledged; so does a location, which the receiver keeps by its fencing token.
"""

import hashlib
import struct
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address

from service.endpoint.message import (
    BATCH_BYTES_MAX,
    EndpointRow,
    LocationRow,
    Row,
    WithdrawnRow,
    encode_row,
    encode_rows,
)
from service.model.assignment import Location
from service.model.endpoint import Endpoint

_MS = 1_000_000
RESEND_FIRST_NS = 50 * _MS
RESEND_LAST_NS = 1_000 * _MS
ROUND_DATAGRAMS_MAX = 32
"""Datagrams sent to a peer at once; acknowledgements draw the next ones."""

NextRevision = Callable[[], int]

_MARK = struct.Struct("!IQ")
_HEADER_BYTES = 24
"""Room for the channel byte, the epoch and the array headers."""


def mark(pod_ip: int, revision: int) -> int:
    """A row's part in a digest. Parts are XOR-ed, so that a digest is kept up row by row in any order."""
    return int.from_bytes(hashlib.blake2b(_MARK.pack(pod_ip, revision), digest_size=8).digest(), "big")


class _OutRow:
    """One version of one row. `acknowledged` is about the content; `is_pending` about this life of the peer."""

    __slots__ = ("acknowledged", "due_ns", "encoded", "interval_ns", "is_pending", "revision", "value")

    def __init__(self, value: Endpoint | Location | None, revision: int, encoded: bytes) -> None:
        self.value = value
        """None for a withdrawal."""
        self.revision = revision
        self.encoded = encoded
        self.acknowledged = False
        self.is_pending = True
        self.due_ns = 0
        self.interval_ns = RESEND_FIRST_NS


class Announcements:
    """All rows for one peer, under one epoch at a time."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.count = 0
        self.digest = 0
        self.next_due_ns: int | None = None
        self.mismatches = 0
        """Consecutive statuses of the peer that did not agree with ours."""
        self._endpoints: dict[int, _OutRow] = {}
        self._locations: dict[int, _OutRow] = {}
        self._pending: dict[int, tuple[dict[int, _OutRow], int]] = {}
        """Revision to (table, key) of every row not acknowledged in this life of the peer."""

    @property
    def is_empty(self) -> bool:
        """Nothing is or was to be told to this peer: it may be forgotten."""
        return not self._endpoints and not self._locations

    @property
    def pending_count(self) -> int:
        """Rows that this life of the peer has not acknowledged."""
        return len(self._pending)

    def is_acknowledged(self, pod_ip: int) -> bool:
        """The present version of the row, and no withdrawal of it."""
        row = self._endpoints.get(pod_ip)
        return row is not None and row.value is not None and row.acknowledged

    def replace_endpoints(
        self, wanted: Mapping[int, Endpoint], next_revision: NextRevision, *, keep_withdrawals: bool
    ) -> bool:
        """Make `wanted` the peer's whole table and say whether anything changed.

        Without `keep_withdrawals` a row no longer wanted is just forgotten: the peer is away, and its return starts
        a new epoch anyway.
        """
        changed = False
        for pod_ip, endpoint in wanted.items():
            row = self._endpoints.get(pod_ip)
            if row is None or row.value != endpoint:
                self._put(self._endpoints, pod_ip, endpoint, next_revision())
                changed = True
        # Upserts come before withdrawals, so that a pod IP that moves between rows is never without one.
        for pod_ip in [ip for ip, row in self._endpoints.items() if row.value is not None and ip not in wanted]:
            if keep_withdrawals:
                self._put(self._endpoints, pod_ip, None, next_revision())
            else:
                self._remove(self._endpoints, pod_ip)
            changed = True
        return changed

    def put_location(self, location: Location, next_revision: NextRevision) -> bool:
        """Say where a floating IP is (rule W2); an older word than the one under way changes nothing."""
        key = int(location.floating_ip)
        row = self._locations.get(key)
        if row is not None and isinstance(row.value, Location) and row.value.token >= location.token:
            return False
        self._put(self._locations, key, location, next_revision())
        return True

    def acknowledge(self, revision: int) -> IPv4Address | None:
        """Take an acknowledgement; return the pod IP where an endpoint is thereby acknowledged for the first time."""
        found = self._pending.pop(revision, None)
        if found is None:
            # An older version, or a copy: only the current revision counts.
            return None
        table, key = found
        row = table[key]
        row.is_pending = False
        if not isinstance(row.value, Endpoint):
            self._remove(table, key)
            return None
        is_news = not row.acknowledged
        row.acknowledged = True
        return IPv4Address(key) if is_news else None

    def resend_all(self) -> None:
        """The peer lost its memory (another start id): send everything again, under the same revisions.

        `acknowledged` stays: the peer's datapath outlives its agent, so steering need not stop for an agent's restart.
        """
        for table in (self._endpoints, self._locations):
            for key, row in table.items():
                row.is_pending, row.due_ns, row.interval_ns = True, 0, RESEND_FIRST_NS
                self._pending[row.revision] = (table, key)
        self.mismatches = 0

    def begin_epoch(self, next_revision: NextRevision) -> None:
        """Start the peer's table anew, for it holds something else than we think.

        Every row gets a new revision: an acknowledgement of the old epoch must not pass for one of the new.
        """
        self.epoch = next_revision()
        self.mismatches = 0
        # What was withdrawn is void with the old epoch.
        self._remove_withdrawn()
        for table in (self._endpoints, self._locations):
            for key in list(table):
                row = table[key]
                self._put(table, key, row.value, next_revision())
                table[key].acknowledged = row.acknowledged

    def detach(self) -> None:
        """The peer is gone: nothing it said counts any more, and only what it shall hold on its return is kept."""
        for key in list(self._locations):
            self._remove(self._locations, key)
        self._remove_withdrawn()
        for row in self._endpoints.values():
            row.acknowledged = False
        self.next_due_ns = None

    def take_due(self, now_ns: int, *, datagrams_max: int) -> list[bytes]:
        """Return the datagrams to send now, and set `next_due_ns`.

        A peer that keeps silent is given `datagrams_max` of 1, so that a dead node costs one datagram a round.
        """
        datagrams: list[bytes] = []
        batch: list[bytes] = []
        size = _HEADER_BYTES
        held_back = False
        next_due_ns: int | None = None
        for row in self._in_order_of_urgency():
            if row.due_ns <= now_ns:
                # Batches are cut before the row that no longer fits.
                if batch and size + len(row.encoded) > BATCH_BYTES_MAX:
                    datagrams.append(encode_rows(self.epoch, batch))
                    batch, size = [], _HEADER_BYTES
                if len(datagrams) >= datagrams_max:
                    held_back = True
                    break
                batch.append(row.encoded)
                size += len(row.encoded)
                row.due_ns = now_ns + row.interval_ns
                row.interval_ns = min(row.interval_ns * 2, RESEND_LAST_NS)
            next_due_ns = row.due_ns if next_due_ns is None else min(next_due_ns, row.due_ns)
        if batch:
            datagrams.append(encode_rows(self.epoch, batch))
        if held_back:
            # What was held back is due already: wait for acknowledgements, or else for the next round.
            next_due_ns = now_ns + (RESEND_LAST_NS if datagrams_max == 1 else RESEND_FIRST_NS)
        self.next_due_ns = next_due_ns
        return datagrams

    def _in_order_of_urgency(self) -> list[_OutRow]:
        """Locations first: a takeover waits for them, while a pod's first packets wait for the endpoints."""
        pending = [(table, table[key]) for table, key in self._pending.values()]
        urgent = [row for table, row in pending if table is self._locations]
        return urgent + [row for table, row in pending if table is self._endpoints]

    def _put(self, table: dict[int, _OutRow], key: int, value: Endpoint | Location | None, revision: int) -> None:
        self._remove(table, key)
        table[key] = _OutRow(value, revision, encode_row(_to_wire(key, value, revision)))
        self._pending[revision] = (table, key)
        if isinstance(value, Endpoint):
            self.count += 1
            self.digest ^= mark(key, revision)

    def _remove(self, table: dict[int, _OutRow], key: int) -> None:
        row = table.pop(key, None)
        if row is None:
            return
        self._pending.pop(row.revision, None)
        if isinstance(row.value, Endpoint):
            self.count -= 1
            self.digest ^= mark(key, row.revision)

    def _remove_withdrawn(self) -> None:
        for pod_ip in [ip for ip, row in self._endpoints.items() if row.value is None]:
            self._remove(self._endpoints, pod_ip)


def _to_wire(key: int, value: Endpoint | Location | None, revision: int) -> Row:
    if value is None:
        return WithdrawnRow(revision, key)
    if isinstance(value, Location):
        return LocationRow(revision, key, value.token.term, value.token.version, value.token.counter)
    return EndpointRow(revision, key, value.pod_uid, value.macs, value.rule_set, value.policies, value.sequence)
