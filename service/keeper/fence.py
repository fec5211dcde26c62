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

    trouble: str
    """Why there is no fence, or why not all of it could be made anew; empty where all is well."""

    def refresh(self) -> bool:
        """Find the fence, which the agent makes; False while there is none. True also after it was made anew."""

    def write(self, address: IPv4Address, token: Token, deadline_ns: int) -> None:
        """Forward until the deadline (CLOCK_BOOTTIME); 0 closes. In force when it returns.

        Raises OSError where it cannot be written: an address that was not open then is not.
        """

    def entries(self) -> Mapping[IPv4Address, FenceEntry]:
        """What a former keeper left, also what is over by now. From then on only what is written here is in force."""


class PinnedFence:
    """The map `lease_deadlines` under the datapath's pins. Closed is what has no row: the map is as large as what is
    open, however many addresses come and go."""

    def __init__(self, bpf_dir: str) -> None:
        self.trouble = ""
        self._path = str(pin_folder(bpf_dir) / MapName.LEASE_DEADLINES)
        self._map: BpfMap | None = None
        self._former: BpfMap | None = None
        """The map before: programs that still run may go by it, so what is closed is closed there, too."""
        self._inode: tuple[int, int] | None = None
        self._refused: tuple[int, int] | None = None
        """A pin that is no map of ours; looked at again when it is another."""
        self._written: dict[IPv4Address, tuple[Token, int]] = {}
        """All that may be open: as written last, or as a former keeper left it."""
        self._has_adopted = False

    def refresh(self) -> bool:
        """Cheap enough for every heartbeat: one stat."""
        try:
            status = os.stat(self._path)
        except OSError as error:
            # Not pinned (any more). Programs that still run use the map we have, so what is held can still be closed.
            self._inode = self._refused = None
            self._tell(f"the fence: nothing is pinned at {self._path} ({error.strerror})")
            return False
        inode = (status.st_dev, status.st_ino)
        if inode == self._refused:
            return False
        if inode != self._inode:
            self._open(inode)
        return self._inode is not None

    def _open(self, inode: tuple[int, int]) -> None:
        # Until it is found to be ours, there is no fence at this place.
        self._inode = None
        try:
            opened = open_pinned(self._path)
        except OSError as error:
            self._tell(f"the fence: {self._path} cannot be opened: {error.strerror}")
            return
        if not MAP_SHAPES[MapName.LEASE_DEADLINES].is_of(opened.info):
            opened.close()
            self._refused = inode
            self._tell(f"the fence: {self._path} is not the map of this version")
            return
        if self._former is not None:
            self._former.close()
        self._former, self._map, self._refused = self._map, opened, None
        self._tell("")
        if self._former is not None or self._has_adopted:
            self._make_anew(opened)
        self._inode = inode

    def _make_anew(self, opened: BpfMap) -> None:
        """The datapath was made anew: it knows nothing of what is held, or what others held before."""
        for key in opened.items():
            if IPv4Address(key) not in self._written:
                opened.delete(key)
        failed = 0
        for address, (token, deadline_ns) in self._written.items():
            try:
                opened.update(address.packed, lease_value(deadline_ns, token.packed()))
            except OSError:
                # Its next extension finds out, and gives it up.
                failed += 1
        if failed:
            self._tell(f"the fence: {failed} addresses that are held do not fit the map that was made anew")

    def _tell(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            _log.warning("%s", trouble)
        self.trouble = trouble

    def write(self, address: IPv4Address, token: Token, deadline_ns: int) -> None:
        """Raises OSError where the map is full; nothing is opened then, neither here nor in a datapath made anew."""
        if not deadline_ns:
            self._close(address)
            return
        if self._map is not None:
            self._map.update(address.packed, lease_value(deadline_ns, token.packed()))
        self._written[address] = (token, deadline_ns)

    def _close(self, address: IPv4Address) -> None:
        # Before the map is asked: what is to be closed is not opened again, whatever becomes of this write.
        self._written.pop(address, None)
        for known in (self._map, self._former):
            if known is not None:
                known.delete(address.packed)

    def entries(self) -> Mapping[IPv4Address, FenceEntry]:
        """All entries of the map that is open; none while there is no map."""
        self._has_adopted = True
        if self._map is None:
            return {}
        found = {IPv4Address(key): _entry(value) for key, value in self._map.items().items()}
        self._written = {address: (entry.token, entry.deadline_ns) for address, entry in found.items()}
        return found

    def close(self) -> None:
        """Let go of the map. What is in it stays in force until its deadlines."""
        for known in (self._map, self._former):
            if known is not None:
                known.close()
        self._map = self._former = None


def _entry(value: bytes) -> FenceEntry:
    deadline_ns, packed = struct.unpack("=QQ", value)
    return FenceEntry(Token(packed >> 40, packed >> 16 & 0xFFFFFF, packed & 0xFFFF), deadline_ns)
