"""A disk that refuses, for tests of those who have to go on all the same."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class RefusingDisk:
    """Nothing can be made under the folder `spoiled`: it gives the error `number`. What is there is used as before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spoiled: Path | None = None
        self.number = 0
        for owner, name in ((Path, "write_bytes"), (Path, "mkdir"), (os, "open")):
            self._spoil(monkeypatch, owner, name)

    def spoil(self, folder: str, number: int) -> None:
        """Refuse from now on."""
        self.spoiled, self.number = Path(folder), number

    def mend(self) -> None:
        """Let everything be done again."""
        self.spoiled = None

    def _spoil(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            if self.spoiled is not None and Path(path).is_relative_to(self.spoiled) and not Path(path).exists():
                raise OSError(self.number, os.strerror(self.number), str(path))
            return original(path, *arguments, **options)

        monkeypatch.setattr(owner, name, call)


class HangingDisk:
    """No fsync returns before `answer`. The loop's thread, in which it is made, is only told of, and goes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held_up: list[str] = []
        """Files for which the loop itself would wait."""
        self.waiting: list[str] = []
        """Files for which threads do, or did."""
        self._loop_thread = threading.get_ident()
        self._answered = threading.Event()
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._hanging(getattr(os, name)))

    def _hanging(self, sync: Callable[[int], None]) -> Callable[[int], None]:
        def call(fd: int) -> None:
            path = os.readlink(f"/proc/self/fd/{fd}")
            if threading.get_ident() == self._loop_thread:
                self.held_up.append(path)
            else:
                self.waiting.append(path)
                self._answered.wait(30)
            sync(fd)

        return call

    def answer(self) -> None:
        """Let all that waits, and what follows, be done."""
        self._answered.set()

    def is_waited_for_by(self, *names: str) -> bool:
        """Threads wait, or did, for a file or a folder of each of these names."""
        return all(any(name in path for path in self.waiting) for name in names)
