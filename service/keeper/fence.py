"""The kernel's fence as the keeper writes it: one deadline per floating IP in a pinned BPF map.

The datapath compares the deadline with CLOCK_BOOTTIME on every packet, so a fence closes by itself, whatever becomes of
the processes.
"""

import logging
import os
import struct
from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import NamedTuple, Protocol

from service.datapath.bpf_map import BpfMap, open_pinned
from service.datapath.layout import MAP_SHAPES, MapName, lease_value, pin_folder
from service.model.lease import Token

_log = logging.getLogger(__name__)


class FenceEntry(NamedTuple):
    """What the map says of one floating IP. The token is as packed in the map."""

    token: Token
    deadline_ns: int


class Fence(Protocol):
    """What the keeper needs of the kernel."""

    def refresh(self) -> bool:
        """Find the fence, which the agent makes; False while there is none. True also after it was made anew."""

    def write(self, address: IPv4Address, token: Token, deadline_ns: int) -> None:
        """Forward until the deadline (CLOCK_BOOTTIME); 0 closes. In force when it returns."""

    def entries(self) -> Mapping[IPv4Address, FenceEntry]:
        """All entries, also those whose deadline has passed."""


class PinnedFence:
    """The map `lease_deadlines` under the datapath's pins."""

    def __init__(self, bpf_dir: str) -> None:
        self._path = str(pin_folder(bpf_dir) / MapName.LEASE_DEADLINES)
        self._map: BpfMap | None = None
        self._inode: tuple[int, int] | None = None
        self._written: dict[IPv4Address, tuple[Token, int]] = {}

    def refresh(self) -> bool:
        """Cheap enough for every heartbeat: one stat."""
        try:
            status = os.stat(self._path)
        except OSError:
            # Not pinned (any more). Programs that still run use the map we have, so what is held can still be closed.
            self._inode = None
            return False
        inode = (status.st_dev, status.st_ino)
        if inode != self._inode:
            self._open(inode)
        return self._map is not None

    def _open(self, inode: tuple[int, int]) -> None:
        try:
            opened = open_pinned(self._path)
        except FileNotFoundError:
            return
        except OSError as error:
            _log.warning("the fence at %s cannot be opened: %s", self._path, error)
            return
        shape = MAP_SHAPES[MapName.LEASE_DEADLINES]
        if (opened.info.type, opened.info.key_size, opened.info.value_size) != (
            shape.type,
            shape.key_size,
            shape.value_size,
        ):
            opened.close()
            _log.warning("%s is not the map of this version", self._path)
            return
        previous, self._map, self._inode = self._map, opened, inode
        if previous is not None:
            # The datapath was made anew: it knows nothing of what is held.
            for address, (token, deadline_ns) in self._written.items():
                self.write(address, token, deadline_ns)
            previous.close()

    def write(self, address: IPv4Address, token: Token, deadline_ns: int) -> None:
        """Raises OSError where the map is full; nothing is opened then, neither here nor in a datapath made anew."""
        if not deadline_ns:
            # Before the map is asked: what is to be closed is not opened again, whatever becomes of this write.
            self._written.pop(address, None)
        if self._map is not None:
            self._map.update(address.packed, lease_value(deadline_ns, token.packed()))
        if deadline_ns:
            self._written[address] = (token, deadline_ns)

    def entries(self) -> Mapping[IPv4Address, FenceEntry]:
        """All entries of the map that is open; none while there is no map."""
        if self._map is None:
            return {}
        return {IPv4Address(key): _entry(value) for key, value in self._map.items().items()}

    def close(self) -> None:
        """Let go of the map. What is in it stays in force until its deadlines."""
        if self._map is not None:
            self._map.close()
            self._map = None


def _entry(value: bytes) -> FenceEntry:
    deadline_ns, packed = struct.unpack("=QQ", value)
    return FenceEntry(Token(packed >> 40, packed >> 16 & 0xFFFFFF, packed & 0xFFFF), deadline_ns)
