"""Maps whose rows verdicts are made of: what is written there begins a new generation, and no verdict outlives it (F5).

Programs keep a verdict for half a second and under the generation that they read before the rows. So it is the write
itself that raises it, whoever writes, and after it: what was read in between is kept under the former one.
"""

import struct
import threading
from collections.abc import Sequence

from service.datapath.bpf_map import BpfMap
from service.datapath.layout import MapName

JUDGED = frozenset(
    (
        MapName.CONFIG,
        MapName.SELECTED,
        MapName.RULES,
        MapName.CLUSTER,
        MapName.LIMITS,
        MapName.DIRECT_DEVICES,
        MapName.WAYS,
        MapName.WAY_HINTS,
        MapName.FLOATING_IPS,
        MapName.MEMBERS,
        MapName.TUNNEL_MEMBERS,
        MapName.BLOCKS,
        MapName.TRUSTS,
        MapName.UPLINK_ADDRESSES,
    )
)
"""Not the lease: programs ask for it with every packet. Not flows, which are asked for too."""
_AGENT = struct.pack("=I", 0)
"""Key of the agent's counter; the other one is the programs'."""


class Generation:
    """The agent's counter, which nobody else writes. Safe from any thread."""

    def __init__(self, target: BpfMap) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._number = int.from_bytes(target.lookup(_AGENT) or b"", "little")

    def begin(self) -> None:
        """No verdict that was made before is in force when it returns. Raises OSError as BpfMap does."""
        with self._lock:
            self._number += 1
            self._target.update(_AGENT, struct.pack("=Q", self._number))


class JudgedMap(BpfMap):
    """A map that begins a new generation with every write, also with one that failed: part of it may be done."""

    def __init__(self, fd: int, generation: Generation) -> None:
        super().__init__(fd)
        self._generation = generation

    def update(self, key: bytes, value: bytes, *, flags: int = 0) -> None:
        """As of any map."""
        try:
            super().update(key, value, flags=flags)
        finally:
            self._generation.begin()

    def delete(self, key: bytes) -> bool:
        """As of any map."""
        try:
            return super().delete(key)
        finally:
            self._generation.begin()

    def update_many(self, items: Sequence[tuple[bytes, bytes]]) -> int:
        """As of any map."""
        try:
            return super().update_many(items)
        finally:
            self._generation.begin()
