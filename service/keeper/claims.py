"""The holder of a keeper as its agent's duty and the fence drive it: what is adopted, claimed, kept and given up."""

import logging
import random
from collections.abc import Callable, Mapping

from service.host import identity
from service.keeper.duty import AgentDuty
from service.keeper.fence import Fence
from service.lease.holder import HeldKey, Holder
from service.model.keeper_message import Heartbeat
from service.model.lease import Electorate
from service.model.machine import Address
from service.settings import Settings
from service.wire.pump import MachinePump

_log = logging.getLogger(__name__)


class HolderClaims:
    """Owns the holder and its pump. `handle` executes what the holder wants of the fence."""

    def __init__(
        self,
        holder: Holder,
        *,
        duty: AgentDuty,
        fence: Fence,
        send: Callable[[Address, bytes], None],
        handle: Callable[[object], None],
        clock: Callable[[], int],
    ) -> None:
        self._holder = holder
        self._duty = duty
        self._fence = fence
        self._clock = clock
        self.pump = MachinePump(holder, clock=clock, send=send, handle=handle)

    def adopt(self) -> None:
        """S8: what an earlier keeper of this boot opened and is not over goes on; everything else is closed first."""
        self._fence.refresh()
        now_ns = self._clock()
        for address, entry in self._fence.entries().items():
            if entry.deadline_ns > now_ns:
                self._holder.adopt(str(address), entry.token, entry.deadline_ns, now_ns=now_ns)
                _log.info("adopting %s with token %s", address, ".".join(map(str, entry.token)))
            elif entry.deadline_ns:
                self._fence.write(address, entry.token, 0)

    def hear(self, heartbeat: Heartbeat) -> None:
        """The agent's newest word; it is gone by at once."""
        self._duty.hear(heartbeat, now_ns=self._clock())
        self.apply()

    def apply(self) -> None:
        """Claim what the agent's duty allows now (S3), give up what it does not any more (S5, S6).

        To be called also while nothing is heard, since silence counts.
        """
        now_ns = self._clock()
        has_fence = self._fence.refresh()
        held = {key: lease.token.stamp for key, lease in self._holder.held().items()}
        claims = self._duty.claims(held, now_ns=now_ns)
        self._holder.set_claiming(has_fence and self._duty.may_claim(now_ns=now_ns), now_ns=now_ns)
        if claims is not None:
            self._holder.set_claims(claims, now_ns=now_ns)
        self.pump.wake()

    def enter_epoch(self, electorate: Electorate, *, now_ns: int) -> None:
        """Renew what is held with the newer electors from now on."""
        self._holder.set_electorate(electorate, now_ns=now_ns)

    def held(self) -> Mapping[str, HeldKey]:
        """The leases whose deadline has not passed as of the last call into the holder."""
        return self._holder.held()

    # -- at the end, when `pump.run` is over --

    def give_up_all(self) -> None:
        """Close every fence, then release."""
        self._holder.set_claims({}, now_ns=self._clock())
        self.pump.wake()

    def prolong(self, lease_ns: int) -> None:
        """Ask for one long lease of what is held, and for nothing new."""
        self._holder.prolong(lease_ns, now_ns=self._clock())
        self.pump.wake()

    def resend(self) -> None:
        """Send again what is due: the pump runs no more, so its timers are the caller's."""
        self._holder.advance(now_ns=self._clock())
        self.pump.wake()

    @property
    def is_released(self) -> bool:
        """Nothing is held or claimed, and every elector knows."""
        return self._holder.is_released

    @property
    def is_prolonged(self) -> bool:
        """A majority has promised the long lease for all that is held."""
        return self._holder.is_prolonged


def new_holder(settings: Settings, electorate: Electorate, *, start_id: int, now_ns: int) -> Holder:
    """Return the holder of this node and boot: one per process, by its start id (P5)."""
    return Holder(
        node=settings.node,
        boot_id=identity.boot_id(),
        start_id=start_id,
        electorate=electorate,
        profile=settings.lease_profile,
        lease_port=settings.ports.lease,
        random=random.Random(start_id),
        now_ns=now_ns,
    )
