"""Files that must outlive the machine: the new content is on disk before it takes the old one's name."""

import os
from pathlib import Path


def replace_durably(path: Path, data: bytes) -> None:
    """Durable when this returns, which takes milliseconds or more: for a worker thread.

    Raises OSError with the old content intact.
    """
    temporary = path.with_suffix(".new")
    temporary.write_bytes(data)
    _fsync(temporary, os.O_RDONLY)
    temporary.rename(path)
    _fsync(path.parent, os.O_RDONLY | os.O_DIRECTORY)


def _fsync(path: Path, flags: int) -> None:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
