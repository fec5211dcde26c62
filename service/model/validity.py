"""Until when the statuses of all objects are true: one value, kept beside the objects, for all of them (rule V1)."""

from dataclasses import dataclass
from typing import Any

from service.model.objects import ObjectKey

LEADER_SILENT = "LeaderSilent"
"""Somebody leads, and has not reported."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What is lacking for anybody to know what is true; the same facts give the same words."""

    reason: str
    """One word in CamelCase, for conditions."""
    message: str
    """One sentence for people."""


@dataclass(frozen=True, slots=True)
class Validity:
    """Who answers for the statuses: a leader, or a controller that says that they are unknown."""

    speaker: str
    """Name of the controller."""
    term: int
    """Of the last leader that answered for them."""
    confirmed: str
    """When a leader did so last, RFC 3339 in UTC; empty where none ever did."""
    loss: Loss | None = None
    """Why they are unknown; None while a leader answers for them."""
    version: str = ""
    """The source's own: another one each time it is renewed."""


@dataclass(frozen=True, slots=True)
class WrittenStatus:
    """A status as its owner reads it; empty where nobody has written one."""

    key: ObjectKey
    status: dict[str, Any]
    version: str
    """The source's own: another one each time the object changes."""
