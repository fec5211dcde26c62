"""Network namespaces with real packets, for tests marked `root`."""

import ctypes
import os
import shlex
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import NamedTuple

_LIBC = ctypes.CDLL(None, use_errno=True)
_NUMBERS = count()
_CLONE_NEWNET = 0x40000000


class Namespace:
    """One namespace, deleted on exit. Everything it does runs in it by way of setns of the calling thread."""

    def __init__(self, label: str) -> None:
        self.name = f"egwt-{os.getpid()}-{next(_NUMBERS)}{label}"

    def __enter__(self) -> "Namespace":
        _run("ip", "netns", "add", self.name)
        self.ip("link set lo up")
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread, and threads and processes it starts meanwhile, are in the namespace."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            _setns(there)
            yield
        finally:
            _setns(home)
            os.close(home)
            os.close(there)

    def ip(self, arguments: str) -> str:
        return _run("ip", "-n", self.name, *shlex.split(arguments))

    def run(self, command: str, text: str = "") -> str:
        return _run("nsenter", f"--net=/run/netns/{self.name}", *shlex.split(command), text=text)

    def sysctl(self, key: str, value: str = "") -> str:
        """Read, or write where a value is given."""
        with self.entered(), open(f"/proc/sys/net/{key}", "r+" if value else "r", encoding="ascii") as file:
            if value:
                file.write(value)
                return value
            return file.read().strip()

    def udp(self, host: str = "0.0.0.0", port: int = 0) -> socket.socket:
        with self.entered():
            opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.settimeout(2)
        opened.bind((host, port))
        return opened

    def capture(self, device: str) -> "Capture":
        with self.entered():
            return Capture(device)

    def link(self, device: str, other: "Namespace", peer: str) -> None:
        """A veth pair from here to `other`, both ends up."""
        self.ip(f"link add {device} type veth peer name {peer} netns {other.name}")
        self.ip(f"link set {device} up")
        other.ip(f"link set {peer} up")


class Seen(NamedTuple):
    source: str
    source_port: int
    destination: str
    destination_port: int
    payload: bytes


class Capture:
    """UDP packets that pass a device, either way."""

    def __init__(self, device: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0003))
        self._socket.bind((device, 0x0003))
        self._socket.settimeout(2)

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def until(self, payload: bytes) -> list[Seen]:
        """Everything up to and with the packet that carries `payload`; fails where it does not come."""
        seen: list[Seen] = []
        deadline = time.monotonic() + 3
        while not (seen and seen[-1].payload == payload):
            assert time.monotonic() < deadline, f"{payload!r} did not pass; seen: {seen}"
            try:
                packet = self._socket.recv(2048)
            except TimeoutError:
                continue
            if packet and packet[0] >> 4 == 4 and packet[9] == 17:
                seen.append(_parse(packet))
        return seen


@contextmanager
def namespaces(*labels: str) -> Iterator[tuple[Namespace, ...]]:
    with ExitStack() as stack:
        yield tuple(stack.enter_context(Namespace(label)) for label in labels)


def _parse(packet: bytes) -> Seen:
    start = (packet[0] & 15) * 4
    source_port, destination_port, length = struct.unpack_from("!HHH", packet, start)
    source, destination = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
    return Seen(source, source_port, destination, destination_port, packet[start + 8 : start + length])


def _setns(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _run(*command: str, text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}{done.stdout}"
    return done.stdout
