"""Real sockets of pod and server in a `Segment`, and what they can tell."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing

from tests.datapath.node import SERVER
from tests.datapath.segment import Segment

IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_RECVERR, IP_MTU = 10, 2, 11, 14
SO_MARK = 36
BYTES = 3_000_000
PORT = 8080
TIMEOUT_S = 10


def opened(segment: Segment, place: str, kind: int) -> socket.socket:
    made = segment.places[place].call(socket.socket, socket.AF_INET, kind)
    made.settimeout(TIMEOUT_S)
    return made


def listening(segment: Segment) -> socket.socket:
    server = opened(segment, "router", socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((str(SERVER), PORT))
    server.listen(5)
    return server


def connected(segment: Segment, server: socket.socket) -> tuple[socket.socket, socket.socket, tuple[str, int]]:
    """The pod's end, the server's end, and whom the server sees."""
    client = opened(segment, "pod", socket.SOCK_STREAM)
    client.connect(server.getsockname())
    accepted, peer = server.accept()
    accepted.settimeout(TIMEOUT_S)
    return client, accepted, peer


def received(end: socket.socket, count: int) -> int:
    total = 0
    while total < count:
        data = end.recv(65536)
        assert data, f"closed after {total} bytes"
        total += len(data)
    return total


def transfer(source: socket.socket, sink: socket.socket, count: int = BYTES) -> None:
    """Bytes of a known pattern; the stacks check every checksum on the way."""
    thread = threading.Thread(target=source.sendall, args=(bytes(count),))
    thread.start()
    assert received(sink, count) == count
    thread.join(TIMEOUT_S)


def teller(client: socket.socket) -> str:
    """Who sent the ICMP error that is next in the queue of a socket (ip(7), IP_RECVERR)."""
    with contextlib.suppress(OSError):
        client.recv(100)
    _, ancillary, _, _ = client.recvmsg(100, 1000, socket.MSG_ERRQUEUE)
    [(_, _, data)] = ancillary
    return socket.inet_ntoa(data[16 + 4 : 16 + 8])


@contextlib.contextmanager
def narrow(segment: Segment, place: str, text: str, undo: str) -> Iterator[None]:
    """Something on the way takes smaller packets, from now on."""
    segment.places[place].command(text)
    try:
        yield
    finally:
        segment.places[place].command(undo)
        segment.forget_paths()


def asked(segment: Segment) -> tuple[socket.socket, socket.socket]:
    """A server that asks for errors, connected to the pod's socket as it sees it; and that."""
    server, client = (opened(segment, place, socket.SOCK_DGRAM) for place in ("router", "pod"))
    server.bind((str(SERVER), PORT))
    client.sendto(b"hello", (str(SERVER), PORT))
    _, peer = server.recvfrom(10)
    server.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    server.connect(peer)
    return server, client


def exchange(client: socket.socket, server: socket.socket, count: int, pause_s: float = 0.005) -> int:
    """Questions and their answers; how many came back."""
    client.settimeout(0.3)
    answered = 0
    for _ in range(count):
        client.send(b"question")
        try:
            _, peer = server.recvfrom(100)
            server.sendto(b"answer", peer)
            answered += client.recv(100) == b"answer"
        except TimeoutError:
            continue
        time.sleep(pause_s)
    return answered


@contextlib.contextmanager
def talking(segment: Segment) -> Iterator[tuple[socket.socket, socket.socket]]:
    server, client = (opened(segment, place, socket.SOCK_DGRAM) for place in ("router", "pod"))
    with closing(server), closing(client):
        server.settimeout(0.3)
        server.bind((str(SERVER), PORT))
        client.connect((str(SERVER), PORT))
        yield client, server


def put(segment: Segment, place: str, device: str, frame: bytes, *, mark: int = 0) -> None:
    """This frame, as it is. The kernel tells the sender of one that is dropped at once."""
    wire = segment.places[place].call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW)
    with closing(wire):
        segment.places[place].call(wire.bind, (device, 0))
        wire.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
        with contextlib.suppress(OSError):
            wire.send(frame)


def forget_connections(segment: Segment) -> None:
    """Whatever the pod's node tracked is gone."""
    segment.places["a"].call(flush_conntrack)


def flush_conntrack() -> None:
    """IPCTNL_MSG_CT_DELETE of subsystem NFNL_SUBSYS_CTNETLINK without a tuple: all of them (nfnetlink_conntrack.h)."""
    request, acknowledge, delete = 1, 4, 1 << 8 | 2
    message = struct.pack("=IHHII", 20, delete, request | acknowledge, 1, 0) + struct.pack(">BBH", socket.AF_INET, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netlink:
        netlink.send(message)
        assert struct.unpack_from("=i", netlink.recv(4096), 16) == (0,)
