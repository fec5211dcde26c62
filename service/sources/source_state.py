"""Whether a source can still be followed, for status."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SourceState:
    """What an operator should know of the objects in force."""

    trouble: str = ""
    """Why the objects may be out of date; empty while they are followed."""
    restored_from: str = ""
    """Time (RFC 3339) of the objects on disk that are in force until the source answers; empty where none are."""
