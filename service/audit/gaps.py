"""What the gap records of one outbox say is gone. Pure.

Two causes, which say it differently. Records lost in a full queue lie within a range and are counted, since others of
the range were written. Segments that the size cap removed are gone whole: every sequence of their ranges.
"""

from typing import NamedTuple

from service.model.audit_record import AuditRecord


class _Range(NamedTuple):
    """Sequences of one boot."""

    boot_id: str
    first: int
    last: int

    def has(self, boot_id: str, sequence: int) -> bool:
        return self.boot_id == boot_id and self.first <= sequence <= self.last


class Gaps:
    """Collects the gap records of one outbox, over all its boots."""

    def __init__(self) -> None:
        self._lost: list[tuple[_Range, int]] = []
        self._removed: list[_Range] = []

    def note(self, record: AuditRecord) -> None:
        """Take one gap record. Raises ValueError where it does not say what is gone; what it did say is noted."""
        detail = record.detail
        try:
            if "firstSequence" in detail:
                first, last = int(detail["firstSequence"]), int(detail["lastSequence"])
                self._lost.append((_Range(record.boot_id, first, last), int(detail["records"])))
            for one in filter(None, detail.get("ranges", "").split(",")):
                boot_id, _, ends = one.rpartition(":")
                begin, _, end = ends.partition("-")
                self._removed.append(_Range(boot_id, int(begin), int(end)))
        except KeyError as error:
            raise ValueError(f"no {error}") from error

    @property
    def has_removed(self) -> bool:
        """Whether the size cap removed anything, of whatever boot."""
        return bool(self._removed)

    def lost_count(self, boot_id: str) -> int:
        """How many records of a boot were lost in a full queue."""
        return sum(count for one, count in self._lost if one.boot_id == boot_id)

    def may_be_lost(self, boot_id: str, sequence: int) -> bool:
        """Whether it lies where records were lost in a full queue; of those only `lost_count` are."""
        return any(one.has(boot_id, sequence) for one, _ in self._lost)

    def is_removed(self, boot_id: str, sequence: int) -> bool:
        """Whether a gap record says that the size cap removed it."""
        return any(one.has(boot_id, sequence) for one in self._removed)

    def removed_up_to(self, boot_id: str) -> int:
        """The highest sequence of a boot that the size cap removed; 0 for none. The oldest go first."""
        return max((one.last for one in self._removed if one.boot_id == boot_id), default=0)
