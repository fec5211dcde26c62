"""Claims of the sealed socket over real UDP on loopback, on uvloop and on the stock loop."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import pairwise

import pytest
import uvloop

from service.model.errors import OperatorError, PeerError, TransientError
from service.model.machine import Address, Source
from service.wire import sealed_socket as sealed_socket_module
from service.wire.envelope import Envelope
from service.wire.sealed_socket import SealedSocket

MS = 1_000_000
ANYWHERE = Address("127.0.0.1", 0)
Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    def runner(scenario: Callable[[], Awaitable[None]]) -> None:
        factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as loop_runner:
            loop_runner.run(asyncio.wait_for(scenario(), 10))

    return runner


class Party:
    """One process: an envelope, a socket and what it heard."""

    def __init__(
        self, node: str, start_id: int, *, bind: Address = ANYWHERE, bound: bool = True, echo: bool = False
    ) -> None:
        self.heard: asyncio.Queue[tuple[Source, bytes]] = asyncio.Queue()
        self.echo = echo
        self.repeated: bytes | None = None
        """Was sent more than once, so that further ones may be on their way."""
        self.now_ns: int | None = None
        """What its clock stands at, once a test has set it; until then it runs."""
        self.envelope = Envelope((bytes(32),), cluster="c", node=node, start_id=start_id, purpose="test")
        self.socket = SealedSocket(
            bind,
            self.envelope,
            bind_receiver=bound,
            on_datagram=self._hear,
            clock=lambda: time.monotonic_ns() if self.now_ns is None else self.now_ns,
        )

    def _hear(self, source: Source, payload: bytes) -> None:
        if payload == b"bad":
            raise PeerError("nonsense")
        self.heard.put_nowait((source, payload))
        if self.echo:
            self.socket.send(source.address, b"echo " + payload)

    @property
    def address(self) -> Address:
        return self.socket.address

    async def hear(self) -> bytes:
        while (payload := (await self.heard.get())[1]) == self.repeated:
            pass
        return payload

    async def send_until_heard(self, payload: bytes, to: "Party", address: Address) -> bytes:
        """Repeat as a machine would, until the other side hears something."""
        to.repeated = None
        while to.heard.empty():
            self.socket.send(address, payload)
            await asyncio.sleep(0.002)
        heard = await to.hear()
        to.repeated = payload
        return heard

    async def until(self, predicate: Callable[[], bool]) -> None:
        while not predicate():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


class Wire:
    """A plain UDP socket in between, that records and replays."""

    def __init__(self) -> None:

        self.raw = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.raw.bind(ANYWHERE)

    @property
    def address(self) -> Address:
        return Address(*self.raw.getsockname())

    async def take(self) -> tuple[bytes, Address]:
        while True:
            try:
                datagram, origin = self.raw.recvfrom(2000)
                return datagram, Address(*origin)
            except BlockingIOError:
                await asyncio.sleep(0.001)

    def give(self, datagram: bytes, to: Address) -> None:
        self.raw.sendto(datagram, to)

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.raw.close()


async def enter(stack: AsyncExitStack, *parties: Party) -> None:
    for party in parties:
        await stack.enter_async_context(party.socket)


def test_a_datagram_arrives_with_its_authenticated_source(run: Run) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            alpha, beta = Party("alpha", 1, bound=False), Party("beta", 2, bound=False)
            await enter(stack, alpha, beta)
            alpha.socket.send(beta.address, b"hi")
            assert await beta.heard.get() == (Source(alpha.address, "alpha", 1), b"hi")
            assert (alpha.socket.counters.sent, beta.socket.counters.received) == (1, 1)

    run(scenario)


def test_garbage_and_peer_errors_are_counted_by_reason(run: Run) -> None:
    async def scenario() -> None:
        with Wire() as wire:
            async with AsyncExitStack() as stack:
                alpha, beta = Party("alpha", 1, bound=False), Party("beta", 2, bound=False)
                await enter(stack, alpha, beta)
                wire.give(b"junk", beta.address)
                alpha.socket.send(beta.address, b"bad")
                alpha.socket.send(beta.address, b"good")
                assert await beta.hear() == b"good"
                assert beta.socket.refusals.by_reason == {"malformed": 1, "nonsense": 1}

    run(scenario)


def test_a_taken_address_is_an_operator_error_that_names_it(run: Run) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            alpha = Party("alpha", 1)
            await enter(stack, alpha)
            beta = Party("beta", 2, bind=alpha.address)
            with pytest.raises(OperatorError, match=f"127.0.0.1:{alpha.address.port}"):
                await enter(stack, beta)

    run(scenario)


def test_an_address_that_no_interface_has_may_come_and_leaves_nothing_open(run: Run) -> None:
    async def scenario() -> None:
        party = Party("alpha", 1, bind=Address("192.0.2.1", 0))
        for _ in range(2):
            with pytest.raises(TransientError, match=r"bind_address: cannot bind UDP 192\.0\.2\.1"):
                await party.socket.__aenter__()
            party.socket.send(Address("127.0.0.1", 9), b"nothing is open")

    run(scenario)


def test_network_errors_are_counted_not_raised(run: Run) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            alpha = Party("alpha", 1, bound=False)
            await enter(stack, alpha)
            alpha.socket.send(Address("255.255.255.255", 9), b"broadcast is refused")
            alpha.socket.send(Address("127.0.0.1", 9), b"x" * 70_000)
            assert (alpha.socket.counters.unreachable, alpha.socket.counters.too_large) == (1, 1)
        alpha.socket.send(Address("127.0.0.1", 9), b"after close")

    run(scenario)


def test_first_contact_delivers_what_waited_in_order_and_the_answer_needs_no_hello(run: Run) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            alpha, beta = Party("alpha", 1), Party("beta", 2, echo=True)
            await enter(stack, alpha, beta)
            for payload in (b"1", b"2", b"3"):
                alpha.socket.send(beta.address, payload)
            assert [await beta.hear() for _ in range(3)] == [b"1", b"2", b"3"]
            assert [await alpha.hear() for _ in range(3)] == [b"echo 1", b"echo 2", b"echo 3"]
            assert (alpha.socket.counters.hellos, beta.socket.counters.hellos) == (1, 0)
            # Once known, one payload is one datagram.
            sent = alpha.socket.counters.sent
            alpha.socket.send(beta.address, b"4")
            assert await beta.hear() == b"4"
            assert alpha.socket.counters.sent == sent + 1

    run(scenario)


def test_hellos_to_a_silent_peer_back_off_to_a_third_of_a_second(run: Run) -> None:
    async def scenario() -> None:
        with Wire() as wire:
            async with AsyncExitStack() as stack:
                alpha = Party("alpha", 1)
                await enter(stack, alpha)
                hellos_ms, known = [], 0
                for at_ms in range(2000):
                    alpha.now_ns = at_ms * MS
                    alpha.socket.send(wire.address, b"x")
                    if alpha.socket.counters.hellos > known:
                        known = alpha.socket.counters.hellos
                        hellos_ms.append(at_ms)
                gaps_ms = [later - earlier for earlier, later in pairwise(hellos_ms)]
                assert gaps_ms[:5] == [20, 40, 80, 160, 320]
                assert set(gaps_ms[5:]) == {320}

    run(scenario)


def test_only_the_newest_eight_wait(run: Run) -> None:
    async def scenario() -> None:
        with Wire() as wire:
            async with AsyncExitStack() as stack:
                alpha = Party("alpha", 1)
                await enter(stack, alpha)
                for number in range(20):
                    alpha.socket.send(wire.address, bytes([number]))
                assert alpha.socket.counters.waiting_dropped == 12
                assert alpha.socket.counters.hellos == 1
                # The peer appears at last, behind the same address.
                beta = Party("beta", 2)
                await enter(stack, beta)
                hello, origin = await wire.take()
                wire.give(hello, beta.address)
                reply, _ = await wire.take()
                wire.give(reply, origin)
                delivered = []
                for _ in range(8):
                    datagram, _ = await wire.take()
                    wire.give(datagram, beta.address)
                    delivered.append((await beta.hear())[0])
                assert delivered == list(range(12, 20))

    run(scenario)


def test_what_waited_longer_than_a_second_is_dropped(run: Run) -> None:
    async def scenario() -> None:
        with Wire() as wire:
            async with AsyncExitStack() as stack:
                alpha, beta = Party("alpha", 1), Party("beta", 2)
                await enter(stack, alpha, beta)
                for payload, at_ms in ((b"old", 0), (b"new", 1)):
                    alpha.now_ns = at_ms * MS
                    alpha.socket.send(wire.address, payload)
                alpha.now_ns = 1001 * MS
                hello, origin = await wire.take()
                wire.give(hello, beta.address)
                wire.give((await wire.take())[0], origin)
                await alpha.until(lambda: alpha.socket.counters.waiting_dropped == 1)
                wire.give((await wire.take())[0], beta.address)
                assert await beta.hear() == b"new"

    run(scenario)


def test_a_restarted_peer_is_found_again_without_a_hello(run: Run) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            alpha = Party("alpha", 1)
            await enter(stack, alpha)
            async with AsyncExitStack() as life:
                beta = Party("beta", 2)
                await enter(life, beta)
                address = beta.address
                await alpha.send_until_heard(b"first", beta, address)
            reborn = Party("beta", 3, bind=address)
            await enter(stack, reborn)
            assert await alpha.send_until_heard(b"again", reborn, address) == b"again"
            assert reborn.socket.refusals.by_reason["other-receiver"] >= 1
            assert reborn.socket.counters.notices >= 1
            assert alpha.socket.counters.hellos == 1

    run(scenario)


def test_a_restarted_sender_is_answered_at_once(run: Run) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            beta = Party("beta", 2, echo=True)
            await enter(stack, beta)
            async with AsyncExitStack() as life:
                alpha = Party("alpha", 1)
                await enter(life, alpha)
                address = alpha.address
                await alpha.send_until_heard(b"first", alpha, beta.address)
            reborn = Party("alpha", 9, bind=address)
            await enter(stack, reborn)
            await reborn.send_until_heard(b"second", reborn, beta.address)
            assert beta.socket.counters.hellos == 0

    run(scenario)


def test_nothing_recorded_before_a_restart_is_heard_after_it(run: Run) -> None:
    async def scenario() -> None:
        with Wire() as wire:
            async with AsyncExitStack() as stack:
                alpha = Party("alpha", 1)
                await enter(stack, alpha)
                async with AsyncExitStack() as life:
                    beta = Party("beta", 2)
                    await enter(life, beta)
                    address = beta.address
                    alpha.socket.send(wire.address, b"secret")
                    hello, origin = await wire.take()
                    wire.give(hello, address)
                    wire.give((await wire.take())[0], origin)
                    recorded, _ = await wire.take()
                reborn = Party("beta", 3, bind=address)
                await enter(stack, reborn)
                wire.give(recorded, address)
                await alpha.until(lambda: reborn.socket.refusals.by_reason.get("other-receiver") == 1)
                assert reborn.heard.empty()

    run(scenario)


def test_data_for_anybody_is_refused_where_receivers_are_bound(run: Run) -> None:
    async def scenario() -> None:
        with Wire() as wire:
            async with AsyncExitStack() as stack:
                alpha, beta = Party("alpha", 1), Party("beta", 2)
                await enter(stack, beta)
                wire.give(alpha.envelope.seal(b"\x00data"), beta.address)
                await alpha.until(lambda: beta.socket.refusals.by_reason.get("unbound") == 1)
                wire.give(alpha.envelope.seal(b"\x01short"), beta.address)
                await alpha.until(lambda: beta.socket.refusals.by_reason.get("handshake") == 1)
                assert beta.heard.empty()

    run(scenario)


def test_an_answer_to_another_hello_teaches_nothing(run: Run) -> None:
    async def scenario() -> None:
        with Wire() as wire:
            async with AsyncExitStack() as stack:
                alpha, beta = Party("alpha", 1), Party("beta", 2)
                await enter(stack, alpha)
                alpha.socket.send(wire.address, b"x")
                await wire.take()
                # Authentic, bound to alpha, but for a nonce alpha did not draw: a reply held back from an old exchange.
                wire.give(beta.envelope.seal(b"\x02" + bytes(16), receiver=1), alpha.address)
                await alpha.until(lambda: alpha.socket.refusals.by_reason.get("stale-hello") == 1)
                assert alpha.socket.counters.sent == 1

    run(scenario)


def test_a_held_back_notice_cannot_undo_what_was_learned_since(run: Run) -> None:
    async def scenario() -> None:
        with Wire() as wire:
            async with AsyncExitStack() as stack:
                alpha, beta = Party("alpha", 1), Party("beta", 3)
                former = Party("beta", 2)
                await enter(stack, alpha, beta)
                await alpha.send_until_heard(b"x", beta, beta.address)
                notice = former.envelope.seal(b"\x03" + (77).to_bytes(8, "big"), receiver=1)
                wire.give(notice, alpha.address)
                await alpha.until(lambda: alpha.socket.refusals.by_reason.get("stale-hello") == 1)
                alpha.socket.send(beta.address, b"still right")
                assert await beta.hear() == b"still right"

    run(scenario)


def test_another_node_at_the_address_is_asked_before_it_is_believed(run: Run) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            alpha = Party("alpha", 1)
            await enter(stack, alpha)
            async with AsyncExitStack() as life:
                beta = Party("beta", 2)
                await enter(life, beta)
                address = beta.address
                await alpha.send_until_heard(b"first", beta, address)
            gamma = Party("gamma", 3, bind=address)
            await enter(stack, gamma)
            assert await alpha.send_until_heard(b"again", gamma, address) == b"again"
            assert alpha.socket.counters.hellos >= 2

    run(scenario)


def test_the_destinations_remembered_are_bounded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed_socket_module, "_ADDRESSES_MAX", 4)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            alpha, beta = Party("alpha", 1), Party("beta", 2)
            await enter(stack, alpha, beta)
            wires = [stack.enter_context(Wire()) for _ in range(10)]
            for wire in wires:
                alpha.socket.send(wire.address, b"x")
            # All of them answer at last. Of the destinations forgotten by then the reply is one to nobody's question.
            for wire in wires:
                hello, origin = await wire.take()
                wire.give(hello, beta.address)
                wire.give((await wire.take())[0], origin)
            await alpha.until(lambda: alpha.socket.refusals.by_reason.get("stale-hello") == 6)
            for wire in wires[-4:]:
                wire.give((await wire.take())[0], beta.address)
                assert await beta.hear() == b"x"

    run(scenario)
