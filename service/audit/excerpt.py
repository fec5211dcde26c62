"""The newest records of this node's outboxes, for somebody who asks over the network: a bounded answer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.audit.segment import Frame, scan
from service.audit.segment_reader import segment_numbers, segment_path

BYTES_MAX = 2 << 20
"""Of one answer, shared by the outboxes; some five thousand records. Slow readers may have one in memory each."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Records as they were written, those of one outbox in its order."""

    payloads: tuple[bytes, ...]
    is_whole: bool
    """No older records were left out, and every outbox could be read."""


def newest_records(folders: Sequence[Path], *, bytes_max: int = BYTES_MAX) -> Excerpt:
    """Read the outboxes from their ends. Blocking; an outbox that is not there has no records."""
    payloads: list[bytes] = []
    is_whole = True
    for folder in folders:
        taken: list[bytes] = []
        left = bytes_max // len(folders)
        try:
            for payload in _backwards(folder):
                left -= len(payload)
                if left < 0:
                    is_whole = False
                    break
                taken.append(payload)
        except OSError:
            is_whole = False
        payloads += reversed(taken)
    return Excerpt(tuple(payloads), is_whole)


def _backwards(folder: Path) -> Iterator[bytes]:
    if not folder.is_dir():
        return
    for number in reversed(segment_numbers(folder)):
        found = scan(segment_path(folder, number).read_bytes())
        yield from (item.payload for item in reversed(found.items) if isinstance(item, Frame))
