"""The objects an agent knew last, on its disk: what it goes on from where the API server is away when it starts.

Without them an agent that is restarted meanwhile would know no policy, and its keeper would give up its addresses.
"""

import asyncio
import logging
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from time import time_ns
from typing import Any

import msgspec

from service.host.durable_file import replace_durably
from service.model.objects import (
    ApiServers,
    Change,
    ClusterNode,
    Delete,
    EgressPolicy,
    Namespace,
    NetworkGateway,
    Object,
    ObjectKey,
    Pod,
    ServiceRange,
    Synced,
    Upsert,
)

_log = logging.getLogger(__name__)

FILE_NAME = "objects.cache"
_HEADER = struct.Struct("<4sHI")
_MAGIC, _VERSION = b"EGWO", 1
"""A changed form of the objects needs a new version: an old file is then ignored."""
_BYTES_MAX = 16 << 20
_COALESCE_S = 1.0
_RETRY_S = 30.0


class _Document(msgspec.Struct):
    """One list for each kind: what is in it tells the type."""

    owner: str
    written_ns: int
    gateways: list[NetworkGateway]
    policies: list[EgressPolicy]
    namespaces: list[Namespace]
    pods: list[Pod]
    nodes: list[ClusterNode]
    ranges: list[ServiceRange]
    servers: list[ApiServers] = []
    """Absent in files of releases that did not ask for them."""


_KINDS: dict[str, type[Object]] = {
    "gateways": NetworkGateway,
    "policies": EgressPolicy,
    "namespaces": Namespace,
    "pods": Pod,
    "nodes": ClusterNode,
    "ranges": ServiceRange,
    "servers": ApiServers,
}


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a cache file holds."""

    objects: tuple[Object, ...]
    written_ns: int
    """Unix time at which they were all that was known."""


class ObjectCache:
    """One file of one agent. `owner` names cluster and node: another's objects are not taken."""

    def __init__(self, path: Path, *, owner: str, wall_clock: Callable[[], int] = time_ns) -> None:
        self._wall_clock = wall_clock
        self._path = path
        self._owner = owner
        self._objects: dict[ObjectKey, Object] = {}
        self._is_complete = False
        self._changed = asyncio.Event()
        self._trouble = ""

    def load(self) -> Remembered | None:
        """What was written last; None, with a line in the log, where nothing usable is there. For a worker thread."""
        try:
            return decode(self._path.read_bytes(), owner=self._owner)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _log.warning("%s: the objects known last cannot be used: %s", self._path, error)
            return None

    def note(self, changes: Iterable[Change], *, is_news: bool = True) -> None:
        """Take what the agent is told. Not `is_news`: it comes from here, and what is on disk stays of its day."""
        for change in changes:
            if isinstance(change, Upsert):
                self._objects[change.object.key] = change.object
            elif isinstance(change, Delete):
                self._objects.pop(change.key, None)
            elif isinstance(change, Synced):
                self._is_complete = True
        # Half of what exists must not take the place of all that did.
        if is_news and self._is_complete:
            self._changed.set()

    async def run(self) -> None:
        """Write what changed, all changes of a second at once, until cancelled. Trouble with the disk is only said."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(_COALESCE_S)
            self._changed.clear()
            try:
                await asyncio.to_thread(self._write, tuple(self._objects.values()))
            except OSError as error:
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    _log.warning("%s: cannot be written: %s", self._path, error)
                await asyncio.sleep(_RETRY_S)
                self._changed.set()

    def _write(self, objects: tuple[Object, ...]) -> None:
        data = encode(objects, owner=self._owner, written_ns=self._wall_clock())
        if len(data) > _BYTES_MAX:
            # An older file would be taken for the present.
            self._path.unlink(missing_ok=True)
            raise OSError(f"{len(data)} bytes of objects are more than the {_BYTES_MAX} that are kept")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replace_durably(self._path, data)
        self._trouble = ""


def encode(objects: Iterable[Object], *, owner: str, written_ns: int) -> bytes:
    """Return a whole file: its version and checksum, then the objects. `decode` gives them back kind by kind."""
    lists: dict[str, list[Any]] = {field: [] for field in _KINDS}
    fields = {kind: field for field, kind in _KINDS.items()}
    for item in objects:
        lists[fields[type(item)]].append(item)
    body = msgspec.msgpack.encode(_Document(owner, written_ns, **lists), enc_hook=_plain)
    return _HEADER.pack(_MAGIC, _VERSION, zlib.crc32(body)) + body


def decode(data: bytes, *, owner: str) -> Remembered:
    """Raises ValueError saying what is wrong."""
    if len(data) < _HEADER.size or len(data) > _BYTES_MAX:
        raise ValueError(f"{len(data)} bytes make no such file")
    magic, version, checksum = _HEADER.unpack_from(data)
    body = data[_HEADER.size :]
    if magic != _MAGIC or version != _VERSION:
        raise ValueError("it is of another version")
    if zlib.crc32(body) != checksum:
        raise ValueError("it is damaged")
    try:
        document = msgspec.msgpack.decode(body, type=_Document, dec_hook=_typed)
    except msgspec.MsgspecError as error:
        raise ValueError(f"it is malformed: {error}") from error
    if document.owner != owner:
        raise ValueError(f"it is of {document.owner}, not of {owner}")
    objects = tuple(item for field in _KINDS for item in getattr(document, field))
    return Remembered(objects, document.written_ns)


def _plain(value: Any) -> Any:
    if isinstance(value, IPv4Address | IPv4Network):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} is not kept")


def _typed(kind: type, value: Any) -> Any:
    if kind in (IPv4Address, IPv4Network):
        return kind(value)
    raise NotImplementedError(f"{kind.__name__} is not kept")
