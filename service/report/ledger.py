"""Which status is due: what this leader wrote, what differs from it, and what is gone for good. Pure.

A leader writes everything once, whatever its predecessor wrote, and afterwards only what has changed.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from service.model.objects import Kind, ObjectKey

Status = dict[str, Any]

NODE_GONE_NS = 5_000_000_000
"""How long a node must have been removed before its object goes: a Node object may be made anew at once."""
UNHEARD_NS = 60_000_000_000
"""How long a new leader must have missed a node that an earlier one reported on: it may not have heard of it yet."""


class StatusLedger:
    """What was written; `gone` must be asked in every round, since it counts how long a node has been missing."""

    def __init__(self) -> None:
        self._written: dict[ObjectKey, Status] = {}
        self._missing_ns: dict[ObjectKey, int] = {}
        """Since when each was seen to be missing."""

    def changed(self, statuses: Mapping[ObjectKey, Status]) -> list[ObjectKey]:
        """Whose status is not the one that was written, in the order of `statuses`."""
        return [key for key, status in statuses.items() if self._written.get(key) != status]

    def gone(
        self,
        statuses: Mapping[ObjectKey, Status],
        recorded: Iterable[ObjectKey],
        is_removed: Callable[[ObjectKey], bool],
        *,
        now_ns: int,
    ) -> list[ObjectKey]:
        """Whose status is to be deleted, once it has been missing for long enough (rule V6).

        `recorded` is what an earlier leader may have left behind, of which this one has written nothing; `is_removed`
        says of a node whether the cluster has none of its name.
        """
        known = dict.fromkeys((*self._written, *recorded))
        self._missing_ns = {key: self._missing_ns.get(key, now_ns) for key in known if key not in statuses}
        return [
            key
            for key, since_ns in self._missing_ns.items()
            if now_ns - since_ns > self._patience_ns(key, is_removed=is_removed)
        ]

    def _patience_ns(self, key: ObjectKey, *, is_removed: Callable[[ObjectKey], bool]) -> int:
        if key.kind is Kind.NODE:
            return NODE_GONE_NS if key in self._written or is_removed(key) else UNHEARD_NS
        # Objects have all been read; one of an earlier leader's is given the time of a file that is being replaced.
        return -1 if key in self._written else NODE_GONE_NS

    def wrote(self, key: ObjectKey, status: Status) -> None:
        """Its owner can read this now."""
        self._written[key] = status

    def deleted(self, key: ObjectKey) -> None:
        """Nothing is left of it. A new object of that name must not inherit the old one's age."""
        self._written.pop(key, None)

    def rewrite(self) -> None:
        """Another one has written meanwhile: everything is due, and what is gone is still ours to delete (V4)."""
        self._written = {key: {} for key in self._written}

    def forget(self) -> None:
        """Another one writes from now on."""
        self._written.clear()
        self._missing_ns.clear()
