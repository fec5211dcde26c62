"""A keeper on loopback with real sockets and files, a fence in memory, and the agent's end of its sockets."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import msgspec

from service.host import clock, identity
from service.keeper.fence import FenceEntry
from service.keeper.keeper import Keeper
from service.keeper.promise_file import PromiseFile
from service.lease.holder import boot_id_bytes
from service.lease.promise import encode_promises
from service.model.keeper_message import (
    AGENT_SOCKET,
    KEEPER_SOCKET,
    Claim,
    ElectorateRecord,
    Heartbeat,
    KeeperMessage,
    LeaseReport,
    Uplink,
)
from service.model.lease import Token
from service.settings import ElectorateSettings, ElectorSettings, LeaseSettings, PortSettings, Settings

IP, OTHER = "192.0.2.100", "192.0.2.101"
KEY = "11" * 32
SECOND = 1_000_000_000
THREE = ElectorateRecord(1, tuple((f"node{index}", f"127.0.0.{index + 1}", 0) for index in range(3)))


class FakeFence:
    """A map that remembers the order of writes."""

    def __init__(self, boot_clock: Callable[[], int] = clock.boot_ns) -> None:
        self._boot_clock = boot_clock
        self.is_pinned = True
        self.trouble = ""
        self.full_for = ""
        """An address for which there is no room."""
        self.is_stuck = False
        """Nothing that is open can be closed."""
        self.values: dict[IPv4Address, FenceEntry] = {}
        self.writes: list[tuple[str, int]] = []

    def refresh(self) -> bool:
        return self.is_pinned

    def write(self, address: IPv4Address, token: Token, deadline_ns: int) -> None:
        if deadline_ns and str(address) == self.full_for:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        if not deadline_ns and self.is_stuck:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        self.values[address] = FenceEntry(token, deadline_ns)
        self.writes.append((str(address), deadline_ns))

    def entries(self) -> dict[IPv4Address, FenceEntry]:
        return dict(self.values)

    def is_open(self, address: str) -> bool:
        entry = self.values.get(IPv4Address(address))
        return entry is not None and entry.deadline_ns > self._boot_clock()


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings_of(folder: Path, index: int, port: int, *, electors: int = 3) -> Settings:
    home = folder / f"node{index}"
    (home / "state").mkdir(parents=True, exist_ok=True)
    return Settings(
        node=f"node{index}",
        bind_address=f"127.0.0.{index + 1}",
        keyring=(KEY,),
        state_dir=str(home / "state"),
        run_dir=str(home / "run"),
        ports=PortSettings(lease=port),
        electors=ElectorateSettings(
            members=tuple(ElectorSettings(name=f"node{i}", address=f"127.0.0.{i + 1}") for i in range(electors))
        ),
        lease=LeaseSettings(),
    )


def with_memory(settings: Settings) -> Settings:
    """Leave a promise file without promises, so that the elector votes at once."""
    with PromiseFile(Path(settings.run_dir)) as promises:
        promises.write(encode_promises(boot_id_bytes(identity.boot_id()), 15 * SECOND, {}))
    return settings


def heartbeat(role: str = "holder", *, ready: bool = True, carrier: bool = True, claims: bool = True) -> Heartbeat:
    return Heartbeat(
        ready=ready,
        uplinks=(Uplink(IP, "lo", 1, "020000000001", carrier),),
        claims=(Claim(IP, role, 1, 1),) if claims else (),
    )


def uplinks_of(*addresses: str) -> tuple[Uplink, ...]:
    return tuple(Uplink(address, "lo", 1, "020000000001", True) for address in addresses)


def claims_of(*addresses: str) -> Heartbeat:
    return Heartbeat(True, uplinks_of(*addresses), tuple(Claim(address, "holder", 1, 1) for address in addresses))


class Node:
    """A keeper and the agent's end of its sockets."""

    def __init__(self, settings: Settings, *, boot_clock: Callable[[], int] = clock.boot_ns) -> None:
        """With a clock of the test's, it counts for both clocks of the elector."""
        self.settings = settings
        self.boot_clock = boot_clock
        self.fence: Any = FakeFence(boot_clock)
        self.reports: list[LeaseReport] = []
        self.heartbeat: Heartbeat | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Node"]:
        async with AsyncExitStack() as stack:
            promises = stack.enter_context(PromiseFile(Path(self.settings.run_dir)))
            raw_clock = clock.raw_ns if self.boot_clock is clock.boot_ns else self.boot_clock
            keeper = Keeper(
                self.settings,
                promises,
                fence=self.fence,
                scheduling="normal",
                boot_clock=self.boot_clock,
                raw_clock=raw_clock,
            )
            await keeper.enter(stack)
            agent = asyncio.create_task(self.be_agent())
            serving = asyncio.create_task(keeper.serve())
            try:
                yield self
            finally:
                for task in (agent, serving):
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task

    async def be_agent(self) -> None:
        decoder = msgspec.json.Decoder(KeeperMessage)
        run_dir = Path(self.settings.run_dir)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as agent:
            (run_dir / AGENT_SOCKET).unlink(missing_ok=True)
            agent.bind(str(run_dir / AGENT_SOCKET))
            while True:
                if self.heartbeat is not None:
                    agent.sendto(msgspec.json.encode(self.heartbeat), str(run_dir / KEEPER_SOCKET))
                with suppress(BlockingIOError):
                    while True:
                        self.reports.append(decoder.decode(agent.recv(65536)))
                await asyncio.sleep(0.02)

    def holds(self) -> bool:
        return self.fence.is_open(IP)


async def until(condition: Callable[[], bool], *, timeout: float = 10.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - conditions are of the outside
            await asyncio.sleep(0.005)


def chosen(settings: Settings) -> Settings:
    """The same node with `electors: auto`."""
    return with_memory(msgspec.structs.replace(settings, electors="auto"))


def epoch(node: Node) -> int:
    known = node.reports[-1].electorate if node.reports else None
    return known.epoch if known else -1


def named(record: ElectorateRecord) -> Heartbeat:
    return msgspec.structs.replace(heartbeat(claims=False), electorate=record)


def troubles(node: Node) -> list[str]:
    return list(node.reports[-1].troubles) if node.reports else []
