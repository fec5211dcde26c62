"""Two nodes (leases.md): whether the other of two electors is heard, and when this one asks to go on alone.

Only with `electors: auto`: a configured electorate is changed by its operator and by nobody else. It asks only; the
epoch is gone over to when the object is seen to say so.
"""

import logging
from collections.abc import Callable

from service.keeper.duty import AgentDuty
from service.keeper.vote import ElectorVote
from service.lease.tiebreaker import Swap, Tiebreaker
from service.model.lease import Electorate
from service.model.machine import Address
from service.settings import Settings
from service.wire.pump import MachinePump

_log = logging.getLogger(__name__)


class OtherElector:
    """Owns the tiebreaker and its pump. `ask` is called when `wanted` has something new to say."""

    def __init__(
        self,
        settings: Settings,
        vote: ElectorVote,
        duty: AgentDuty,
        *,
        known: Callable[[], Electorate],
        ask: Callable[[], None],
        send: Callable[[Address, bytes], None],
        clock: Callable[[], int],
    ) -> None:
        """`known`: the newest electorate that was heard of, which the vote may not have entered yet."""
        self._vote = vote
        self._duty = duty
        self._known = known
        self._ask = ask
        self._clock = clock
        self._epoch = 0
        """Of the electorate that the tiebreaker was last told."""
        self._tiebreaker = Tiebreaker(
            node=settings.node, lease_port=settings.ports.lease, profile=settings.lease_profile, now_ns=clock()
        )
        self.pump = MachinePump(self._tiebreaker, clock=clock, send=send, handle=self._go_on_alone)

    def attend(self) -> None:
        """Tell the tiebreaker where this node stands, and whoever asks whether the other is heard.

        To be called at each change of the epoch, and each period while there is another of two; without one nothing is
        done.
        """
        elector = self._vote.machine
        if elector.epoch == self._epoch and not self._has_other:
            return
        self._epoch = elector.epoch
        now_ns = self._clock()
        is_sure = elector.is_elector and elector.is_settled and self._vote.is_voting
        self._tiebreaker.set_standing(
            elector.electorate,
            # Where a newer one is known already, that one is gone over to.
            ready=is_sure and elector.epoch == self._known().epoch,
            fit=self._duty.may_claim(now_ns=now_ns),
            now_ns=now_ns,
        )
        elector.misses_other = self._tiebreaker.is_missing_other
        self.pump.wake()

    @property
    def wanted(self) -> Swap | None:
        """The change of the electorate object that is asked for now."""
        return self._tiebreaker.swap

    @property
    def _has_other(self) -> bool:
        # It has something to wait for only while there is somebody to hear.
        return self._tiebreaker.deadline_ns() is not None

    def _go_on_alone(self, output: object) -> None:
        """The agent has the API server, and tries as long as reports ask for it."""
        if isinstance(output, Swap):
            _log.warning("the other of two electors is lost: asking for epoch %d", output.following.epoch)
            self._ask()
