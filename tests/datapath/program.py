"""Run a loaded program on one frame (BPF_PROG_TEST_RUN): frame and context in, verdict, frame and mark out.

The kernel looks devices up in the caller's network namespace and derives the packet type from the device's MAC, so the
runs happen in a thread that lives in a namespace of its own, with devices that exist nowhere else. The namespace ends
with the thread: nothing is left behind, whatever happens.
Source: net/bpf/test_run.c (bpf_prog_test_run_skb); bpf(2).
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from service.lab.cache import cache_folder
from service.network import bpf_call
from tests.datapath.packet import mac

UNSPEC, SHOT, REDIRECT = -1, 2, 7
"""Verdicts of tc programs (linux/pkt_cls.h)."""

COMPILED_DIR = str(cache_folder() / "compiled")
"""Compiled once for all tests and labs of this machine."""

_PROG_TEST_RUN, _INFO_BY_FD = 10, 15
_CLONE_NEWNET = 0x40000000
_CONTEXT_BYTES = 192
_MARK_AT, _PRIORITY_AT, _INGRESS_IFINDEX_AT, _IFINDEX_AT, _CB_AT = 8, 32, 36, 40, 48
_GSO_SEGS_AT, _GSO_SIZE_AT = 164, 176
_FRAME_BYTES_MAX = 4096
_VERIFIED_AT = 216
"""`verified_insns` in `struct bpf_prog_info`."""
_libc = ctypes.CDLL(None, use_errno=True)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Device:
    name: str
    ifindex: int
    mac: bytes


UPLINK = Device("uplink", 10, mac("02:00:00:00:0b:01"))
"""The gateway's interface on the floating IPs' segment."""
UPLINK_2 = Device("uplink2", 20, mac("02:00:00:00:0b:02"))
POD_DEVICE = Device("pod", 30, mac("02:00:00:00:0b:03"))
EGW = Device("egw0", 40, mac("02:00:00:00:0b:04"))
DEVICES = (UPLINK, UPLINK_2, POD_DEVICE, EGW)


@dataclass(frozen=True, slots=True)
class Outcome:
    verdict: int
    frame: bytes
    mark: int
    priority: int = 0


class Namespace:
    """A network namespace inhabited by one thread. Each device is one end of a veth pair, `NAME-wire` the other end."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netns")

    def __enter__(self) -> Self:
        self.call(self._build)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)

    def call(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Do this inside."""
        return self._thread.submit(function, *arguments).result(timeout=30)

    def command(self, *words: str) -> str:
        """Run a command inside and return what it printed."""
        return self.call(self._command, words)

    @staticmethod
    def _command(words: tuple[str, ...]) -> str:
        result = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
        assert result.returncode == 0, f"{' '.join(words)}: {result.stderr}"
        return result.stdout

    def _build(self) -> None:
        if _libc.unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
        # What programs keep per CPU is there at the next packet.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        for device in DEVICES:
            wire = f"{device.name}-wire"
            address = device.mac.hex(":")
            add = f"ip link add {device.name} index {device.ifindex} address {address} type veth peer name {wire}"
            self._command(tuple(add.split()))
            for end in (device.name, wire):
                self._command(("ip", "link", "set", end, "addrgenmode", "none", "up"))


def _bpf(command: int, attributes: ctypes.Structure) -> int:
    result = int(_libc.syscall(bpf_call.NUMBER, command, ctypes.byref(attributes), ctypes.sizeof(attributes)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def native_code_bytes(fd: int) -> int:
    """How much machine code the kernel has made of a program; 0 where it interprets it."""
    info = _ProgramInfo()
    attributes = _ObjectInfo(bpf_fd=fd, info_len=ctypes.sizeof(info), info=ctypes.addressof(info))
    _bpf(_INFO_BY_FD, attributes)
    return int(info.jited_prog_len)


def verified_steps(fd: int) -> int:
    """How many instructions the verifier walked through; it gives up at a million."""
    info = ctypes.create_string_buffer(_VERIFIED_AT + 4)
    _bpf(_INFO_BY_FD, _ObjectInfo(bpf_fd=fd, info_len=len(info), info=ctypes.addressof(info)))
    return int.from_bytes(info.raw[_VERIFIED_AT:], sys.byteorder)


def run_program(
    fd: int,
    frame: bytes,
    *,
    ifindex: int,
    came_in: int = 0,
    mark: int = 0,
    priority: int = 0,
    cb: int = 0,
    segments: tuple[int, int] = (0, 0),
) -> Outcome:
    """In the calling thread's network namespace. Raises OSError where the kernel refuses the frame itself.

    `came_in`: the device it came in by, where it has been redirected to another since. `segments`: how many it is yet
    to be cut into, and of how many bytes each.
    """
    context = bytearray(_CONTEXT_BYTES)
    fields = {
        _MARK_AT: mark,
        _PRIORITY_AT: priority,
        _INGRESS_IFINDEX_AT: came_in or ifindex,
        _IFINDEX_AT: ifindex,
        _CB_AT: cb,
        _GSO_SEGS_AT: segments[0],
        _GSO_SIZE_AT: segments[1],
    }
    for at, value in fields.items():
        context[at : at + 4] = value.to_bytes(4, sys.byteorder)
    data_in = ctypes.create_string_buffer(frame, len(frame))
    data_out = ctypes.create_string_buffer(_FRAME_BYTES_MAX)
    context_in = ctypes.create_string_buffer(bytes(context), _CONTEXT_BYTES)
    context_out = ctypes.create_string_buffer(_CONTEXT_BYTES)
    attributes = _TestRun(
        prog_fd=fd,
        data_size_in=len(frame),
        data_size_out=_FRAME_BYTES_MAX,
        data_in=ctypes.addressof(data_in),
        data_out=ctypes.addressof(data_out),
        repeat=1,
        ctx_size_in=_CONTEXT_BYTES,
        ctx_size_out=_CONTEXT_BYTES,
        ctx_in=ctypes.addressof(context_in),
        ctx_out=ctypes.addressof(context_out),
    )
    _bpf(_PROG_TEST_RUN, attributes)
    verdict = ctypes.c_int32(attributes.retval).value
    mark_out, priority_out = (
        int.from_bytes(context_out.raw[at : at + 4], sys.byteorder) for at in (_MARK_AT, _PRIORITY_AT)
    )
    return Outcome(verdict, data_out.raw[: attributes.data_size_out], mark_out, priority_out)


class Programs:
    """The programs of one loaded datapath, run in one namespace."""

    def __init__(self, namespace: Namespace, descriptors: Mapping[str, int]) -> None:
        self.namespace = namespace
        self.descriptors = descriptors

    def run(
        self,
        name: str,
        frame: bytes,
        *,
        device: Device = UPLINK,
        came_in: Device | None = None,
        mark: int = 0,
        priority: int = 0,
        cb: int = 0,
        segments: tuple[int, int] = (0, 0),
    ) -> Outcome:
        fields = {"mark": mark, "priority": priority, "cb": cb, "segments": segments}
        descriptor, origin = self.descriptors[name], (came_in or device).ifindex
        return self.namespace.call(
            lambda: run_program(descriptor, frame, ifindex=device.ifindex, came_in=origin, **fields)
        )


class _TestRun(ctypes.Structure):
    """`union bpf_attr` as BPF_PROG_TEST_RUN uses it."""

    _fields_ = (
        ("prog_fd", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("data_in", ctypes.c_uint64),
        ("data_out", ctypes.c_uint64),
        ("repeat", ctypes.c_uint32),
        ("duration", ctypes.c_uint32),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_uint64),
        ("ctx_out", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
        ("_pad", ctypes.c_uint32),
    )


class _ObjectInfo(ctypes.Structure):
    """`union bpf_attr` as BPF_OBJ_GET_INFO_BY_FD uses it."""

    _fields_ = (("bpf_fd", ctypes.c_uint32), ("info_len", ctypes.c_uint32), ("info", ctypes.c_uint64))


class _ProgramInfo(ctypes.Structure):
    """The beginning of `struct bpf_prog_info`."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_prog_len", ctypes.c_uint32),
        ("xlated_prog_len", ctypes.c_uint32),
    )
