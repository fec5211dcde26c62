"""One end of a measurement: a process inside a namespace, told on standard input what to send or to answer.

Each command is one JSON line with `verb`, its arguments and, to be pinned from then on, `core`; each answer one JSON
line. Serving verbs first answer `{"ready": true}` when they listen. Another line on standard input ends `udp_sink`,
`connect_serve`, `stream`, `download` and `knock`; the end of standard input ends the process. Only the standard library
is imported, so it starts quickly.

What is measured and how:

- `udp_send` sends 18-byte datagrams of one flow in batches with sendmmsg(2): about 30 ns of Python per packet. Its CPU
  time includes the softirq work of every node on the way, because veth hands packets on within the sender's call, and
  that of its core's ksoftirqd, which takes over under load.
- `udp_sink` never reads. Its socket is connected to the source the first datagram had; the kernel's own counters say
  how many arrived from there (dropped at the full socket, cheaply) and how many came from any other source.
- `rr_*` is one byte to and fro over one TCP connection, one transaction at a time.
- `connect_*` opens a connection and waits until the other end has closed it. The server closes first, so TIME_WAIT is
  its, and the client does not run out of ports.
- `bulk_*` is one TCP stream of large writes.
- `download` takes what `download_serve` sends at a steady pace over one TCP connection, and tells its longest pause.
- `knock` sends what it is told again and again, as a pod does that has just begun.
"""

import contextlib
import ctypes
import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

UDP_PAYLOAD = 18
"""Bytes; with the headers a minimal Ethernet frame."""
BATCH = 64
BULK_WRITE = 256 << 10
BULK_READ = 1 << 20
WAIT_S = 10.0
"""How long to wait for the other end."""
DOWNLOAD_WRITE = 64 << 10
DOWNLOAD_PACE_S = 0.01
STREAM_MAX_NS = 120_000_000_000
DRAIN_NS = 300_000_000

Answer = dict[str, Any]


def boot_time_ns() -> int:
    """CLOCK_BOOTTIME, as the lab's programs stamp what they see."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def say(answer: Answer) -> None:
    """One answer line, at once."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def read_line() -> bytes:
    """The next line of standard input, read byte by byte: nothing may hide in a buffer that select does not see."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        line += byte
    return line


# -- small datagrams, one flow --


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """struct mmsghdr of sendmmsg(2); a connected socket needs no name."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(_Iovec)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("sent", ctypes.c_uint32),
    )


def batch_sender(descriptor: int) -> Callable[[], int]:
    """A call that sends up to BATCH datagrams on a connected socket and returns how many went out (-1: none)."""
    payload = ctypes.create_string_buffer(UDP_PAYLOAD)
    vector = _Iovec(ctypes.addressof(payload), UDP_PAYLOAD)
    messages = (_Message * BATCH)()
    for message in messages:
        message.vectors = ctypes.pointer(vector)
        message.vector_count = 1
    sendmmsg = ctypes.CDLL(None, use_errno=True).sendmmsg
    sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
    address = ctypes.addressof(messages)
    # The closure keeps what the addresses point to alive.
    kept = (payload, vector, messages)
    return lambda: sendmmsg(descriptor, address, BATCH, 0) if kept else -1


def udp_send(*, destination: str, port: int, duration_s: float) -> Answer:
    """Flood the sink for so long. Sent is not received: the sink counts that."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(WAIT_S)
        client.connect((destination, port))
        client.send(b"hello")
        source = client.recv(64).decode()
        client.setblocking(True)
        send = batch_sender(client.fileno())
        # From here on the answering end counts.
        sent = errors = 0
        softirq_ns = _softirq_thread_ns()
        cpu_ns = time.process_time_ns()
        started_ns = now_ns = boot_time_ns()
        end_ns = started_ns + int(duration_s * 1e9)
        while now_ns < end_ns:
            count = send()
            if count > 0:
                sent += count
            else:
                errors += 1
            now_ns = boot_time_ns()
        return {
            "source": source,
            "sent": sent,
            "send_errors": errors,
            "elapsed_ns": now_ns - started_ns,
            "cpu_ns": time.process_time_ns() - cpu_ns,
            "softirq_ns": _softirq_thread_ns() - softirq_ns,
        }


def _softirq_thread_ns() -> int:
    """CPU time of the softirq thread of the core this process is pinned to; 0 where it cannot be told."""
    cores = os.sched_getaffinity(0)
    if len(cores) != 1:
        return 0
    if not _softirq_threads:
        for path in Path("/proc").glob("[0-9]*/comm"):
            try:
                name = path.read_text(encoding="ascii", errors="replace").strip()
            except OSError:
                continue
            if name.startswith("ksoftirqd/"):
                _softirq_threads[int(name.partition("/")[2])] = path.parent / "schedstat"
    try:
        return int(_softirq_threads[next(iter(cores))].read_text(encoding="ascii").split()[0])
    except (KeyError, OSError):
        return 0


_softirq_threads: dict[int, Path] = {}


def udp_sink(*, address: str, port: int) -> Answer:
    """Count what arrives until the next line on standard input, or for a minute."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        # Not to all addresses: once connected, it would answer from the one nearest to the source.
        server.bind((address, port))
        server.settimeout(WAIT_S)
        say({"ready": True})
        _, source = server.recvfrom(64)
        # Connected: the kernel gives only this flow to the socket, and any other source is counted under NoPorts.
        server.connect(source)
        before = udp_counters()
        server.send(source[0].encode())
        select.select([0], [], [], 60.0)
        read_line()
        after = udp_counters()
    counted = {name: after[name] - before[name] for name in ("InDatagrams", "InErrors", "NoPorts")}
    return {
        "source": source[0],
        "received": counted["InDatagrams"] + counted["InErrors"],
        "strangers": counted["NoPorts"],
    }


def udp_counters() -> dict[str, int]:
    """The UDP counters of this network namespace."""
    lines = Path("/proc/self/net/snmp").read_text(encoding="ascii").splitlines()
    names, values = (line.split()[1:] for line in lines if line.startswith("Udp:"))
    return {name: int(value) for name, value in zip(names, values, strict=True)}


# -- TCP --


def _listen(port: int) -> socket.socket:
    server = socket.create_server(("0.0.0.0", port), backlog=1024)
    server.settimeout(WAIT_S)
    say({"ready": True})
    return server


def rr_serve(*, port: int) -> Answer:
    """Send each byte of one connection back, until it is closed."""
    with _listen(port) as server:
        connection, source = server.accept()
    with connection:
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        receive, send = connection.recv, connection.send
        while data := receive(1):
            send(data)
    return {"source": source[0]}


def rr_ask(*, destination: str, port: int, duration_s: float) -> Answer:
    """Returns each transaction's time, in ns, sorted."""
    times: list[int] = []
    with socket.create_connection((destination, port), timeout=WAIT_S) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(None)
        clock, send, receive, append = time.perf_counter_ns, client.send, client.recv, times.append
        now_ns = clock()
        end_ns = now_ns + int(duration_s * 1e9)
        while now_ns < end_ns:
            send(b"x")
            receive(1)
            before_ns, now_ns = now_ns, clock()
            append(now_ns - before_ns)
    times.sort()
    return {"transactions": len(times), "p50_ns": _rank(times, 0.5), "p99_ns": _rank(times, 0.99)}


def _rank(ordered: list[int], fraction: float) -> int:
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def connect_serve(*, port: int) -> Answer:
    """Close every connection as soon as it is there, until the next line on standard input."""
    sources: dict[str, int] = {}
    with _listen(port) as server:
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(server, select.POLLIN)
        listening = [(server.fileno(), select.POLLIN)]
        cpu_ns = time.process_time_ns()
        while (ready := poll.poll(WAIT_S * 1000)) == listening:
            connection, source = server.accept()
            connection.close()
            sources[source[0]] = sources.get(source[0], 0) + 1
        if not ready:
            raise TimeoutError("no connection")
        cpu_ns = time.process_time_ns() - cpu_ns
    read_line()
    return {"sources": sources, "cpu_ns": cpu_ns}


def connect_ask(*, destination: str, port: int, duration_s: float) -> Answer:
    """Open connections one after the other for so long; each until the server has closed it."""
    connections = 0
    cpu_ns = time.process_time_ns()
    started_ns = now_ns = boot_time_ns()
    end_ns = started_ns + int(duration_s * 1e9)
    while now_ns < end_ns:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.connect((destination, port))
            client.recv(1)
        connections += 1
        now_ns = boot_time_ns()
    return {
        "connections": connections,
        "elapsed_ns": now_ns - started_ns,
        "cpu_ns": time.process_time_ns() - cpu_ns,
    }


def bulk_serve(*, port: int) -> Answer:
    """Count the bytes of one connection, until it is closed."""
    with _listen(port) as server:
        connection, source = server.accept()
    received = 0
    buffer = bytearray(BULK_READ)
    with connection:
        connection.settimeout(None)
        started_ns = boot_time_ns()
        while count := connection.recv_into(buffer):
            received += count
        elapsed_ns = boot_time_ns() - started_ns
    return {"source": source[0], "bytes": received, "elapsed_ns": elapsed_ns}


def bulk_send(*, destination: str, port: int, duration_s: float) -> Answer:
    """Send as much as fits into so long. Nothing is answered: the server counts."""
    data = bytes(BULK_WRITE)
    with socket.create_connection((destination, port), timeout=WAIT_S) as client:
        end_ns = boot_time_ns() + int(duration_s * 1e9)
        while boot_time_ns() < end_ns:
            client.sendall(data)
    return {}


def download_serve(*, port: int) -> Answer:
    """Send to one connection at a steady pace, until it is closed."""
    data, sent = bytes(DOWNLOAD_WRITE), 0
    with _listen(port) as server:
        connection, source = server.accept()
    with connection, contextlib.suppress(OSError):
        while True:
            connection.sendall(data)
            sent += len(data)
            time.sleep(DOWNLOAD_PACE_S)
    return {"source": source[0], "sent": sent}


def download(*, destination: str, port: int) -> Answer:
    """Take what comes until the next line on standard input. Whether it still came then, and the longest pause."""
    received = longest_ns = 0
    with socket.create_connection((destination, port), timeout=WAIT_S) as client:
        say({"ready": True})
        last_ns = boot_time_ns()
        while 0 not in (ready := select.select([0, client.fileno()], [], [])[0]):
            count = 0
            with contextlib.suppress(OSError):
                count = len(client.recv(BULK_READ))
            if not count:
                break
            received += count
            before_ns, last_ns = last_ns, boot_time_ns()
            longest_ns = max(longest_ns, last_ns - before_ns)
        is_ended = 0 not in ready
        longest_ns = max(longest_ns, boot_time_ns() - last_ns)
    read_line()
    return {"bytes": received, "longest_pause_ns": longest_ns, "ended": is_ended}


# -- a pod that has just begun --


def knock(*, destination: str, port: int, interval_ns: int) -> Answer:
    """Datagrams with the time at which each is sent, from before there is a network on, until the next line."""
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        say({"ready": True})
        while not select.select([0], [], [], interval_ns / 1e9)[0]:
            with contextlib.suppress(OSError):
                client.sendto(b"%d\n" % boot_time_ns(), (destination, port))
                sent += 1
    read_line()
    return {"sent": sent}


# -- a steady stream of requests, for failover --


def stream(*, destination: str, port: int, interval_ns: int) -> Answer:
    """Ask the lab's outside server at a steady pace until the next line on standard input (two minutes at most).

    Returns when each request was sent and each first answer came (CLOCK_BOOTTIME ns), with the source it names.
    """
    sent: list[int] = []
    answers: dict[int, tuple[int, str]] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((destination, port))
        client.setblocking(False)
        say({"ready": True})
        next_ns = boot_time_ns()
        end_ns = next_ns + STREAM_MAX_NS
        while (now_ns := boot_time_ns()) < end_ns:
            if now_ns >= next_ns:
                _send_request(client, len(sent))
                sent.append(now_ns)
                # After a stall the pace goes on from now: no burst to make up for it.
                next_ns = max(next_ns + interval_ns, now_ns)
            inputs = [0, client.fileno()]
            ready = select.select(inputs, [], [], max(0, next_ns - boot_time_ns()) / 1e9)[0]
            if client.fileno() in ready:
                _take_answers(client, answers)
            if 0 in ready:
                read_line()
                break
        _drain(client, len(sent), answers)
    return {
        "sent": sent,
        "answers": [[sequence, when, source] for sequence, (when, source) in sorted(answers.items())],
    }


def _send_request(client: socket.socket, sequence: int) -> None:
    # Unreachable for now: counts as lost.
    with contextlib.suppress(OSError):
        client.send(b"%d\n" % sequence)


def _drain(client: socket.socket, count: int, answers: dict[int, tuple[int, str]]) -> None:
    """Give the answers to the last requests time to come."""
    until_ns = boot_time_ns() + DRAIN_NS
    while len(answers) < count and (left_ns := until_ns - boot_time_ns()) > 0:
        if select.select([client], [], [], left_ns / 1e9)[0]:
            _take_answers(client, answers)


def _take_answers(client: socket.socket, answers: dict[int, tuple[int, str]]) -> None:
    while True:
        try:
            words = client.recv(256).split()
        except OSError:
            return  # None left, or an ICMP error for an earlier request.
        if len(words) == 3 and words[2].isdigit():
            answers.setdefault(int(words[2]), (boot_time_ns(), words[0].decode("ascii", "replace")))


VERBS: dict[str, Callable[..., Answer]] = {
    verb.__name__: verb
    for verb in (
        udp_send,
        udp_sink,
        rr_ask,
        rr_serve,
        connect_ask,
        connect_serve,
        bulk_send,
        bulk_serve,
        download,
        download_serve,
        knock,
        stream,
    )
}


def main() -> None:
    """Until standard input ends."""
    while line := read_line():
        command = json.loads(line)
        if "verb" not in command:
            continue  # The word to end a verb that had already ended by itself.
        if (core := command.pop("core", None)) is not None:
            os.sched_setaffinity(0, {core})
        try:
            answer = VERBS[command.pop("verb")](**command)
        except OSError as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        say(answer)


if __name__ == "__main__":
    main()
