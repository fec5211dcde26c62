"""Requests at a steady pace from one socket, and the longest time without an answer: how a client feels a failover."""

import select
import signal
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from types import FrameType
from typing import Any

CONNECT_TIMEOUT_S = 5.0
DRAIN_NS = 300_000_000
"""How long to wait for the answers to the last requests."""


def boot_time_ns() -> int:
    """CLOCK_BOOTTIME, by which leases, audit records and captures are stamped too."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@dataclass(slots=True)
class Tally:
    """What was sent and what came back. All times CLOCK_BOOTTIME ns."""

    sent: int = 0
    first_sent_ns: int = 0
    last_sent_ns: int = 0
    send_errors: int = 0
    answered: dict[int, int] = field(default_factory=dict)
    """Sequence -> when its first answer came."""
    sources: Counter[str] = field(default_factory=Counter)
    changes: list[tuple[int, str]] = field(default_factory=list)
    """(when, source) of each answer that names another source than the one before."""
    broken: str = ""
    """Why a connection ended early."""

    def take(self, line: bytes, now_ns: int) -> None:
        """Count one answer line `IP PORT SEQUENCE`; duplicates and strangers are left out."""
        words = line.decode("ascii", "replace").split()
        if len(words) != 3 or not words[2].isdigit() or int(words[2]) in self.answered:
            return
        self.answered[int(words[2])] = now_ns
        self.sources[words[0]] += 1
        if not self.changes or self.changes[-1][1] != words[0]:
            self.changes.append((now_ns, words[0]))

    def gap(self) -> tuple[int, int]:
        """(from, until) of the longest time without an answer, from the first request to the last."""
        moments = [self.first_sent_ns, *sorted(self.answered.values())]
        if self.last_sent_ns > moments[-1]:
            moments.append(self.last_sent_ns)
        return max(pairwise(moments), key=lambda pair: pair[1] - pair[0], default=(moments[0], moments[0]))

    def report(self) -> dict[str, Any]:
        """All of it as JSON can say it. What was not answered is lost, also what could not be sent."""
        gap_from_ns, gap_until_ns = self.gap()
        return {
            "sent": self.sent,
            "received": len(self.answered),
            "lost": self.sent - len(self.answered),
            "send_errors": self.send_errors,
            "gap_max_ms": round((gap_until_ns - gap_from_ns) / 1e6, 3),
            "gap_from_ns": gap_from_ns,
            "gap_until_ns": gap_until_ns,
            "sources": dict(self.sources),
            "changes": [{"time_ns": when, "source": source} for when, source in self.changes],
            "first_sent_ns": self.first_sent_ns,
            "last_sent_ns": self.last_sent_ns,
            "broken": self.broken,
        }


class Stop:
    """Set by SIGTERM or SIGINT while it is entered."""

    def __init__(self) -> None:
        self.wanted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.wanted = True


def run_stream(
    proto: str, destination: str, port: int, *, interval_ns: int, duration_ns: int | None = None
) -> dict[str, Any]:
    """Stream over UDP datagrams or the lines of one TCP connection, and return `Tally.report()` with what was asked.

    Ends after `duration_ns` of requests, or with SIGTERM or SIGINT (main thread only). Raises OSError where a TCP
    connection cannot be opened at all.
    """
    with Stop() as stop, _connect(proto, destination, port) as client:
        tally = _pump(client, stop, interval_ns, duration_ns, lines=proto == "tcp")
    asked = {"proto": proto, "destination": destination, "port": port, "interval_ms": interval_ns / 1e6}
    return asked | tally.report()


def _connect(proto: str, destination: str, port: int) -> socket.socket:
    if proto == "tcp":
        client = socket.create_connection((destination, port), timeout=CONNECT_TIMEOUT_S)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    else:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.connect((destination, port))
    client.setblocking(False)
    return client


def _pump(client: socket.socket, stop: Stop, interval_ns: int, duration_ns: int | None, *, lines: bool) -> Tally:
    started_ns = boot_time_ns()
    tally = Tally(first_sent_ns=started_ns, last_sent_ns=started_ns)
    end_ns = started_ns + duration_ns if duration_ns is not None else None
    next_ns = started_ns
    drain_until_ns = None
    rest = b""
    while not tally.broken:
        now_ns = boot_time_ns()
        if drain_until_ns is None and (stop.wanted or (end_ns is not None and now_ns >= end_ns)):
            drain_until_ns = now_ns + DRAIN_NS
        if drain_until_ns is not None:
            if now_ns >= drain_until_ns or len(tally.answered) == tally.sent:
                break
        elif now_ns >= next_ns:
            _send(client, tally, now_ns)
            # After a stall the pace goes on from now: no burst to make up for it.
            next_ns = max(next_ns + interval_ns, now_ns)
        wait_until_ns = next_ns if drain_until_ns is None else drain_until_ns
        select.select([client], [], [], max(0, wait_until_ns - boot_time_ns()) / 1e9)
        rest = _receive(client, tally, rest, lines=lines)
    return tally


def _send(client: socket.socket, tally: Tally, now_ns: int) -> None:
    try:
        client.send(b"%d\n" % tally.sent)
    except (BrokenPipeError, ConnectionResetError) as error:
        tally.broken = str(error)
    except OSError:
        tally.send_errors += 1  # Refused or unreachable for now; counts as lost.
    tally.sent += 1
    tally.last_sent_ns = now_ns


def _receive(client: socket.socket, tally: Tally, rest: bytes, *, lines: bool) -> bytes:
    """Take what has come; return the beginning of a line that is not yet whole."""
    while True:
        try:
            data = client.recv(65536)
        except BlockingIOError:
            return rest
        except ConnectionError as error:
            if lines:
                tally.broken = str(error)
            return rest
        except OSError as error:
            # Unreachable for now: a datagram's loss, but the end of a connection.
            tally.broken = str(error) if lines else ""
            return rest
        now_ns = boot_time_ns()
        if not lines:
            tally.take(data, now_ns)
            continue
        if not data:
            tally.broken = "closed by the other end"
            return rest
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            tally.take(line, now_ns)
