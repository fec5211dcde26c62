"""Whether a majority of electors votes, also while there is nothing to renew: the next node is not restarted before."""

from collections.abc import Callable

from service.lease.observer import Observed, Observer
from service.model.lease import Electorate
from service.model.machine import Address
from service.wire.pump import MachinePump

_OBSERVE_NS = 500_000_000
_AGE_NS_MAX = 2_000_000_000
"""A majority that has not answered for so long is out of sight."""


class MajorityWatch:
    """Owns the observer and its pump."""

    def __init__(
        self,
        electorate: Electorate,
        *,
        lease_port: int,
        send: Callable[[Address, bytes], None],
        clock: Callable[[], int],
    ) -> None:
        self._observer = Observer(electorate=electorate, lease_port=lease_port, interval_ns=_OBSERVE_NS, now_ns=clock())
        self._clock = clock
        self._seen_ns: int | None = None
        self.pump = MachinePump(self._observer, clock=clock, send=send, handle=self._note)

    def enter_epoch(self, electorate: Electorate, *, now_ns: int) -> None:
        """Ask the newer electors from now on."""
        self._observer.set_electorate(electorate, now_ns=now_ns)

    @property
    def epoch_in_force(self) -> int:
        """The newest epoch that was seen in force (M3)."""
        return self._observer.epoch_in_force

    def is_seen(self, *, now_ns: int) -> bool:
        """A majority of one epoch has answered within two seconds, and votes."""
        return self._seen_ns is not None and now_ns - self._seen_ns < _AGE_NS_MAX

    def silent(self, *, now_ns: int) -> dict[str, int]:
        """Electors that have not answered within two seconds, or do not vote, with when each last did."""
        return self._observer.silent_since(now_ns - _AGE_NS_MAX)

    def _note(self, output: object) -> None:
        if isinstance(output, Observed):
            self._seen_ns = self._clock()
