"""Very many flows from one pod, without a socket for each: packets are made here and sent as they are.

Commands and answers are JSON lines, as in `traffic`. UDP without a checksum, TCP as a SYN and then the SYN again: what
a table of flows has to bear from whoever opens without end. Only the standard library is imported.

- `spray` sends; flow number N has the N-th of {source ports} x {destination ports}.
- `count` is the other end of UDP: a datagram bears its flow's number, so it tells which ones never came.
- `connect` opens real TCP connections at a pace, and keeps them open until the next line on standard input; `accept` is
  its other end, and one of several processes on one port may be it.
"""

import contextlib
import errno
import json
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from loadtest.traffic import boot_time_ns, read_line, say

TTL = 64
SYN = 0x02
REFUSED_S = 0.9
"""A connection that stands so soon has lost no SYN: the kernel sends the next one after a second."""
WAIT_S = 4.0
"""For connections that do not stand yet when the last one was opened."""
_BUFFER = 16 << 20
SO_RCVBUFFORCE = 33
"""Linux; Python's socket module does not name it."""

Answer = dict[str, Any]


def ipv4_header(source: str, destination: str, protocol: int) -> bytes:
    """Of a packet that the kernel completes: it writes length, id and checksum."""
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    return struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, TTL, protocol, 0) + addresses


def udp_packet(header: bytes, source_port: int, port: int, number: int) -> bytes:
    """With the number as its payload, and no checksum, which IPv4 allows."""
    return header + struct.pack("!HHHHI", source_port, port, 12, 0, number)


def syn_packet(header: bytes, source_port: int, port: int, number: int) -> bytes:
    """With its checksum; the number is its sequence."""
    segment = struct.pack("!HHIIBBHHH", source_port, port, number, 0, 5 << 4, SYN, 0xFFFF, 0, 0)
    pseudo = header[12:20] + struct.pack("!HH", socket.IPPROTO_TCP, len(segment))
    return header + segment[:16] + struct.pack("!H", internet_checksum(pseudo + segment)) + segment[18:]


def internet_checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def spray(
    *,
    destination: str,
    protocols: list[str],
    source_ports: list[int],
    ports: list[int],
    flows: int,
    packets: int,
    pace: int,
) -> Answer:
    """So many flows, `pace` of them a second (0: as fast as it goes); each `packets` times in a row. Ports: [first, how
    many]. Flows take the protocols in turn."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((destination, 9))
        own = probe.getsockname()[0]
    makers = {"udp": (udp_packet, socket.IPPROTO_UDP), "tcp": (syn_packet, socket.IPPROTO_TCP)}
    kinds = [(makers[name][0], ipv4_header(own, destination, makers[name][1])) for name in protocols]
    sent = refused = 0
    started_ns = boot_time_ns()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        for number in range(flows):
            make, header = kinds[number % len(kinds)]
            place = number // len(kinds)
            source_port = source_ports[0] + place % source_ports[1]
            packet = make(header, source_port, ports[0] + place // source_ports[1] % ports[1], number)
            for _ in range(packets):
                try:
                    raw.sendto(packet, (destination, 0))
                    sent += 1
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    refused += 1
            if pace and not number % 16:
                _wait_until(started_ns + (number + 1) * 1_000_000_000 // pace)
    return {"sent": sent, "not_sent": refused, "elapsed_ns": boot_time_ns() - started_ns}


def _wait_until(at_ns: int) -> None:
    if (left_ns := at_ns - boot_time_ns()) > 0:
        time.sleep(left_ns / 1e9)


def count(*, address: str, port: int, flows: int) -> Answer:
    """Datagrams until the next line on standard input: which of so many flows never came, and from where they came."""
    numbers: set[int] = set()
    sources: set[str] = set()
    packets = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _BUFFER)
        server.bind((address, port))
        server.setblocking(False)
        say({"ready": True})
        is_over = False
        while not is_over:
            is_over = 0 in select.select([0, server.fileno()], [], [])[0]
            # What came before the word counts.
            with contextlib.suppress(BlockingIOError):
                while True:
                    data, source = server.recvfrom(64)
                    numbers.add(int.from_bytes(data[:4], "big"))
                    sources.add(source[0])
                    packets += 1
    read_line()
    return {"packets": packets, "missing": sorted(set(range(flows)) - numbers), "sources": sorted(sources)}


def accept(*, address: str, port: int) -> Answer:
    """Take every connection and keep it, until the next line on standard input."""
    kept: list[socket.socket] = []
    sources: set[str] = set()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind((address, port))
        server.listen(4096)
        server.setblocking(False)
        say({"ready": True})
        is_over = False
        while not is_over:
            is_over = 0 in select.select([0, server.fileno()], [], [])[0]
            with contextlib.suppress(BlockingIOError):
                while True:
                    connection, source = server.accept()
                    kept.append(connection)
                    sources.add(source[0])
    read_line()
    for connection in kept:
        _reset(connection)
    return {"accepted": len(kept), "sources": sorted(sources)}


def connect(*, destination: str, port: int, connections: int, duration_s: float) -> Answer:
    """So many connections evenly within so long; how many stood at once, late, and not at all."""
    opener = _Opener(destination, port)
    started_ns = boot_time_ns()
    for number in range(connections):
        opener.open()
        opener.look()
        _wait_until(started_ns + int((number + 1) * duration_s * 1e9 / connections))
    opened_ns = boot_time_ns() - started_ns
    until_ns = boot_time_ns() + int(WAIT_S * 1e9)
    while opener.waiting and boot_time_ns() < until_ns:
        opener.look(0.05)
    answer = {
        "at_once": opener.at_once,
        "late": opener.late,
        "failed": connections - opener.at_once - opener.late,
        "elapsed_ns": opened_ns,
    }
    say({"opened": True} | answer)
    read_line()
    opener.close()
    return answer


class _Opener:
    """Connections under way and those that stand; all stay open."""

    def __init__(self, destination: str, port: int) -> None:
        self._to = (destination, port)
        self._poll = select.epoll()
        self.waiting: dict[int, tuple[socket.socket, int]] = {}
        self._kept: list[socket.socket] = []
        self.at_once = self.late = 0

    def open(self) -> None:
        """Begin one more."""
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        client.setblocking(False)
        client.connect_ex(self._to)
        self._poll.register(client.fileno(), select.EPOLLOUT)
        self.waiting[client.fileno()] = (client, boot_time_ns())

    def look(self, timeout_s: float = 0) -> None:
        """Which of them stand by now."""
        for descriptor, _ in self._poll.poll(timeout_s):
            client, since_ns = self.waiting.pop(descriptor)
            self._poll.unregister(descriptor)
            self._kept.append(client)
            if client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                continue
            if boot_time_ns() - since_ns <= REFUSED_S * 1e9:
                self.at_once += 1
            else:
                self.late += 1

    def close(self) -> None:
        """All of them, by a reset: nothing of them lingers."""
        for client in [*self._kept, *(client for client, _ in self.waiting.values())]:
            _reset(client)
        self._poll.close()


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


VERBS: dict[str, Callable[..., Answer]] = {"spray": spray, "count": count, "accept": accept, "connect": connect}


def main() -> None:
    """Until standard input ends."""
    while line := read_line():
        command = json.loads(line)
        if "verb" not in command:
            continue  # The word to end a verb that had already ended by itself.
        try:
            answer = VERBS[command.pop("verb")](**command)
        except OSError as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        say(answer)


if __name__ == "__main__":
    main()
