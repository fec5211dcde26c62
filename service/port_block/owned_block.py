"""One block that this node has: who has acknowledged it, and so whether new flows may use it (Q3)."""

from service.model.lease import Stamp
from service.port_block.block import Times


class OwnedBlock:
    """Of one floating IP. Times are when what was answered had been sent, so never later than the truth."""

    def __init__(self, stamp: Stamp, *, now_ns: int) -> None:
        self.stamp = stamp
        self.since_ns = now_ns
        """When it was got under this stamp."""
        self.successor = ""
        """Whom the leader named with it."""
        self.acknowledged_by: dict[str, None] = {}
        """The gateways in whose kernel it is this node's. Another stamp begins anew."""
        self.contact_ns: int | None = None
        """When a gateway was asked that answered yes, and held the lease; None: never."""
        self.leaving_ns: int | None = None
        """Since when it takes no new reservations (Q5)."""

    def restamp(self, stamp: Stamp, successor: str, *, now_ns: int) -> None:
        """The leader says again that it is this node's."""
        self.stamp, self.successor, self.since_ns = stamp, successor, now_ns
        self.acknowledged_by = {}

    def acknowledge(self, gateway: str, *, holds: bool, sent_ns: int) -> None:
        """A gateway has it as this node's. What was asked before it was got under this stamp says nothing."""
        if sent_ns < self.since_ns:
            return
        self.acknowledged_by[gateway] = None
        if holds:
            self.contact_ns = max(sent_ns, self.contact_ns or 0)

    def is_acknowledged(self, times: Times, now_ns: int) -> bool:
        """Whether a gateway that does not know it may believe it (Q9): had it been given away, it would be heard of."""
        return self.contact_ns is not None and now_ns - self.contact_ns < times.contact_ns

    def is_usable(self, holder: str, times: Times, now_ns: int) -> bool:
        """Whether new flows may use it, towards this holder (Q3)."""
        if self.leaving_ns is not None or self.contact_ns is None or holder not in self.acknowledged_by:
            return False
        is_settled = now_ns - self.since_ns >= times.settle_ns
        return is_settled or not self.successor or self.successor in self.acknowledged_by
