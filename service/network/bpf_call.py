"""The bpf(2) system call itself, and what maps and links have in common: descriptors and pins.

Every call releases the interpreter lock while the kernel works. Source: bpf(2); include/uapi/linux/bpf.h.
"""

import ctypes
import os
import platform
import struct

_SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280}
NUMBER = _SYSCALL_NUMBERS.get(platform.machine(), 321)
_libc = ctypes.CDLL(None, use_errno=True)

INFO_BY_FD = 15
_OBJ_PIN, _OBJ_GET = 6, 7
ATTR_SIZE = 128
_NAME_BYTES = 15


def bpf_call(command: int, attributes: bytearray) -> int:
    """Call bpf(2) with `union bpf_attr`, into which the kernel may write. Raises OSError."""
    buffer = (ctypes.c_char * len(attributes)).from_buffer(attributes)
    result = _libc.syscall(NUMBER, command, buffer, len(attributes))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def make_attributes(*fields: tuple[str, int, int]) -> bytearray:
    """A `union bpf_attr` of zeros but for `fields`: (struct format, offset, value) each."""
    attributes = bytearray(ATTR_SIZE)
    for form, offset, value in fields:
        struct.pack_into(form, attributes, offset, value)
    return attributes


def put_name(attributes: bytearray, offset: int, name: str) -> None:
    """Name a new map or program, as tools show it: its first 15 bytes."""
    attributes[offset : offset + _NAME_BYTES] = name.encode()[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0")


def pin(fd: int, path: str) -> None:
    """Pin a map, program or link at `path` on a bpffs. Raises FileExistsError where something is pinned there."""
    name = ctypes.create_string_buffer(path.encode())
    bpf_call(_OBJ_PIN, make_attributes(("=Q", 0, ctypes.addressof(name)), ("=I", 8, fd)))


def open_object(path: str) -> int:
    """A new descriptor of what is pinned at `path`. Raises FileNotFoundError where nothing is."""
    name = ctypes.create_string_buffer(path.encode())
    return bpf_call(_OBJ_GET, make_attributes(("=Q", 0, ctypes.addressof(name))))


def object_info(fd: int) -> bytes:
    """What the kernel says of a map or link: the start of its `struct bpf_map_info` or `bpf_link_info`."""
    info = ctypes.create_string_buffer(ATTR_SIZE)
    bpf_call(INFO_BY_FD, make_attributes(("=I", 0, fd), ("=I", 4, ATTR_SIZE), ("=Q", 8, ctypes.addressof(info))))
    return info.raw
