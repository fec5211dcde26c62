"""A slow Kafka broker within a lab: a real one on this machine's loopback, and in front of it a relay that dawdles.

The relay listens on the loopback of each member's namespace at the broker's own port, so the address that the broker
advertises leads to the relay from there. The members have no other way to the broker.
"""

import asyncio
import contextlib
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from loadtest.broker import Broker
from service.audit.kafka_connection import create_topic
from service.lab.lab import Lab
from service.lab.namespace import inside
from service.settings import KafkaSettings

DELAY_S = 1.0
"""Each way: an answer takes twice that."""
CHUNK_BYTES = 4096
"""A connection passes no more than this per delay and direction."""
_LOOPBACK = "127.0.0.1"


@contextlib.contextmanager
def running_broker() -> Iterator[Broker]:
    """A broker with the audit topic. Raises OperatorError or TransientError where it does not start."""
    with tempfile.TemporaryDirectory(prefix="egressgw-loadtest-") as name, Broker(Path(name) / "broker") as broker:
        kafka = KafkaSettings(bootstrap_servers=(broker.address,), replication_factor=1)
        asyncio.run(create_topic(kafka, client_id="egressgw-loadtest"))
        yield broker


def slow_down(lab: Lab, broker: Broker) -> "Relay":
    """The relay by which every member of the lab reaches the broker, once it is entered."""
    namespaces = [*(node.netns for node in lab.plan.nodes), *(one.netns for one in lab.plan.controllers)]
    listeners = [inside(netns, lambda: listen(broker.port)) for netns in namespaces]
    return Relay(broker.port, listeners, delay_s=DELAY_S, chunk_bytes=CHUNK_BYTES)


def listen(port: int) -> socket.socket:
    """Listen on the loopback of the namespace that the caller is in."""
    return socket.create_server((_LOOPBACK, port))


class Relay:
    """Passes connections on to a port of this namespace's loopback, late and little at a time.

    A context manager with a thread of its own. It takes over the listeners, of whatever namespaces they are.
    """

    def __init__(self, port: int, listeners: Sequence[socket.socket], *, delay_s: float, chunk_bytes: int) -> None:
        self._port = port
        self._listeners = listeners
        self._delay_s = delay_s
        self._chunk_bytes = chunk_bytes
        self._loop: asyncio.AbstractEventLoop
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="slow relay")

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:  # cancels the connections at its end
            runner.run(self._serve())

    async def _serve(self) -> None:
        servers = [await asyncio.start_server(self._connect, sock=listener) for listener in self._listeners]
        await self._stopping.wait()
        for server in servers:
            server.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(_LOOPBACK, self._port)
            with contextlib.closing(far_writer):
                await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(self._chunk_bytes):
                await asyncio.sleep(self._delay_s)
                writer.write(chunk)
                await writer.drain()
        finally:
            # A connection that broke off on one side ends on the other, and so does the other direction.
            writer.close()
