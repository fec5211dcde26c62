"""Records every frame that enters the fabric by any bridge port (rule L1), until SIGTERM or SIGINT.

Run inside the fabric's namespace. It writes `FILE` (see `frame`), touches `FILE.ready` when it listens, and at the end
writes `FILE.summary`: JSON with `frames` and `lost` (what the kernel dropped because this process was too slow: a
capture with losses proves nothing).
"""

import argparse
import ctypes
import json
import select
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from service.lab.traffic.frame import pack_frame, write_header
from service.lab.traffic.stream import Stop
from service.settings import PortSettings

ETH_P_ALL = 3
SNAP_LENGTH = 128
"""Enough for the headers of a packet within VXLAN."""
RECEIVE_BUFFER = 64 << 20
FLUSH_S = 0.1
BATCH = 4096
CLOCK_CHECK_NS = 1_000_000_000
# linux/socket.h, linux/if_packet.h, asm/socket.h: not in Python's socket module.
SOL_PACKET, PACKET_STATISTICS, PACKET_IGNORE_OUTGOING = 263, 6, 23
SO_RCVBUFFORCE, SO_ATTACH_FILTER, SO_TIMESTAMPNS = 33, 26, 35
_BPF_RET_K = 0x06
_TIMESPEC = struct.Struct("=qq")
_STATISTICS = struct.Struct("=II")


class Clock:
    """Turns the kernel's receive stamps (wall clock) into CLOCK_BOOTTIME."""

    def __init__(self) -> None:
        self._offset_ns = 0
        self._checked_ns = -CLOCK_CHECK_NS

    def boot_time_ns(self, wall_ns: int) -> int:
        """`wall_ns`: the kernel's stamp. The offset of the two clocks is looked at anew once a second."""
        # Steps of the wall clock while a frame waits are not seen; slewing is, each second.
        if abs(wall_ns - self._checked_ns) > CLOCK_CHECK_NS:
            self._offset_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            self._checked_ns = wall_ns
        return wall_ns - self._offset_ns


def open_tap() -> socket.socket:
    """One packet socket for all interfaces of this namespace: incoming frames only, cut to SNAP_LENGTH, stamped."""
    # Python cannot bind a packet socket to no interface, so it hears all from its birth, a moment before its options.
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    try:
        tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except PermissionError:
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    tap.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    tap.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    # A classic filter of one instruction: accept, but keep only so many bytes.
    program = ctypes.create_string_buffer(struct.pack("=HBBI", _BPF_RET_K, 0, 0, SNAP_LENGTH))
    tap.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("=H6xQ", 1, ctypes.addressof(program)))
    tap.setblocking(False)
    return tap


def bridge_ports() -> dict[int, str]:
    """Interface index -> name of every port in this namespace (`worker1-0`; bridges have no dash in their name)."""
    return {index: name for index, name in socket.if_nameindex() if "-" in name}


def capture(tap: socket.socket, file: BinaryIO, ports: dict[int, str], stop: Stop, vxlan_port: int) -> dict[str, int]:
    """Record until `stop.wanted`; return the summary."""
    write_header(file, list(ports.values()))
    file.flush()
    positions = {name: position for position, name in enumerate(ports.values())}
    clock = Clock()
    frames = 0
    while not stop.wanted:
        select.select([tap], [], [], FLUSH_S)
        for data, name, stamp_ns in _waiting(tap):
            # Frames for the bridge itself come a second time, by its own name.
            if (position := positions.get(name)) is None:
                continue
            time_ns = clock.boot_time_ns(stamp_ns)
            record = pack_frame(data, time_ns=time_ns, port_index=position, vxlan_port=vxlan_port)
            if record is not None:
                file.write(record)
                frames += 1
        file.flush()
    statistics = tap.getsockopt(SOL_PACKET, PACKET_STATISTICS, _STATISTICS.size)
    return {"frames": frames, "lost": _STATISTICS.unpack(statistics)[1]}


def _waiting(tap: socket.socket) -> Iterator[tuple[bytes, str, int]]:
    """(bytes, interface, wall clock ns) of the frames that are waiting, but no endless run of them."""
    for _ in range(BATCH):
        try:
            data, ancillary, _, address = tap.recvmsg(SNAP_LENGTH, 64)
        except BlockingIOError:
            return
        if address[2] != socket.PACKET_OUTGOING:
            yield data, address[0], _stamp_ns(ancillary)


def _stamp_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
            seconds, nanoseconds = _TIMESPEC.unpack(data[: _TIMESPEC.size])
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return time.time_ns()


def main() -> None:
    """Until SIGTERM or SIGINT; the summary is written then."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--vxlan-port", type=int, default=PortSettings().vxlan)
    options = parser.parse_args()
    path: Path = options.file
    with Stop() as stop, open_tap() as tap, path.open("wb") as file:
        path.with_suffix(path.suffix + ".ready").touch()
        summary = capture(tap, file, bridge_ports(), stop, options.vxlan_port)
    path.with_suffix(path.suffix + ".summary").write_text(json.dumps(summary), encoding="utf-8")


if __name__ == "__main__":
    main()
