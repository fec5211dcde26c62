"""A disk that refuses, for tests of those who have to go on all the same."""

import os
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
