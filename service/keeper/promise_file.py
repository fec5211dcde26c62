"""The files of an elector: promises in shared memory; highest tokens and the longest lease on disk (leases.md, P2, K1).

The promise file is written in place before each answer: it must outlive the process, not the machine. A write that a
kill cuts short leaves a record whose checksum fails, which counts as missing and costs the silence of P2, not safety.
Its pages are allotted before they are needed, and it is written by calls that can fail, never through a mapping: a full
`run_dir` is an error of one write then, with the old record whole, and not a signal that ends the process.
The token file must outlive the machine: a new file, fsynced, takes the old one's name.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from service.host.disk import disk_fault
from service.host.durable_file import replace_durably
from service.model.errors import OperatorError
from service.model.lease import LONG_LEASE_NS

PROMISES = "promises"
TOKENS = "leader-term"
LONGEST = "longest-lease"
_RECORD_BYTES_MAX = 16 << 20
ALLOTTED_BYTES = 1 << 20
"""Room for more than 17,000 addresses, taken when there is some: a `run_dir` that fills up later costs no vote."""


class PromiseFile:
    """The keeper's promise file and the lock that keeps a second keeper of this node away. A context manager."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / PROMISES
        self._fd = -1
        self._allotted = 0
        """Bytes that can be written without asking for more."""

    def __enter__(self) -> Self:
        """Open and lock. Raises OperatorError where another keeper runs, or the path can never be right; TransientError
        where the disk does not let it now.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise disk_fault("run_dir", "open", self._path, error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            raise OperatorError(f"run_dir: another keeper holds {self._path}; stop it first") from error
        self._fd = fd
        with suppress(OSError):
            # Where there is no room now, the first write that needs it asks again.
            self._allot(ALLOTTED_BYTES)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)

    def read(self) -> bytes:
        """The record as found, and what lies behind it; nothing or zeros where there never was one.

        Raises TransientError where it cannot be read: what was promised is not known then.
        """
        try:
            return os.pread(self._fd, _RECORD_BYTES_MAX, 0)
        except OSError as error:
            raise disk_fault("run_dir", "read", self._path, error) from error

    def write(self, data: bytes) -> None:
        """Replace the record. It is in the page cache, so safe from the death of the process, when this returns.

        Raises OSError, with the old record whole, where there is no room for it.
        """
        self._allot(len(data))
        written = 0
        while written < len(data):
            written += os.pwrite(self._fd, data[written:], written)

    def _allot(self, size: int) -> None:
        if size > self._allotted:
            os.posix_fallocate(self._fd, 0, size)
            self._allotted = size


class TokenFile:
    """Highest tokens on disk."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / TOKENS

    def read(self) -> bytes | None:
        """None where there is no file. Raises TransientError where it cannot be read now, OperatorError where never."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise disk_fault("state_dir", "read", self._path, error) from error

    def write(self, data: bytes) -> None:
        """Replace the record; durable when this returns, which takes milliseconds or more: for a worker thread.

        Raises OSError with the old record intact.
        """
        replace_durably(self._path, data)


class LongestLease:
    """How long a lease may last that this elector promised: what it has to be silent for where it forgot them (P2).

    On disk, in milliseconds. As configured now is not enough: a longer one from before it was lowered may be alive.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / LONGEST

    def open(self, lease_ns_max: int, *, has_granted: bool) -> int:
        """Nanoseconds; at least `lease_ns_max`, and durable when this returns.

        `has_granted`: this disk has known tokens before, so where it has no such record anything may be alive. Raises
        TransientError where it cannot be read or written now, OperatorError where never.
        """
        try:
            found_ns = self._read(LONG_LEASE_NS if has_granted else 0)
            longest_ns = max(found_ns, lease_ns_max)
            if longest_ns != found_ns or not self._path.exists():
                self.write(longest_ns)
        except OSError as error:
            raise disk_fault("state_dir", "read or write", self._path, error) from error
        return longest_ns

    def _read(self, unknown_ns: int) -> int:
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return unknown_ns
        is_sound = text.strip().isdigit() and len(text) < len(str(LONG_LEASE_NS))
        # What is damaged may have said anything.
        return min(int(text) * 1_000_000, LONG_LEASE_NS) if is_sound else LONG_LEASE_NS

    def write(self, longest_ns: int) -> None:
        """Replace the record; durable when this returns: for a worker thread.

        Raises OSError with the old one intact.
        """
        replace_durably(self._path, b"%d\n" % -(-longest_ns // 1_000_000))
