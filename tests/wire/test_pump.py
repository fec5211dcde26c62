"""Claims of the pump with a scripted machine: order, one timer, lag, and failures that end the run."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from service.model.errors import InvariantError, PeerError
from service.model.machine import Address, Send, Source
from service.wire.pump import MachinePump

PEER = Address("192.0.2.1", 9640)
SOURCE = Source(PEER, "peer", 1)
MS = 1_000_000


class Script:
    """A machine whose reactions the test sets."""

    def __init__(self) -> None:
        self.outputs: list[Any] = []
        self.deadline: int | None = None
        self.advanced_ns: list[int] = []
        self.on_advance: Callable[[int], None] = lambda now_ns: None

    def receive(self, source: Source, payload: bytes, *, now_ns: int) -> None:
        if payload == b"bad":
            raise PeerError("malformed")
        if payload == b"bug":
            raise InvariantError("bug")
        self.outputs.append(Send(source.address, b"re: " + payload))

    def advance(self, *, now_ns: int) -> None:
        self.advanced_ns.append(now_ns)
        self.deadline = None
        self.on_advance(now_ns)

    def deadline_ns(self) -> int | None:
        return self.deadline

    def drain(self) -> list[Any]:
        outputs, self.outputs = self.outputs, []
        return outputs


class Bench:
    """A pump around a script, and everything it did in order."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.machine = Script()
        self.done: list[object] = []
        self.lags: list[int] = []
        self.on_handle: Callable[[object], None] = lambda output: None
        self.pump = MachinePump(
            self.machine, clock=clock, send=self._send, handle=self._handle, on_lag=self.lags.append
        )

    def _send(self, to: Address, payload: bytes) -> None:
        self.done.append((to, payload))

    def _handle(self, output: object) -> None:
        self.done.append(output)
        self.on_handle(output)

    async def run_until(self, condition: Callable[[], bool]) -> None:
        run = asyncio.ensure_future(self.pump.run())
        try:
            while not condition() and not run.done():  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        finally:
            run.cancel()
        await asyncio.gather(run, return_exceptions=True)


def test_outputs_leave_in_order_right_after_the_input() -> None:
    bench = Bench()
    bench.machine.outputs = ["persist"]
    bench.pump.on_datagram(SOURCE, b"x")
    assert bench.done == ["persist", (PEER, b"re: x")]


def test_peer_errors_are_counted_and_the_pump_goes_on() -> None:
    bench = Bench()
    bench.pump.on_datagram(SOURCE, b"bad")
    bench.pump.on_datagram(SOURCE, b"good")
    assert bench.pump.counters.refused == {"malformed": 1}
    assert bench.pump.counters.datagrams == 2
    assert bench.done == [(PEER, b"re: good")]


async def test_what_a_refused_datagram_has_made_due_is_done_at_once() -> None:
    """A machine may notice time, or somebody's silence, before it finds that it cannot read the rest."""
    bench = Bench()

    def receive(source: Source, payload: bytes, *, now_ns: int) -> None:
        bench.machine.outputs.append(Send(PEER, b"due"))
        bench.machine.deadline = now_ns + 20 * MS
        raise PeerError("malformed")

    bench.machine.receive = receive  # type: ignore[method-assign]
    task = asyncio.create_task(bench.pump.run())
    await asyncio.sleep(0)
    bench.pump.on_datagram(SOURCE, b"bad")
    assert bench.done == [(PEER, b"due")]
    await asyncio.sleep(0.1)
    assert len(bench.machine.advanced_ns) == 1, "the deadline that came of it is kept"
    task.cancel()
    await asyncio.wait([task])


def test_outputs_made_while_handling_follow_those_already_drained() -> None:
    bench = Bench()

    def handle(output: object) -> None:
        if output == "first":
            bench.machine.outputs.append("third")
            bench.pump.wake()

    bench.on_handle = handle
    bench.machine.outputs = ["first", "second"]
    bench.pump.wake()
    assert bench.done == ["first", "second", "third"]


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_the_timer_never_comes_before_the_deadline(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    bench = Bench()
    deadline_ns = bench.machine.deadline = time.monotonic_ns() + 5 * MS + MS // 3
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(bench.run_until(lambda: bool(bench.machine.advanced_ns)))
    (advanced_ns,) = bench.machine.advanced_ns
    assert advanced_ns >= deadline_ns
    assert bench.lags == [bench.pump.counters.lag_ns_max]


async def test_a_late_timer_shows_as_lag() -> None:
    now_ns = [0]
    bench = Bench(clock=lambda: now_ns[0])
    bench.machine.deadline = 5 * MS

    def fall_behind() -> None:
        now_ns[0] = 35 * MS

    # By the second pass of the loop the timer is armed.
    loop = asyncio.get_running_loop()
    loop.call_soon(loop.call_soon, fall_behind)
    await bench.run_until(lambda: bool(bench.lags))
    assert bench.lags == [30 * MS]
    assert bench.machine.advanced_ns == [35 * MS]


async def test_a_deadline_already_past_is_run_at_once_and_is_no_lag_of_the_loop() -> None:
    now_ns = [1_000_000 * MS]
    bench = Bench(clock=lambda: now_ns[0])
    bench.machine.deadline = 1
    await bench.run_until(lambda: bool(bench.lags))
    assert bench.lags == [0]


async def test_an_earlier_deadline_replaces_the_timer() -> None:
    bench = Bench()
    bench.machine.deadline = time.monotonic_ns() + 3_600_000 * MS

    def wake_sooner() -> None:
        bench.machine.deadline = time.monotonic_ns()
        bench.pump.wake()

    asyncio.get_running_loop().call_soon(asyncio.get_running_loop().call_soon, wake_sooner)
    await bench.run_until(lambda: bool(bench.machine.advanced_ns))
    assert bench.pump.counters.timers == 1


async def test_timers_go_on_from_one_advance_to_the_next() -> None:
    bench = Bench()
    bench.machine.deadline = time.monotonic_ns()

    def again(now_ns: int) -> None:
        bench.machine.deadline = now_ns + MS
        bench.machine.outputs.append(len(bench.machine.advanced_ns))

    bench.machine.on_advance = again
    await bench.run_until(lambda: len(bench.done) >= 3)
    assert bench.done[:3] == [1, 2, 3]


@pytest.mark.parametrize("where", ["receive", "advance", "handle", "send"])
async def test_a_failure_ends_the_run(where: str) -> None:
    bench = Bench()

    def fail(_: object) -> None:
        raise InvariantError("bug")

    async def cause() -> None:
        await asyncio.sleep(0)
        if where == "receive":
            bench.pump.on_datagram(SOURCE, b"bug")
        elif where == "advance":
            bench.machine.on_advance = fail
            bench.machine.deadline = time.monotonic_ns()
            bench.pump.wake()
        elif where == "handle":
            bench.on_handle = fail
            bench.machine.outputs.append("x")
            bench.pump.wake()
        else:
            bench.machine.outputs.append(Send(PEER, None))  # type: ignore[arg-type]
            bench.pump._send = lambda to, payload: fail(payload)
            bench.pump.wake()

    run = asyncio.ensure_future(bench.pump.run())
    await cause()
    with pytest.raises(InvariantError, match="bug"):
        await asyncio.wait_for(run, 5)


async def test_a_cancelled_run_leaves_no_timer() -> None:
    bench = Bench()
    bench.machine.deadline = time.monotonic_ns() + 2 * MS
    run = asyncio.ensure_future(bench.pump.run())
    await asyncio.sleep(0)
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    await asyncio.sleep(0.01)
    assert run.cancelled()
    assert bench.machine.advanced_ns == []
