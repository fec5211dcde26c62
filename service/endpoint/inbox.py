"""The rows one node has announced to us. Pure.

Rows belong to a life (start id) and an epoch of their sender. When either changes, the rows held so far become *former*
ones: they stay in force, for the pods behind them are most likely still there, until the sender has said them again, or
has said everything and not them.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address

from service.endpoint.announcements import mark
from service.endpoint.message import EndpointRow, LocationRow, Status, WithdrawnRow
from service.model.assignment import Location
from service.model.endpoint import Endpoint
from service.model.lease import Token

_SECOND = 1_000_000_000
FORMER_LIFE_NS = 5 * _SECOND
"""How long rows of a former life outlast the full announcement of the new one."""
TOMBSTONE_NS = 30 * _SECOND
"""How long a withdrawal is remembered, against copies of the row that are still under way."""
_LOCATIONS_MAX = 4096


class _InRow:
    __slots__ = ("endpoint", "is_confirmed", "revision")

    def __init__(self, revision: int, endpoint: Endpoint) -> None:
        self.revision = revision
        self.endpoint = endpoint
        self.is_confirmed = False


class Inbox:
    """What we hold of one announcing node."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.epoch = 0
        self.digest = 0
        self.purge_at_ns: int | None = None
        """When the former rows not said again are withdrawn; None while the sender has not said everything."""
        self._rows: dict[int, _InRow] = {}
        self._former: dict[int, None] = {}
        self._former_grace_ns = 0
        self._tombstones: dict[int, tuple[int, int]] = {}
        """Pod IP to (revision, expiry), oldest first."""
        self._locations: dict[int, Token] = {}

    @property
    def count(self) -> int:
        """Rows of the present life of the sender."""
        return len(self._rows)

    @property
    def is_empty(self) -> bool:
        """No rows, also of an earlier life: the sender may be forgotten."""
        return not self._rows and not self._former

    def begin_life(self) -> None:
        """The sender runs as another process: its numbering starts anew, its datapath most likely went on."""
        self._make_former(FORMER_LIFE_NS)
        self.epoch = 0

    def enter_epoch(self, epoch: int) -> bool:
        """Follow the sender into a later epoch of its life. False for what comes late out of an earlier one."""
        if epoch > self.epoch:
            # The same process says its table anew: what it leaves out needs no grace, unless a restart is unsettled.
            self._make_former(self._former_grace_ns if self._former else 0)
            self.epoch = epoch
        return epoch == self.epoch

    def adopt(self, pod_ips: Iterable[IPv4Address]) -> None:
        """Take over rows that our own former life left in the datapath, as rows of an unsettled life of the sender."""
        self._former |= {int(pod_ip): None for pod_ip in pod_ips if int(pod_ip) not in self._rows}
        self._former_grace_ns = FORMER_LIFE_NS
        self.purge_at_ns = None

    def _make_former(self, grace_ns: int) -> None:
        self._former |= dict.fromkeys(self._rows)
        self._former_grace_ns = grace_ns
        self._rows.clear()
        self._tombstones.clear()
        self.digest = 0
        self.purge_at_ns = None

    def settle(self, status: Status, now_ns: int) -> None:
        """Compare with the sender's own account of its table, and set `purge_at_ns` where the former rows are void."""
        agrees = status.complete and (status.count, status.digest) == (self.count, self.digest)
        if agrees and self._former and self.purge_at_ns is None:
            self.purge_at_ns = now_ns + self._former_grace_ns

    def take_endpoint(self, row: EndpointRow) -> tuple[Endpoint | None, bool]:
        """Return (endpoint to install or None, whether to acknowledge at once)."""
        held = self._rows.get(row.pod_ip)
        if held is not None and row.revision <= held.revision:
            is_current = row.revision == held.revision
            if is_current and not held.is_confirmed:
                # Its sender waits and asks again: so does this, whatever became of the first time it was said (C2).
                return held.endpoint, False
            # A copy of what is installed: its acknowledgement was lost. An older version deserves none.
            return None, is_current
        if row.revision < self._tombstones.get(row.pod_ip, (0, 0))[0]:
            return None, False
        self._forget(row.pod_ip)
        self._tombstones.pop(row.pod_ip, None)
        endpoint = Endpoint(
            pod_ip=IPv4Address(row.pod_ip),
            pod_uid=row.pod_uid,
            node=self.node,
            macs=row.macs,
            rule_set=row.rule_set,
            policies=row.policies,
            sequence=row.sequence,
        )
        self._rows[row.pod_ip] = _InRow(row.revision, endpoint)
        self.digest ^= mark(row.pod_ip, row.revision)
        return endpoint, False

    def take_withdrawal(self, row: WithdrawnRow, now_ns: int) -> tuple[bool, bool]:
        """Return (whether a row in force is withdrawn by it, whether to acknowledge)."""
        held = self._rows.get(row.pod_ip)
        if held is not None and row.revision < held.revision:
            return False, False
        was_in_force = self._forget(row.pod_ip)
        while self._tombstones and next(iter(self._tombstones.values()))[1] <= now_ns:
            del self._tombstones[next(iter(self._tombstones))]
        revision = max(row.revision, self._tombstones.pop(row.pod_ip, (0, 0))[0])
        self._tombstones[row.pod_ip] = (revision, now_ns + TOMBSTONE_NS)
        return was_in_force, True

    def take_location(self, row: LocationRow) -> Location | None:
        """Return the location where it is newer than the last word of this node (K1: tokens of one key only grow)."""
        token = Token(row.term, row.version, row.counter)
        known = self._locations.get(row.floating_ip)
        if known is not None and token <= known:
            return None
        self._locations.pop(row.floating_ip, None)
        self._locations[row.floating_ip] = token
        if len(self._locations) > _LOCATIONS_MAX:
            del self._locations[next(iter(self._locations))]
        return Location(IPv4Address(row.floating_ip), self.node, token)

    def confirm(self, pod_ip: int, revision: int) -> bool:
        """Note that the local datapath has the row; False where another version is wanted by now."""
        row = self._rows.get(pod_ip)
        if row is None or row.revision != revision:
            return False
        row.is_confirmed = True
        return True

    def purge(self) -> Iterator[IPv4Address]:
        """Withdraw the former rows that were not said again."""
        former, self._former = self._former, {}
        self.purge_at_ns = None
        return map(IPv4Address, former)

    def clear(self) -> Iterator[IPv4Address]:
        """Withdraw everything: the node is gone for good."""
        self._make_former(0)
        return self.purge()

    def _forget(self, pod_ip: int) -> bool:
        held = self._rows.pop(pod_ip, None)
        if held is not None:
            self.digest ^= mark(pod_ip, held.revision)
        was_former = pod_ip in self._former
        self._former.pop(pod_ip, None)
        return held is not None or was_former
