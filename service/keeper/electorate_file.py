"""What a lease keeper has on disk of the electorate (leases.md, M1, M7): epoch, members, and the number of this disk.

Written with fsync before anything is acknowledged in its epoch. The disk's number is drawn when the file is first
written: a node that lost its disk has another one, and is a newcomer whatever its name.
"""

import logging
from pathlib import Path
from typing import NamedTuple

import msgspec

from service.host.disk import disk_fault
from service.host.durable_file import replace_durably
from service.lease.electorate import MEMORY_MAX, layout_fault
from service.model.errors import OperatorError
from service.model.keeper_message import ElectorateRecord
from service.model.lease import NO_ELECTORATE, Electorate

_log = logging.getLogger(__name__)

ELECTORATE = "electorate"


class StoredElectorate(NamedTuple):
    """The electorate in force on this node."""

    memory: int
    """The number of this disk; the electorate may mean it beside the name (M7)."""
    electorate: Electorate
    settled: bool
    """What was promised before its epoch is known here (M3)."""


class _Document(msgspec.Struct):
    memory: str
    electorate: ElectorateRecord
    settled: bool


class ElectorateFile:
    """The record in the state folder."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / ELECTORATE

    def open(self, *, memory: int) -> StoredElectorate:
        """Read it, or begin one under this memory, which counts only once it is on disk (M7).

        Raises TransientError where the disk does not let it now; OperatorError where it is damaged, or never will be.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            data = self._path.read_bytes()
        except FileNotFoundError:
            return self._begin(StoredElectorate(memory, NO_ELECTORATE, True))
        except OSError as error:
            raise disk_fault("state_dir", "read", self._path, error) from error
        try:
            document = msgspec.json.decode(data, type=_Document)
            stored = StoredElectorate(int(document.memory, 16), document.electorate.electorate, document.settled)
            if not 1 <= stored.memory <= MEMORY_MAX:
                raise ValueError("memory is no number of 64 bits above 0")
        except (msgspec.MsgspecError, ValueError) as error:
            raise OperatorError(
                f"state_dir: {self._path} is damaged ({error}); remove it, and this node is a new elector"
            ) from error
        fault = layout_fault(stored.electorate) if stored.electorate.epoch else ""
        if fault:
            # An earlier version took it. Nobody can have been answered in such an epoch, so no promise hangs on it.
            _log.error("state_dir: %s names an electorate that cannot be (%s): begun anew", self._path, fault)
            return stored._replace(electorate=NO_ELECTORATE, settled=True)
        return stored

    def open_or_configure(self, configured: Electorate, *, memory: int) -> StoredElectorate:
        """What this node went by before; where it never knew one, the configured, which is written then (M1).

        Raises as `open` does; where the configured one cannot be written the record is as it was.
        """
        stored = self.open(memory=memory)
        if stored.electorate.epoch == 0 and configured.epoch:
            return self._begin(stored._replace(electorate=configured))
        return stored

    def _begin(self, stored: StoredElectorate) -> StoredElectorate:
        try:
            self.write(stored)
        except OSError as error:
            raise disk_fault("state_dir", "write", self._path, error) from error
        return stored

    def write(self, stored: StoredElectorate) -> None:
        """Replace the record; durable when this returns. Raises OSError with the old record intact."""
        record = ElectorateRecord.of(stored.electorate)
        replace_durably(
            self._path, msgspec.json.encode(_Document(f"{stored.memory:016x}", record, stored.settled)) + b"\n"
        )
