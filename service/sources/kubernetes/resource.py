"""What a reflector follows and what it tells, as values."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Item(Generic[V]):
    """One object of the resource."""

    identity: str
    """`namespace/name`, or `name`."""
    value: V
    """What we keep of it. A change is told where this differs from the last."""


@dataclass(frozen=True, slots=True)
class Resource(Generic[V]):
    """One kind of object, all of it or what the selector leaves of it."""

    path: str
    """Such as /api/v1/pods."""
    decode: Callable[[msgspec.Raw], Item[V]]
    """Raises msgspec.MsgspecError or ValueError where it is no such object at all."""
    field_selector: str = ""
    is_optional: bool = False
    """The cluster may not know such a kind at all, or not let us read it; then there are none of it for us."""


@dataclass(frozen=True, slots=True)
class Difference(Generic[V]):
    """What changed. Upserts come first, so that an update has no gap."""

    upserts: tuple[V, ...] = ()
    deletes: tuple[str, ...] = ()
    """Identities."""
    is_listed: bool = False
    """All that exists has now been told."""
