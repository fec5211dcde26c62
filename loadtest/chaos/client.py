"""A pod's traffic while things happen to its node: every kind of flow at once, a JSON line for all that came of it.

`{"t": CLOCK_BOOTTIME ns, "kind": ..., "what": "ok" | "lost" | "opened" | "broken", "detail": ...}`. The detail of an
answer is the source that the other end saw, of a break the error. Requests begin with `POD:KIND:NUMBER`, so that the
log of the outside server tells whose they are.

    udp-stream tcp-stream   requests at a steady pace on one socket
    tcp-push                the other end speaks, every 200 ms; this one only listens
    tcp-idle                a request every five seconds on one connection
    udp tcp ping            one request on a socket of its own, again and again
    served                  requests from outside to this pod's port

It only imports the standard library, so that nine of them start at once.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable

ANSWER_S = 1.0
STALL_S = 4.0
"""A connection that has said nothing for so long is given up, and opened again."""
IDLE_S = 5.0
"""Between two requests on a connection that is otherwise idle."""
SERVED_PORT = 8088
LINE_MAX = 200

Say = Callable[[str, str, str], None]
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def boot_ns() -> int:
    """CLOCK_BOOTTIME, as the captures and the outside server have it."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Client:
    """One pod's flows. Each `keep_...` runs until cancelled and survives whatever the network does."""

    def __init__(self, pod: str, destination: str, tcp_port: int, udp_port: int, push_port: int, say: Say) -> None:
        self._pod = pod
        self._destination = destination
        self._tcp_port, self._udp_port, self._push_port = tcp_port, udp_port, push_port
        self._say = say
        self._number = 0

    def _word(self, kind: str) -> bytes:
        self._number += 1
        return f"{self._pod}:{kind}:{self._number}".encode()

    async def keep_udp_stream(self, pace_s: float = 0.05) -> None:
        """Requests on one socket, answered or not."""
        loop = asyncio.get_running_loop()
        waiting: dict[bytes, asyncio.TimerHandle] = {}
        with _udp() as client:
            client.connect((self._destination, self._udp_port))
            loop.add_reader(client.fileno(), self._take_answers, client, waiting)
            try:
                while True:
                    word = self._word("udp-stream")
                    waiting[word] = loop.call_later(ANSWER_S, self._miss, waiting, word)
                    with contextlib.suppress(OSError):
                        client.send(word)
                    await asyncio.sleep(pace_s)
            finally:
                loop.remove_reader(client.fileno())

    def _take_answers(self, client: socket.socket, waiting: dict[bytes, asyncio.TimerHandle]) -> None:
        try:
            words = client.recv(LINE_MAX).split()
        except OSError:
            return
        timer = waiting.pop(words[2], None) if len(words) == 3 else None
        if timer is not None:
            timer.cancel()
            self._say("udp-stream", "ok", words[0].decode())

    def _miss(self, waiting: dict[bytes, asyncio.TimerHandle], word: bytes) -> None:
        del waiting[word]
        self._say("udp-stream", "lost", "")

    async def keep_tcp(self, kind: str, pace_s: float) -> None:
        """Requests on one connection; a new one where it breaks or stalls."""
        while True:
            async with self._connected(kind, self._tcp_port) as ends:
                if ends is not None:
                    await self._ask_for_ever(kind, pace_s, *ends)
            await asyncio.sleep(0.2)

    async def _ask_for_ever(
        self, kind: str, pace_s: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            writer.write(self._word(kind) + b"\n")
            answer = await asyncio.wait_for(reader.readline(), STALL_S)
            if not answer:
                raise ConnectionError("closed by the other end")
            self._say(kind, "ok", answer.split()[0].decode())
            await asyncio.sleep(pace_s)

    async def keep_push(self) -> None:
        """A connection on which the other end speaks."""
        while True:
            async with self._connected("tcp-push", self._push_port) as ends:
                if ends is not None:
                    reader, writer = ends
                    writer.write(self._word("tcp-push") + b"\n")
                    while line := await asyncio.wait_for(reader.readline(), STALL_S):
                        self._say("tcp-push", "ok", line.split()[0].decode())
                    raise ConnectionError("closed by the other end")
            await asyncio.sleep(0.2)

    @contextlib.asynccontextmanager
    async def _connected(self, kind: str, port: int) -> AsyncIterator[Ends | None]:
        writer = None
        try:
            opening = asyncio.open_connection(self._destination, port)
            reader, writer = await asyncio.wait_for(opening, ANSWER_S)
            self._say(kind, "opened", "")
            yield reader, writer
        except (OSError, TimeoutError) as error:
            self._say(kind, "broken" if writer is not None else "lost", type(error).__name__)
            if writer is None:
                yield None
        finally:
            if writer is not None:
                writer.transport.abort()

    async def repeat(self, kind: str, ask: Callable[[bytes], Awaitable[str]], pace_s: float) -> None:
        """A request on a socket of its own, again and again."""
        while True:
            try:
                self._say(kind, "ok", await asyncio.wait_for(ask(self._word(kind)), ANSWER_S))
            except (OSError, TimeoutError) as error:
                self._say(kind, "lost", type(error).__name__)
            await asyncio.sleep(pace_s)

    async def ask_udp(self, word: bytes) -> str:
        """The source that the other end saw."""
        with _udp() as client:
            client.connect((self._destination, self._udp_port))
            client.send(word)
            return (await asyncio.get_running_loop().sock_recv(client, LINE_MAX)).split()[0].decode()

    async def ask_tcp(self, word: bytes) -> str:
        """The source that the other end saw."""
        reader, writer = await asyncio.open_connection(self._destination, self._tcp_port)
        try:
            writer.write(word + b"\n")
            answer = await reader.readline()
            if not answer:
                raise ConnectionError("closed by the other end")
            return answer.split()[0].decode()
        finally:
            writer.transport.abort()

    async def ping(self, word: bytes) -> str:
        """Nothing: a reply does not say which source the other end saw; its log does."""
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as client:
            client.setblocking(False)
            client.connect((self._destination, 0))
            client.send(_echo_request(word))
            while True:
                packet = await asyncio.get_running_loop().sock_recv(client, 1500)
                header = (packet[0] & 15) * 4
                if packet[header] == 0 and packet[header + 8 :] == word:
                    return ""

    async def serve(self) -> None:
        """Answer what comes from outside to this pod."""
        server = await asyncio.start_server(self._serve, "0.0.0.0", SERVED_PORT)
        async with server:
            await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            while line := await asyncio.wait_for(reader.readline(), 60):
                writer.write(line)
        writer.transport.abort()


def _udp() -> socket.socket:
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.setblocking(False)
    return client


def _echo_request(word: bytes) -> bytes:
    head = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, 1)
    data = head + word + b"\0" * (len(word) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return head[:2] + struct.pack("!H", checksum) + head[4:] + word


async def run(options: argparse.Namespace) -> None:
    """Every kind of flow at once, until killed."""
    descriptor = os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def say(kind: str, what: str, detail: str) -> None:
        line = {"t": boot_ns(), "pod": options.pod, "kind": kind, "what": what, "detail": detail}
        os.write(descriptor, (json.dumps(line) + "\n").encode())

    client = Client(options.pod, options.destination, options.tcp_port, options.udp_port, options.push_port, say)
    async with asyncio.TaskGroup() as group:
        group.create_task(client.keep_udp_stream())
        group.create_task(client.keep_tcp("tcp-stream", 0.1))
        group.create_task(client.keep_tcp("tcp-idle", IDLE_S))
        group.create_task(client.keep_push())
        group.create_task(client.repeat("udp", client.ask_udp, 0.25))
        group.create_task(client.repeat("tcp", client.ask_tcp, 0.25))
        group.create_task(client.repeat("ping", client.ping, 0.25))
        group.create_task(client.serve())


def main() -> None:
    """`python -m loadtest.chaos.client`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pod", required=True)
    parser.add_argument("--destination", required=True)
    parser.add_argument("--log", required=True)
    for name in ("tcp", "udp", "push"):
        parser.add_argument(f"--{name}-port", type=int, required=True)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
