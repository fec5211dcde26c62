"""The third vote of two nodes: real sockets and files on loopback, in virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from service.keeper.promise_file import PromiseFile
from service.keeper.witness import Witness, run
from service.model.errors import OperatorError
from service.model.machine import Address
from service.settings import HttpSettings, PortSettings, Settings
from service.web.verdict import troubles
from service.wire.sealed_socket import SealedSocket
from tests.keeper.node import SECOND, Node, free_port, heartbeat, settings_of, until, with_memory
from tests.keeper.virtual import virtual_node
from tests.virtual_time import in_virtual_time, now_ns

pytestmark = pytest.mark.usefixtures("parts_that_know_only_real_time")


def witness_settings(folder: Path, port: int) -> Settings:
    settings = settings_of(folder, 2, port)
    return msgspec.structs.replace(
        settings, ports=PortSettings(lease=port, http=free_port()), http=HttpSettings(address="127.0.0.3")
    )


@asynccontextmanager
async def witness(settings: Settings) -> AsyncIterator[Witness]:
    async with AsyncExitStack() as stack:
        promises = stack.enter_context(PromiseFile(Path(settings.run_dir)))
        made = Witness(settings, promises, boot_clock=now_ns, raw_clock=now_ns)
        await made.enter(stack)
        serving = asyncio.create_task(made.serve())
        try:
            yield made
        finally:
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving


def two_nodes(folder: Path, port: int) -> list[Node]:
    return [virtual_node(with_memory(settings_of(folder, index, port))) for index in range(2)]


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Addresses from which nothing leaves, as after a power cut: nobody says farewell."""
    addresses: set[str] = set()
    transmit = SealedSocket._transmit

    def only_of_others(self: SealedSocket, to: Address, datagram: bytes) -> None:
        if self._bind.host not in addresses:
            transmit(self, to, datagram)

    monkeypatch.setattr(SealedSocket, "_transmit", only_of_others)
    return addresses


@in_virtual_time
async def test_the_other_node_takes_over_without_an_api_server_when_the_holder_falls_silent(
    tmp_path: Path, silent: set[str]
) -> None:
    port = free_port()
    first, second = two_nodes(tmp_path, port)
    async with witness(with_memory(witness_settings(tmp_path, port))), first.running(), second.running():
        first.heartbeat, second.heartbeat = heartbeat(), heartbeat("successor")
        await until(first.holds)
        assert not second.holds()
        silent.add("127.0.0.1")
        before_ns = now_ns()
        await until(lambda: not first.holds())
        assert not second.holds(), "two speakers"
        await until(second.holds)
        assert now_ns() - before_ns < SECOND


@in_virtual_time
async def test_without_the_witness_the_two_go_on_and_neither_takes_over_from_the_other(
    tmp_path: Path, silent: set[str]
) -> None:
    port = free_port()
    first, second = two_nodes(tmp_path, port)
    async with first.running(), second.running():
        first.heartbeat, second.heartbeat = heartbeat(), heartbeat("successor")
        await until(first.holds)
        await asyncio.sleep(2)
        assert first.holds()
        silent.add("127.0.0.1")
        await until(lambda: not first.holds())
        await asyncio.sleep(2)
        assert not second.holds(), "one vote of three"


@in_virtual_time
async def test_a_witness_says_that_it_votes_and_that_nothing_is_wrong(tmp_path: Path) -> None:
    port = free_port()
    async with witness(with_memory(witness_settings(tmp_path, port))) as voting:
        document = voting.status()
        assert voting.not_ready_reasons() == []
        assert troubles(document) == []
        assert (document["role"], document["electorate"]["votes"]) == ("witness", True)
        assert document["electorate"]["members"] == ["node0", "node1", "node2"]


@in_virtual_time
async def test_p2_a_witness_that_has_no_memory_is_silent_and_says_so(tmp_path: Path) -> None:
    settings = witness_settings(tmp_path, free_port())
    async with witness(settings) as voting:
        assert len(voting.not_ready_reasons()) == 1
        assert troubles(voting.status()) == voting.not_ready_reasons()
        await asyncio.sleep(19.5)
        assert voting.not_ready_reasons() == []


async def test_who_is_not_named_as_an_elector_is_no_witness(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, 2, 9644, electors=2)
    with pytest.raises(
        OperatorError, match=r"electors\.members: node2, which is to be a witness, is not in node0, node1"
    ):
        await run(settings)
    with pytest.raises(OperatorError, match="`auto` chooses agents"):
        await run(msgspec.structs.replace(settings, electors="auto"))
