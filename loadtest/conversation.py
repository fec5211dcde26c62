"""Both ends of many open connections of every kind, that are asked after an event whether they live.

Commands and answers are JSON lines, as in `traffic`; everything goes on between two of them.

    push          the server speaks, again and again; the client only listens
    client-push   the client speaks, and does not wait
    idle          nobody speaks until the client is asked whether it lives
    idle-server   nobody speaks until the server is
    request       a request, its answer, the next request
    udp           the same in datagrams
    half-closed   push, on which the client has said that it has nothing more to say
    download      the server sends as much as goes through

The server answers each line with the source that it sees and the line. A connection lives if, after it was asked, a
line of the server came on it: for those that the client begins, one that answers a line sent after that. Nothing is
opened again. Only the standard library is imported, so it starts quickly.
"""

import asyncio
import contextlib
import json
import os
import socket
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, cast

KINDS = ("push", "client-push", "idle", "idle-server", "request", "udp")
FURTHER_KINDS = ("half-closed", "download")
_HEARD = frozenset(("push", "idle-server", *FURTHER_KINDS))
"""Of these the client only listens."""
_BLOCK = b"x" * 65_535 + b"\n"
PACE_S = 0.1
OPEN_S = 10.0
_OPENED_AT_ONCE = 64
_LOOK_S = 0.05

Answer = dict[str, Any]


class Server:
    """Answers, pushes to those who asked for it, and speaks on idle connections when it is told to."""

    def __init__(self) -> None:
        self._silent: set[asyncio.StreamWriter] = set()
        self._open = 0
        self.sources: Counter[str] = Counter()

    async def serve(self, *, address: str, port: int) -> Answer:
        """Listen, for as long as the process lives."""
        await asyncio.start_server(self._converse, address, port, backlog=4096)
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: _Echo(self.sources), (address, port))
        return {"ready": True}

    async def speak(self) -> Answer:
        """A line on each idle connection of the server's kind; on how many, and which sources there were so far."""
        for writer in self._silent:
            writer.write(_line(writer, b"spoken"))
        return {"spoken": len(self._silent), "sources": dict(self.sources)}

    async def count(self) -> Answer:
        """How many TCP connections are open here."""
        return {"open": self._open}

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sources[writer.get_extra_info("peername")[0]] += 1
        self._open += 1
        speaking = None
        with contextlib.suppress(OSError):
            kind = (await reader.readline()).decode().strip()
            writer.write(_line(writer, b"hello"))
            if kind in ("push", "half-closed"):
                speaking = asyncio.create_task(_push(writer))
            elif kind == "download":
                speaking = asyncio.create_task(_send_all(writer))
            elif kind == "idle-server":
                self._silent.add(writer)
            while line := await reader.readline():
                writer.write(_line(writer, line.strip()))
            if kind == "half-closed" and speaking is not None:
                # The client's FIN has come; what ends this is its reset.
                await speaking
        if speaking is not None:
            speaking.cancel()
        self._silent.discard(writer)
        self._open -= 1
        writer.transport.abort()


class _Echo(asyncio.DatagramProtocol):
    def __init__(self, sources: Counter[str]) -> None:
        self._sources = sources
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._sources[addr[0]] += 1
        self._transport.sendto(f"{addr[0]} ".encode() + data, addr)


def _line(writer: asyncio.StreamWriter, word: bytes) -> bytes:
    return writer.get_extra_info("peername")[0].encode() + b" " + word + b"\n"


async def _push(writer: asyncio.StreamWriter) -> None:
    """Until the other end resets."""
    with contextlib.suppress(OSError):
        while not writer.transport.is_closing():
            writer.write(_line(writer, b"pushed"))
            await writer.drain()
            await asyncio.sleep(PACE_S)


async def _send_all(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while not writer.transport.is_closing():
            writer.write(_BLOCK)
            await writer.drain()


async def _repeat(action: Callable[[], None]) -> None:
    while True:
        action()
        await asyncio.sleep(PACE_S)


class Conversation:
    """One connection of the client."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.word = 0
        """The last one sent; a line of the server says which one it answers."""
        self.heard = 0
        """The newest of them that was answered."""
        self.lines = 0
        self.source = ""
        self.is_closed = False
        self._write: Callable[[bytes], None] = lambda data: None
        self._writer: asyncio.StreamWriter | None = None
        self._answered = asyncio.Event()

    async def open(self, address: str, port: int) -> None:
        """Raises OSError or TimeoutError where it does not open."""
        if self.kind == "udp":
            await self._open_udp(address, port)
        else:
            opening = asyncio.open_connection(address, port, limit=1 << 20)
            reader, writer = await asyncio.wait_for(opening, OPEN_S)
            self._writer, self._write = writer, writer.write
            writer.write(self.kind.encode() + b"\n")
            self.take(await asyncio.wait_for(reader.readline(), OPEN_S))
            if self.kind == "half-closed":
                writer.write_eof()
            _keep(self._listen(reader))
        if self.kind in ("client-push", "udp"):
            _keep(_repeat(self.say))
        elif self.kind == "request":
            _keep(self._request())

    async def _open_udp(self, address: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Listener(self.take), remote_addr=(address, port))
        self._write = transport.sendto
        for _ in range(10):
            self.say()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._answered.wait(), OPEN_S / 10)
                return
        raise TimeoutError

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                self.take(line)
        self.is_closed = True

    async def _request(self) -> None:
        while True:
            self._answered.clear()
            self.say()
            await self._answered.wait()
            await asyncio.sleep(PACE_S)

    def say(self) -> None:
        """The next word; none after the end."""
        if self.is_closed:
            return
        self.word += 1
        with contextlib.suppress(OSError, RuntimeError):
            self._write(b"%d\n" % self.word)

    def take(self, line: bytes) -> None:
        """A line of the server."""
        words = line.split()
        if len(words) != 2:
            self.lines += line == _BLOCK
            return
        self.lines += 1
        self.source = words[0].decode("ascii", "replace")
        if words[1].isdigit():
            self.heard = max(self.heard, int(words[1]))
            self._answered.set()

    async def lives(self, within_s: float) -> bool:
        """Whether a line comes from now on; of those that answer a word, one that answers a word from now on."""
        lines, word = self.lines, self.word
        if self.kind == "idle":
            self.say()
        deadline_s = asyncio.get_running_loop().time() + within_s
        while not self.is_closed and asyncio.get_running_loop().time() < deadline_s:
            if self.lines > lines if self.kind in _HEARD else self.heard > word:
                return True
            await asyncio.sleep(_LOOK_S)
        return False

    def close(self, *, reset: bool) -> None:
        """By FIN, or by RST (SO_LINGER of 0, socket(7)). Nothing of UDP."""
        if self._writer is None or self.is_closed:
            return
        self.is_closed = True
        if reset or self.kind == "half-closed":
            own = self._writer.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
        else:
            self._writer.close()


class _Listener(asyncio.DatagramProtocol):
    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._take(data)

    def error_received(self, exc: Exception) -> None:
        """Unreachable for now: the next one may get through."""


class Client:
    """All conversations of one pod."""

    def __init__(self) -> None:
        self._conversations: list[Conversation] = []

    async def open(self, *, address: str, port: int, counts: dict[str, int]) -> Answer:
        """So many of each kind. How many there are then, and which sources the server saw."""
        gate = asyncio.Semaphore(_OPENED_AT_ONCE)
        wanted = [Conversation(kind) for kind, count in counts.items() for _ in range(count)]

        async def open_one(conversation: Conversation) -> None:
            async with gate:
                with contextlib.suppress(OSError, TimeoutError):
                    await conversation.open(address, port)
                    self._conversations.append(conversation)

        await asyncio.gather(*map(open_one, wanted))
        return {"opened": len(self._conversations), "sources": self._sources()}

    async def check(self, *, within_s: float) -> Answer:
        """How many of each kind live, and which sources the server saw. It has to `speak` once this is `ready`."""
        asking = [asyncio.create_task(conversation.lives(within_s)) for conversation in self._conversations]
        await asyncio.sleep(0)
        _say({"ready": True})
        living = await asyncio.gather(*asking)
        alive = Counter(one.kind for one, lives in zip(self._conversations, living, strict=True) if lives)
        asked = Counter(one.kind for one in self._conversations)
        return {"alive": dict(alive), "asked": dict(asked), "sources": self._sources()}

    async def close(self) -> Answer:
        """Every other one by FIN, the rest by RST; the server is to hear of each."""
        for number, conversation in enumerate(self._conversations):
            conversation.close(reset=number % 2 == 0)
        return {"closed": len(self._conversations)}

    def _sources(self) -> dict[str, int]:
        return dict(Counter(conversation.source for conversation in self._conversations))


_tasks: set[asyncio.Task[None]] = set()


def _keep(work: Any) -> None:
    """A task that runs until the process ends: the loop alone would forget it."""
    _tasks.add(asyncio.create_task(work))


async def run() -> None:
    """Until standard input ends."""
    server, client = Server(), Client()
    verbs: dict[str, Callable[..., Awaitable[Answer]]] = {
        "serve": server.serve,
        "speak": server.speak,
        "count": server.count,
        "open": client.open,
        "check": client.check,
        "close": client.close,
    }
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        try:
            answer = await verbs[command.pop("verb")](**command)
        except OSError as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        _say(answer)


def _say(answer: Answer) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    asyncio.run(run())
