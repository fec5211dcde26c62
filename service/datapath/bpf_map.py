"""BPF maps through bpf(2) alone, without BCC: what the keeper uses to open the fence, and the worker pool to fill maps.

Every call releases the interpreter lock while the kernel works, so batches belong in worker threads.
Source: bpf(2); include/uapi/linux/bpf.h.
"""

import ctypes
import errno
import os
import resource
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from service.model.errors import InvariantError
from service.network.bpf_call import bpf_call, make_attributes, object_info, open_object, put_name

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT_KEY = 0, 1, 2, 3, 4
_LOOKUP_BATCH, _TAKE_BATCH, _UPDATE_BATCH, _DELETE_BATCH = 24, 25, 26, 27


@dataclass(frozen=True, slots=True)
class MapInfo:
    """Shape of a map as the kernel reports it (BPF_OBJ_GET_INFO_BY_FD)."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    name: str


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


def map_info(fd: int) -> MapInfo:
    """Ask the kernel for a map's shape: a pin is never trusted by its name."""
    info = object_info(fd)
    kind, _identifier, key_size, value_size, max_entries, flags = struct.unpack_from("=6I", info, 0)
    name = info[24:40].split(b"\0")[0].decode(errors="replace")
    return MapInfo(kind, key_size, value_size, max_entries, flags, name)


def create_map(kind: int, key_size: int, value_size: int, rows: int, *, flags: int = 0, name: str = "") -> int:
    """The descriptor of a new map that nobody else has. Raises OSError: ENOMEM where there is no memory for `rows`."""
    attributes = make_attributes(
        ("=I", 0, kind), ("=I", 4, key_size), ("=I", 8, value_size), ("=I", 12, rows), ("=I", 16, flags)
    )
    put_name(attributes, 28, name)
    try:
        return bpf_call(_MAP_CREATE, attributes)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
    # Before Linux 5.11 maps count as locked memory, of which little is allowed unless somebody asks for more.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return bpf_call(_MAP_CREATE, attributes)


class BpfMap:
    """One map by descriptor. Keys and values are bytes of exactly the map's sizes (per-CPU maps: see `lookup`).

    Lookup, update and delete are single system calls and safe on the event loop; `update_many`, `keys` and `items`
    belong in threads.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.info = map_info(fd)
        self._cpus = _possible_cpus() if self.info.type in _PER_CPU_TYPES else 1
        self._value_bytes = self.info.value_size
        if self._cpus > 1 or self.info.type in _PER_CPU_TYPES:
            self._value_bytes = (self.info.value_size + 7) // 8 * 8 * self._cpus

    def close(self) -> None:
        """Close the descriptor; the map lives on while it is pinned or used by a program."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def update(self, key: bytes, value: bytes, *, flags: int = 0) -> None:
        """Insert or replace. Raises OSError: E2BIG full, EEXIST with flags=1 (BPF_NOEXIST), ENOENT with 2 (EXIST)."""
        self._check(key, value)
        self._element(_MAP_UPDATE, key, value, flags)

    def lookup(self, key: bytes) -> bytes | None:
        """The value, or None. Per-CPU maps: the values of all possible CPUs in a row, each padded to 8 bytes."""
        self._check(key)
        value = ctypes.create_string_buffer(self._value_bytes)
        name = ctypes.create_string_buffer(key, len(key))
        try:
            bpf_call(
                _MAP_LOOKUP,
                make_attributes(("=i", 0, self.fd), ("=Q", 8, _address(name)), ("=Q", 16, _address(value))),
            )
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return value.raw

    def delete(self, key: bytes) -> bool:
        """Remove one entry; False where there was none."""
        self._check(key)
        name = ctypes.create_string_buffer(key, len(key))
        try:
            bpf_call(_MAP_DELETE, make_attributes(("=i", 0, self.fd), ("=Q", 8, _address(name))))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

    def keys(self, *, after: bytes | None = None, count: int | None = None) -> list[bytes]:
        """At most `count` keys that follow `after`, all at this time where neither is given.

        Entries that come and go meanwhile may be missed or doubled; where `after` is gone, it begins anew.
        """
        found: list[bytes] = []
        limit = self.info.max_entries + 1 if count is None else count
        current = None if after is None else ctypes.create_string_buffer(after, self.info.key_size)
        following = ctypes.create_string_buffer(self.info.key_size)
        while len(found) < limit:
            pointer = 0 if current is None else _address(current)
            try:
                bpf_call(
                    _MAP_NEXT_KEY,
                    make_attributes(("=i", 0, self.fd), ("=Q", 8, pointer), ("=Q", 16, _address(following))),
                )
            except OSError as error:
                if error.errno == errno.ENOENT:
                    break
                raise
            found.append(following.raw)
            current = ctypes.create_string_buffer(following.raw, self.info.key_size)
        return found

    def items(self) -> dict[bytes, bytes]:
        """All entries; see `keys`."""
        return {key: value for key in self.keys() if (value := self.lookup(key)) is not None}

    def pieces(self, count: int = 4096) -> Iterator[list[tuple[bytes, bytes]]]:
        """All entries, about `count` at a time, each piece by one system call. Hashes only, on kernels from 5.6 on.

        Entries that come and go meanwhile may be missed or doubled.
        """
        return self._pieces(_LOOKUP_BATCH, count)

    def take_all(self, count: int = 4096) -> Iterator[list[tuple[bytes, bytes]]]:
        """As `pieces`, and each entry is gone from the map in the same step."""
        return self._pieces(_TAKE_BATCH, count)

    def _pieces(self, command: int, count: int) -> Iterator[list[tuple[bytes, bytes]]]:
        size, place = self.info.key_size, ctypes.create_string_buffer(max(8, self.info.key_size))
        keys, values = (ctypes.create_string_buffer(count * width) for width in (size, self._value_bytes))
        is_first = True
        while True:
            start = 0 if is_first else _address(place)
            attributes = self._batch(_address(keys), _address(values), count)
            struct.pack_into("=QQ", attributes, 0, start, _address(place))
            is_last = False
            try:
                bpf_call(command, attributes)
            except OSError as error:
                if error.errno == errno.ENOSPC and count < self.info.max_entries:
                    # One bucket has more than that: nothing was read, and the place is the same.
                    count *= 2
                    keys, values = (ctypes.create_string_buffer(count * width) for width in (size, self._value_bytes))
                    continue
                if error.errno != errno.ENOENT:
                    raise
                is_last = True
            found = int(struct.unpack_from("=I", attributes, 32)[0])
            yield list(
                zip(
                    (key for (key,) in struct.iter_unpack(f"{size}s", keys.raw[: found * size])),
                    (
                        one
                        for (one,) in struct.iter_unpack(
                            f"{self._value_bytes}s", values.raw[: found * self._value_bytes]
                        )
                    ),
                    strict=True,
                )
            )
            if is_last:
                return
            is_first = False

    def update_many(self, items: Sequence[tuple[bytes, bytes]]) -> int:
        """Upsert a batch and return how many were written; fewer than given means the map is full.

        Where the kernel has no batch operation for this map type, the entries go one by one.
        """
        for key, value in items:
            self._check(key, value)
        if not items:
            return 0
        keys = ctypes.create_string_buffer(b"".join(key for key, _ in items), len(items) * self.info.key_size)
        values = ctypes.create_string_buffer(b"".join(value for _, value in items), len(items) * self._value_bytes)
        attributes = self._batch(_address(keys), _address(values), len(items))
        try:
            bpf_call(_UPDATE_BATCH, attributes)
        except OSError as error:
            if error.errno in _NO_BATCH:
                return self._update_singly(items)
            if error.errno not in _FULL:
                raise
        return int(struct.unpack_from("=I", attributes, 32)[0])

    def _update_singly(self, items: Sequence[tuple[bytes, bytes]]) -> int:
        for index, (key, value) in enumerate(items):
            try:
                self.update(key, value)
            except OSError as error:
                if error.errno in _FULL:
                    return index
                raise
        return len(items)

    def _batch(self, keys: int, values: int, count: int) -> bytearray:
        return make_attributes(("=Q", 16, keys), ("=Q", 24, values), ("=I", 32, count), ("=i", 36, self.fd))

    def _element(self, command: int, key: bytes, value: bytes, flags: int) -> None:
        name = ctypes.create_string_buffer(key, len(key))
        content = ctypes.create_string_buffer(value, len(value))
        bpf_call(
            command,
            make_attributes(
                ("=i", 0, self.fd), ("=Q", 8, _address(name)), ("=Q", 16, _address(content)), ("=Q", 24, flags)
            ),
        )

    def _check(self, key: bytes, value: bytes | None = None) -> None:
        if len(key) != self.info.key_size or (value is not None and len(value) != self._value_bytes):
            got = (len(key), None if value is None else len(value))
            raise InvariantError(f"map {self.info.name}: key/value of {got} bytes for {self.info}")


_PER_CPU_TYPES = (5, 6, 10)
"""PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH."""
_NO_BATCH = (errno.EINVAL, 524)
"""EINVAL on kernels without batch operations for the type, ENOTSUPP (524) where the type lacks one."""
_FULL = (errno.E2BIG, errno.ENOSPC)
"""Hashes say E2BIG, LPM tries ENOSPC."""


def is_full(error: OSError) -> bool:
    """The map has no room for a new key."""
    return error.errno in _FULL


def _possible_cpus() -> int:
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
        last = file.read().strip().split(",")[-1].split("-")[-1]
    return int(last) + 1


def open_pinned(path: str) -> BpfMap:
    """Open the map pinned at `path`. Raises FileNotFoundError where nothing is pinned there, OSError for no map."""
    fd = open_object(path)
    try:
        return BpfMap(fd)
    except BaseException:
        # Whoever waits for a map tries again and again: each try would keep a descriptor.
        os.close(fd)
        raise
