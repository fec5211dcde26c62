"""Runs a pure machine: feeds it datagrams and time, and executes its outputs in order.

Everything between an input and the sends that answer it happens in one step of the event loop, without an await.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from service.model.errors import PeerError
from service.model.machine import Address, Machine, Send, Source
from service.wire import refusals

_MS = 1_000_000


@dataclass(slots=True)
class PumpCounters:
    """Totals since the pump was made."""

    datagrams: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    """PeerErrors of the machine, by message: a bounded number of them, as one may name what its sender chose."""
    timers: int = 0
    lag_ns_max: int = 0
    """The latest any timer was."""


class MachinePump:
    """Driver of one machine. `run` arms the timer; inputs are taken from the first call on, also before `run`.

    `on_refused` gets the origin of each datagram that the machine cannot read, and why. `on_lag` gets, at each timer,
    how many ns late it came: the event loop's lag. It is called before `advance`, so that the machine can be told
    first. A failure of the machine or of a callback ends `run` with that error.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        clock: Callable[[], int],
        send: Callable[[Address, bytes], None],
        handle: Callable[[object], None],
        on_lag: Callable[[int], None] | None = None,
        on_refused: Callable[[Address, str], None] = lambda origin, error: None,
    ) -> None:
        self.counters = PumpCounters()
        self._machine = machine
        self._clock = clock
        self._send = send
        self._handle = handle
        self._on_lag = on_lag
        self._on_refused = on_refused
        self._is_draining = False
        """A call of `wake` from within `handle` has nothing to do: the drain under way takes what it brings."""
        self._loop: asyncio.AbstractEventLoop | None = None
        """None outside `run`: then no timer is armed, and inputs are answered all the same."""
        self._failed: asyncio.Future[None] | None = None
        """What `run` waits for; the first failure ends it."""
        self._timer: asyncio.Handle | None = None
        self._deadline_ns: int | None = None
        """What the timer is armed for."""
        self._due_ns = 0
        """When that timer was to come: the deadline, or the moment of arming where that was later."""

    def on_datagram(self, source: Source, payload: bytes) -> None:
        """Feed one datagram. A PeerError is counted; then the machine has not changed, but for the time it knows."""
        self.counters.datagrams += 1
        try:
            self._machine.receive(source, payload, now_ns=self._clock())
        except PeerError as error:
            refusals.count(self.counters.refused, str(error))
            self._on_refused(source.address, str(error))
        except Exception as error:
            self._fail(error)
            return
        self.wake()

    def wake(self) -> None:
        """Execute what a direct call into the machine has made it want. Harmless from within `handle`."""
        if self._is_draining:
            return
        self._is_draining = True
        try:
            self._drain()
        except Exception as error:
            self._fail(error)
        finally:
            self._is_draining = False

    async def run(self) -> None:
        """Drive timers until cancelled. Raises what the machine or a callback raised."""
        self._loop = asyncio.get_running_loop()
        self._failed = self._loop.create_future()
        try:
            self.wake()
            await self._failed
        finally:
            self._disarm()
            self._loop = None

    def _drain(self) -> None:
        # A handler may call into the machine, so drain until nothing is left.
        while outputs := self._machine.drain():
            for output in outputs:
                if isinstance(output, Send):
                    self._send(output.to, output.payload)
                else:
                    self._handle(output)
        self._arm()

    def _arm(self) -> None:
        if self._loop is None:
            return
        deadline_ns = self._machine.deadline_ns()
        if deadline_ns == self._deadline_ns:
            return
        self._disarm()
        self._deadline_ns = deadline_ns
        if deadline_ns is not None:
            now_ns = self._clock()
            self._due_ns = max(deadline_ns, now_ns)
            self._timer = self._call_at(self._loop, deadline_ns - now_ns)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._deadline_ns = None

    def _call_at(self, loop: asyncio.AbstractEventLoop, delay_ns: int) -> asyncio.Handle:
        if delay_ns <= 0:
            return loop.call_soon(self._on_timer)
        # uvloop's timers have whole milliseconds and round down: rounding up here avoids spinning until the deadline.
        return loop.call_later(math.ceil(delay_ns / _MS) / 1000, self._on_timer)

    def _on_timer(self) -> None:
        if self._loop is None or self._deadline_ns is None:
            return
        now_ns = self._clock()
        if now_ns < self._deadline_ns:
            self._timer = self._call_at(self._loop, self._deadline_ns - now_ns)
            return
        self._timer, self._deadline_ns = None, None
        lag_ns = now_ns - self._due_ns
        self.counters.timers += 1
        self.counters.lag_ns_max = max(self.counters.lag_ns_max, lag_ns)
        try:
            if self._on_lag is not None:
                self._on_lag(lag_ns)
            # Read again: what `on_lag` told the machine may have been later than `now_ns`, and time never goes back.
            self._machine.advance(now_ns=self._clock())
        except Exception as error:
            self._fail(error)
            return
        self.wake()

    def _fail(self, error: Exception) -> None:
        if self._failed is None:
            raise error
        if not self._failed.done():
            self._failed.set_exception(error)
