"""A tiny tc program, loaded by the raw bpf(2) call: `skb->mark = mark; bpf_set_hash(skb, hash); return code`."""

import ctypes
import os
import platform
import struct

TC_ACT_UNSPEC = -1
TC_ACT_OK = 0
TC_ACT_SHOT = 2
_MARK_AT = 8
_BPF_PROG_LOAD = 5
_SCHED_CLS = 3
_SET_HASH = 48
_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()] if platform.machine() in ("x86_64", "aarch64") else 0


def load(code: int, *, mark: int = 0, seen_as: int = 0) -> int:
    """The descriptor of a program that returns `code` for each packet, with a mark and a hash where they are given; the
    caller closes it."""
    marking = struct.pack("<BBhi", 0xB7, 2, 0, mark) + struct.pack("<BBhi", 0x63, 2 << 4 | 1, _MARK_AT, 0)
    hashing = struct.pack("<BBhI", 0xB4, 2, 0, seen_as) + struct.pack("<BBhi", 0x85, 0, 0, _SET_HASH)
    returning = struct.pack("<BBhi", 0xB7, 0, 0, code) + struct.pack("<BBhi", 0x95, 0, 0, 0)
    instructions = (marking if mark else b"") + (hashing if seen_as else b"") + returning
    text, licence = ctypes.create_string_buffer(instructions), ctypes.create_string_buffer(b"GPL")
    pointers = ctypes.addressof(text), ctypes.addressof(licence)
    attributes = struct.pack("=IIQQ", _SCHED_CLS, len(instructions) // 8, *pointers).ljust(128, b"\0")
    descriptor = ctypes.CDLL(None, use_errno=True).syscall(
        _BPF, _BPF_PROG_LOAD, ctypes.create_string_buffer(attributes, 128), 128
    )
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(descriptor)
