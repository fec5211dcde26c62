"""An Event for the owner of an object, before anybody has decided whether it is due."""

from dataclasses import dataclass

from service.model.objects import ObjectKey


@dataclass(frozen=True, slots=True)
class ObjectEvent:
    """One Event about one object."""

    regarding: ObjectKey
    reason: str
    """One word in CamelCase, such as UnknownEgressIP."""
    note: str
    """For people; a change of it makes it another Event."""
    action: str
    """What the controller did: Judge, Assign, Move."""
    is_warning: bool
    subject: str = ""
    """Tells waiting Events of one reason apart, such as the floating IP."""
    uid: str = ""
    """Of an object that the source does not deliver; without it `kubectl describe` does not show the Event."""
