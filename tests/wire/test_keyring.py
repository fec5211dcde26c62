"""Keys are rotated while datagrams go to and fro, and a keyring that cannot be read changes nothing."""

import ast
import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.model.machine import Address, Source
from service.settings import Settings
from service.wire import keyring
from service.wire.envelope import Envelope, key_id
from service.wire.keyring import KeyringWatch
from service.wire.refusals import troubles
from service.wire.sealed_socket import SealedSocket

OLD, NEW = b"\1" * 32, b"\2" * 32
IDS = {key_id(OLD).hex(): "old", key_id(NEW).hex(): "new"}


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "PERIOD_S", 0.01)


async def until(condition: Callable[[], object]) -> None:
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not come about")


class Member:
    """One process with a keyring file of its own."""

    def __init__(self, folder: Path, name: str, host: str, port: int) -> None:
        self.file = folder / f"keyring-{name}"
        self.write(OLD)
        settings = Settings(node=name, bind_address=host, keyring_file=str(self.file))
        self.heard: list[bytes] = []
        envelope = Envelope(settings.keys, cluster="c", node=name, start_id=int(host[-1]), purpose="gossip")
        self.socket = SealedSocket(Address(host, port), envelope, on_datagram=self._hear)

    def _hear(self, source: Source, payload: bytes) -> None:
        self.heard.append(payload)

    def write(self, *ring: bytes) -> None:
        draft = self.file.with_suffix(".new")
        draft.write_text("".join(f"{key.hex()}\n" for key in ring), encoding="ascii")
        draft.rename(self.file)

    def has(self, *names: str) -> bool:
        return [IDS[one] for one in self.socket.key_ids] == list(names)


@asynccontextmanager
async def pair(folder: Path, port: int) -> AsyncIterator[tuple[Member, Member]]:
    first, second = Member(folder, "a", "127.0.0.1", port), Member(folder, "b", "127.0.0.2", port)
    async with first.socket, second.socket:
        yield first, second


async def test_three_steps_lose_no_datagram_in_whatever_order_members_take_each(
    tmp_path: Path, unused_udp_port: int
) -> None:
    async with pair(tmp_path, unused_udp_port) as (first, second):
        sent = 0

        async def talk() -> None:
            nonlocal sent
            sent += 1
            first.socket.send(second.socket.address, b"%d" % sent)
            second.socket.send(first.socket.address, b"%d" % sent)
            await until(lambda: len(first.heard) == len(second.heard) == sent)

        await talk()
        for step, (ring, names) in enumerate([((OLD, NEW), "old new"), ((NEW, OLD), "new old"), ((NEW,), "new")]):
            for member in (first, second) if step % 2 else (second, first):
                member.write(*ring)
                await until(lambda member=member, names=names: member.has(*names.split()))
                await talk()
        assert first.socket.refusals.by_reason == second.socket.refusals.by_reason == {}


async def test_a_key_that_is_used_before_all_accept_it_is_refused_and_told(
    tmp_path: Path, unused_udp_port: int
) -> None:
    """What the order of the steps is for."""
    async with pair(tmp_path, unused_udp_port) as (first, second):
        first.write(NEW, OLD)
        await until(lambda: first.has("new", "old"))
        first.socket.send(second.socket.address, b"x")
        await until(lambda: second.socket.refusals.by_reason)
        assert second.socket.refusals.by_reason == {"unknown-key": 1}


@pytest.mark.parametrize("damage", ["gone", "empty", "nonsense", "a short key"])
async def test_a_keyring_that_cannot_be_read_leaves_the_keys_in_force_and_is_a_trouble_while_it_lasts(
    tmp_path: Path, unused_udp_port: int, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with pair(tmp_path, unused_udp_port) as (first, second):
        if damage == "gone":
            first.file.unlink()
        else:
            first.file.write_text({"empty": "", "nonsense": "key\n", "a short key": "ab\n"}[damage], encoding="ascii")
        await until(lambda: troubles([first.socket.refusals]))
        (trouble,) = troubles([first.socket.refusals])
        assert trouble.startswith("gossip: keyring")
        assert trouble.endswith("the keys that were read last stay in force")
        first.socket.send(second.socket.address, b"x")
        await until(lambda: second.heard)
        first.write(OLD, NEW)
        await until(lambda: first.has("old", "new"))
        assert troubles([first.socket.refusals]) == []
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1


async def test_a_disk_that_hangs_is_a_trouble_and_takes_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "READ_TIMEOUT_S", 0.01)
    hang, reads = threading.Event(), []

    def read() -> tuple[bytes, ...]:
        reads.append(threading.current_thread().name)
        if len(reads) > 1:
            hang.wait(10)
        return (OLD, NEW) if len(reads) > 1 else (OLD,)

    envelope = Envelope(read, cluster="c", node="a", start_id=1, purpose="gossip")
    looks: list[None] = []
    watch = KeyringWatch(envelope, looked=lambda: looks.append(None))
    task = asyncio.create_task(watch.run())
    try:
        await until(lambda: len(looks) >= 5)
        assert "cannot be read within" in watch.trouble()
        assert len(reads) == 2
        hang.set()
        await until(lambda: len(envelope.key_ids) == 2)
        assert watch.trouble() == ""
    finally:
        hang.set()
        task.cancel()
        await asyncio.wait([task])


def test_every_envelope_of_the_product_reads_its_keys_again() -> None:
    """One that is given keys, and not where they come from, would seal with the old one for ever."""
    service = Path(keyring.__file__).parents[1]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(service.rglob("*.py"))]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    given = [
        ast.unparse(call.args[0]) for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Envelope"
    ]
    assert given == ["settings.keys"] * 6
