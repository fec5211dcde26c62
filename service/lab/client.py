"""What a pod runs: ask the outside server who it thinks is calling, once (tcp, udp, ping) or in a stream."""

import argparse
import json
import os
import secrets
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.lab.outside import ICMP_ECHO_REQUEST, read_calls
from service.lab.plan import TCP_PORT, UDP_PORT
from service.lab.traffic.stream import run_stream

ICMP_ECHO_REPLY = 0
TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Sighting:
    """How the outside server saw one call."""

    source: str
    source_port: int
    rtt_ms: float


def ask_tcp(destination: str, port: int = TCP_PORT, *, word: str = "", timeout_s: float = TIMEOUT_S) -> Sighting:
    """One connection, one line with `word`. Raises OSError (TimeoutError among them) where no answer comes."""
    started_ns = time.monotonic_ns()
    with socket.create_connection((destination, port), timeout=timeout_s) as connection:
        connection.sendall(f"{word}\n".encode())
        with connection.makefile("rb") as lines:
            return _sighting(lines.readline(256), started_ns)


def ask_udp(destination: str, port: int = UDP_PORT, *, word: str = "", timeout_s: float = TIMEOUT_S) -> Sighting:
    """One datagram with `word`, not repeated. Raises OSError (TimeoutError among them) where no answer comes."""
    started_ns = time.monotonic_ns()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(timeout_s)
        client.connect((destination, port))
        client.send(f"{word}\n".encode())
        return _sighting(client.recv(256), started_ns)


def _sighting(answer: bytes, started_ns: int) -> Sighting:
    words = answer.decode("ascii", "replace").split()
    if len(words) < 2 or not words[1].isdigit():
        raise ConnectionError(f"not an answer of the outside server: {answer!r}")
    return Sighting(words[0], int(words[1]), (time.monotonic_ns() - started_ns) / 1e6)


def ping(destination: str, *, word: str = "", timeout_s: float = TIMEOUT_S) -> float:
    """One echo request that carries `word`; the milliseconds until its reply, which does not say who was seen to call.

    Raises OSError (TimeoutError among them) where no reply comes.
    """
    payload = (word or new_word()).encode()
    started_ns = time.monotonic_ns()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as client:
        client.sendto(_echo_request(os.getpid() & 0xFFFF, payload), (destination, 0))
        _await_echo_reply(client, payload, started_ns + int(timeout_s * 1e9))
    return (time.monotonic_ns() - started_ns) / 1e6


def new_word() -> str:
    """A word that no other call carries (of even length, as the checksum of an echo request needs it)."""
    return secrets.token_hex(12)


def _echo_request(identifier: int, payload: bytes) -> bytes:
    unsummed = struct.pack("!BBHHH", ICMP_ECHO_REQUEST, 0, 0, identifier, 1) + payload
    total = sum(struct.unpack(f"!{len(unsummed) // 2}H", unsummed))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return struct.pack("!BBHHH", ICMP_ECHO_REQUEST, 0, checksum, identifier, 1) + payload


def _await_echo_reply(client: socket.socket, word: bytes, deadline_ns: int) -> None:
    while (left_ns := deadline_ns - time.monotonic_ns()) > 0:
        if not select.select([client], [], [], left_ns / 1e9)[0]:
            break
        packet = client.recv(2048)
        header_length = (packet[0] & 0x0F) * 4
        if packet[header_length] == ICMP_ECHO_REPLY and packet[header_length + 8 :] == word:
            return
    raise TimeoutError("no echo reply")


def find_call(log: Path, word: str, *, start: int = 0, timeout_s: float) -> dict[str, Any] | None:
    """The outside server's log entry of the call that carried `word`; None where there is none in time.

    `start` is how long the log was before the call: a long log need not be read again for each.
    """
    deadline_s = time.monotonic() + timeout_s
    # The kernel answers a ping before the server has logged it, so the entry may come a moment after the reply.
    while True:
        for call in read_calls(log, start):
            if call["payload"] == word:
                return call
        if time.monotonic() > deadline_s:
            return None
        time.sleep(0.005)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, port in (("tcp", TCP_PORT), ("udp", UDP_PORT), ("ping", 0)):
        once = verbs.add_parser(verb)
        once.add_argument("destination")
        once.add_argument("--timeout", type=float, default=TIMEOUT_S, help="seconds")
        if port:
            once.add_argument("--port", type=int, default=port)
        else:
            once.add_argument("--log", type=Path, help="the outside server's log, to learn how the ping was seen")
    stream = verbs.add_parser("stream")
    stream.add_argument("destination")
    stream.add_argument("--proto", choices=("udp", "tcp"), default="udp")
    stream.add_argument("--port", type=int)
    stream.add_argument("--interval", type=float, default=10.0, help="milliseconds between requests")
    stream.add_argument("--duration", type=float, help="seconds; without it, until SIGTERM or SIGINT")
    return parser


def main() -> int:
    """Print what was seen; 1 where no answer came, told on standard error."""
    options = _parser().parse_args()
    try:
        print(_answer(options))
    except OSError as error:
        print(f"no answer from {options.destination}: {error}", file=sys.stderr)
        return 1
    return 0


def _answer(options: argparse.Namespace) -> str:
    if options.verb == "stream":
        return json.dumps(
            run_stream(
                options.proto,
                options.destination,
                options.port or (TCP_PORT if options.proto == "tcp" else UDP_PORT),
                interval_ns=int(options.interval * 1e6),
                duration_ns=int(options.duration * 1e9) if options.duration else None,
            )
        )
    if options.verb == "ping":
        return _answer_ping(options)
    ask = ask_tcp if options.verb == "tcp" else ask_udp
    seen = ask(options.destination, options.port, timeout_s=options.timeout)
    return f"{seen.source} {seen.source_port}"


def _answer_ping(options: argparse.Namespace) -> str:
    word = new_word()
    start = options.log.stat().st_size if options.log else 0
    rtt_ms = ping(options.destination, word=word, timeout_s=options.timeout)
    if options.log is None:
        return f"answered in {rtt_ms:.1f} ms"
    call = find_call(options.log, word, start=start, timeout_s=options.timeout)
    if call is None:
        raise TimeoutError(f"answered in {rtt_ms:.1f} ms, but {options.log} knows nothing of it")
    return f"{call['source']} {call['source_port']}"


if __name__ == "__main__":
    sys.exit(main())
