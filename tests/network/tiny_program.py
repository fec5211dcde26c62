"""A two-instruction tc program, loaded by the raw bpf(2) call: `return code`."""

import ctypes
import os
import platform
import struct

TC_ACT_UNSPEC = -1
TC_ACT_SHOT = 2
_BPF_PROG_LOAD = 5
_SCHED_CLS = 3
_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()] if platform.machine() in ("x86_64", "aarch64") else 0


def load(code: int) -> int:
    """The descriptor of a program that returns `code` for each packet; the caller closes it."""
    instructions = struct.pack("<BBhi", 0xB7, 0, 0, code) + struct.pack("<BBhi", 0x95, 0, 0, 0)
    text, licence = ctypes.create_string_buffer(instructions), ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack("=IIQQ", _SCHED_CLS, 2, ctypes.addressof(text), ctypes.addressof(licence)).ljust(
        128, b"\0"
    )
    descriptor = ctypes.CDLL(None, use_errno=True).syscall(
        _BPF, _BPF_PROG_LOAD, ctypes.create_string_buffer(attributes, 128), 128
    )
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(descriptor)
