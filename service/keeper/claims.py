"""The holder of a keeper as its agent's duty and the fence drive it: what is adopted, claimed, kept and given up."""

import logging
import random
from collections.abc import Callable, Collection, Mapping

from service.host import identity
from service.keeper.duty import AgentDuty
from service.keeper.fence import Fence
from service.keeper.handover import TellingHolder
from service.lease.codec import is_floating_ip
from service.lease.holder import CloseFence, DesiredClaim, HeldKey, Holder
from service.model.errors import InvariantError
from service.model.keeper_message import Heartbeat
from service.model.lease import Electorate
from service.model.machine import Address
from service.settings import Settings
from service.wire.pump import MachinePump

_log = logging.getLogger(__name__)

REFUSAL_NS = 10_000_000_000
"""How long a key whose fence could not be opened is not claimed here: another node has time to take it."""
_KEY_LETTERS_MAX = 40
_NAMED_MAX = 5
"""Keys that a line of trouble names; of the others it says how many they are."""


class HolderClaims:
    """Owns the holder and its pump. `handle` executes what the holder wants of the fence.

    A key can fail without the others: one that is no floating IP is not claimed, one whose fence cannot be opened is
    given up (`refuse`), for a while, and told.
    """

    def __init__(
        self,
        holder: Holder,
        *,
        duty: AgentDuty,
        fence: Fence,
        send: Callable[[Address, bytes], None],
        handle: Callable[[object], None],
        clock: Callable[[], int],
        tell: Callable[[Collection[CloseFence]], None] = lambda ending: None,
    ) -> None:
        """`tell` gets what is given up on purpose, before its fence is closed (rule R4)."""
        self._holder = holder
        self._duty = duty
        self._fence = fence
        self._clock = clock
        self._send = send
        self._handle = handle
        self._refused: dict[str, int] = {}
        """When each key was refused that is not claimed for now."""
        self._refusal = ""
        """Why the last of them was."""
        self._malformed: tuple[str, ...] = ()
        """What the agent claims and is no floating IP."""
        self._is_mute = False
        self.pump = MachinePump(TellingHolder(holder, tell), clock=clock, send=self._say, handle=self._execute)

    def adopt(self) -> None:
        """S8: what an earlier keeper of this boot opened and is not over goes on; everything else is closed first."""
        self._fence.refresh()
        now_ns = self._clock()
        for address, entry in self._fence.entries().items():
            if entry.deadline_ns > now_ns:
                self._holder.adopt(str(address), entry.token, entry.deadline_ns, now_ns=now_ns)
                _log.info("adopting %s with token %s", address, ".".join(map(str, entry.token)))
            else:
                self._fence.write(address, entry.token, 0)

    def hear(self, heartbeat: Heartbeat) -> None:
        """The agent's newest word; it is gone by at once."""
        self._malformed = tuple(
            claim.floating_ip for claim in heartbeat.claims if not is_floating_ip(claim.floating_ip)
        )
        self._duty.hear(heartbeat, now_ns=self._clock())
        self.apply()

    def refuse(self, key: str, reason: str) -> None:
        """Give up a key that the kernel does not take, and do not claim it for a while."""
        if key not in self._refused:
            _log.error("giving up %s: %s; not claimed again for %d s", key, reason, REFUSAL_NS // 1_000_000_000)
        now_ns = self._clock()
        self._refused[key], self._refusal = now_ns, reason
        self._holder.give_up(key, now_ns=now_ns)

    def troubles(self) -> list[str]:
        """What keeps this node from holding what it should, in a line each."""
        crowded_out = self._holder.crowded_out()
        said = {
            f"not claimed, since {self._refusal}": tuple(sorted(self._refused)),
            "not claimed, for they are no floating IPs": self._malformed,
            "not claimed, for one node can hold no more": crowded_out,
        }
        return [
            *([self._fence.trouble] if self._fence.trouble else []),
            *(f"{len(keys)} addresses are {what}: {_named(keys)}" for what, keys in said.items() if keys),
        ]

    def _say(self, to: Address, payload: bytes) -> None:
        if not self._is_mute:
            self._send(to, payload)

    def _execute(self, output: object) -> None:
        try:
            self._handle(output)
        except InvariantError:
            # P1: it may be a fence that is not closed. Nothing more is said, so nothing is released; it ends by itself.
            self._is_mute = True
            raise

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
            self._holder.set_claims(self._possible(claims, now_ns), now_ns=now_ns)
        self.pump.wake()

    def _possible(self, claims: Mapping[str, DesiredClaim], now_ns: int) -> dict[str, DesiredClaim]:
        self._refused = {key: at_ns for key, at_ns in self._refused.items() if now_ns - at_ns < REFUSAL_NS}
        without = {*self._refused, *self._malformed}
        return {key: claim for key, claim in claims.items() if key not in without}

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


def _named(keys: tuple[str, ...]) -> str:
    more = f" and {len(keys) - _NAMED_MAX} more" if len(keys) > _NAMED_MAX else ""
    return ", ".join(key[:_KEY_LETTERS_MAX] for key in keys[:_NAMED_MAX]) + more


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
