"""The witness outside: answers TCP lines and UDP datagrams with the address they came from, and logs every call.

One JSON object per line: `time_ns` (CLOCK_BOOTTIME), `proto` (tcp, udp, icmp), `source`, `source_port` (for icmp the
echo identifier), `destination`, `payload` (first 32 characters; of an echo request the text after the header). An
answer is the text line `IP PORT`, with the first word of the request behind it where there is one, so that a client
can tell answers apart. Pings are answered by the kernel and only logged here.
"""

import argparse
import asyncio
import json
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from service.lab.plan import TCP_PORT, UDP_PORT

LINE_MAX = 65536
IDLE_TIMEOUT_S = 3600.0
ICMP_ECHO_REQUEST = 8
PAYLOAD_MAX = 32
IP_PKTINFO = 8
"""Linux; Python's socket module does not name it before 3.14."""
_PKTINFO = struct.Struct("=I4s4s")
_BATCH = 256

Log = Callable[[str, str, int, str, bytes], None]


def open_log(path: Path) -> Log:
    """Open the log for appending; each call is one write, and no call waits in a buffer."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def log(proto: str, source: str, source_port: int, destination: str, payload: bytes) -> None:
        call = {
            "time_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            "proto": proto,
            "source": source,
            "source_port": source_port,
            "destination": destination,
            "payload": payload[:PAYLOAD_MAX].decode("ascii", "replace").rstrip(),
        }
        os.write(descriptor, (json.dumps(call) + "\n").encode())

    return log


def read_calls(path: Path, start: int = 0) -> list[dict[str, Any]]:
    """The calls in the log from byte `start` on; a line still being written is left out."""
    with path.open("rb") as log:
        log.seek(start)
        whole, _, _ = log.read().rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines()]


def answer_to(source: str, source_port: int, request: bytes) -> bytes:
    """`request` may be empty. Only its first word comes back, and no more of it than the log's payload has."""
    words = request[:PAYLOAD_MAX].split(maxsplit=1)
    return b" ".join([f"{source} {source_port}".encode(), *words[:1]]) + b"\n"


async def serve_tcp(log: Log, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each line of one connection; an HTTP request (for curl) gets one answer and the end."""
    source, source_port = writer.get_extra_info("peername")[:2]
    destination = writer.get_extra_info("sockname")[0]
    try:
        while line := await asyncio.wait_for(reader.readline(), IDLE_TIMEOUT_S):
            log("tcp", source, source_port, destination, line)
            if line.startswith((b"GET ", b"HEAD ")):
                writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n")
                writer.write(answer_to(source, source_port, b""))
                await writer.drain()
                break
            writer.write(answer_to(source, source_port, line))
            await writer.drain()
    except (ConnectionError, TimeoutError, ValueError):
        pass  # The caller is gone, silent, or sends lines without end.
    finally:
        writer.close()


def answer_udp(server: socket.socket, log: Log) -> None:
    """Answer what is waiting, each from the very address it was sent to, whichever of many that was."""
    for _ in range(_BATCH):
        try:
            payload, ancillary, _, (source, source_port) = server.recvmsg(2048, 64)
        except BlockingIOError:
            return
        except OSError:
            continue
        destination = next(data for level, kind, data in ancillary if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO))
        address = _PKTINFO.unpack(destination[: _PKTINFO.size])[2]
        log("udp", source, source_port, socket.inet_ntoa(address), payload)
        answer = answer_to(source, source_port, payload)
        pktinfo = (socket.IPPROTO_IP, IP_PKTINFO, _PKTINFO.pack(0, address, bytes(4)))
        try:
            server.sendmsg([answer], [pktinfo], 0, (source, source_port))
        except OSError:
            continue  # No way back to a bare pod address: that it came is in the log.


def log_pings(server: socket.socket, log: Log) -> None:
    """Log the echo requests that are waiting, but no endless run of them."""
    for _ in range(_BATCH):
        try:
            packet = server.recv(2048)
        except BlockingIOError:
            return
        header_length = (packet[0] & 0x0F) * 4
        if len(packet) < header_length + 8 or packet[header_length] != ICMP_ECHO_REQUEST:
            continue
        (identifier,) = struct.unpack_from("!H", packet, header_length + 4)
        source, destination = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
        log("icmp", source, identifier, destination, packet[header_length + 8 :])


def _open_sockets(udp_port: int) -> tuple[socket.socket, socket.socket]:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    udp.bind(("0.0.0.0", udp_port))
    icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    for server in (udp, icmp):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        server.setblocking(False)
    return udp, icmp


async def serve(log_path: Path, tcp_port: int, udp_port: int) -> None:
    """Serve until cancelled. The ready file beside the log appears when all three are open."""
    log = open_log(log_path)
    udp, icmp = _open_sockets(udp_port)
    loop = asyncio.get_running_loop()
    loop.add_reader(udp.fileno(), answer_udp, udp, log)
    loop.add_reader(icmp.fileno(), log_pings, icmp, log)
    try:
        server = await asyncio.start_server(
            lambda reader, writer: serve_tcp(log, reader, writer), "0.0.0.0", tcp_port, limit=LINE_MAX, backlog=1024
        )
        async with server:
            log_path.with_suffix(".ready").touch()
            await server.serve_forever()
    finally:
        loop.remove_reader(udp.fileno())
        loop.remove_reader(icmp.fileno())
        udp.close()
        icmp.close()


def main() -> None:
    """Until it is killed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--tcp-port", type=int, default=TCP_PORT)
    parser.add_argument("--udp-port", type=int, default=UDP_PORT)
    options = parser.parse_args()
    uvloop.run(serve(options.log, options.tcp_port, options.udp_port))


if __name__ == "__main__":
    main()
