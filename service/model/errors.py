"""The four kinds of failure, by who has to act on them."""

from dataclasses import dataclass


class OperatorError(Exception):
    """Bad input or configuration. The message names the field and the fix; no state has changed."""


class PeerError(Exception):
    """A remote sent something malformed or unauthentic. Drop it and count it; no state has changed."""


class TransientError(Exception):
    """An outside part did not answer or refused for now. Retry with back-off."""


class InvariantError(Exception):
    """Our own bug. The process must end rather than go on."""


@dataclass(frozen=True, slots=True)
class ObjectError:
    """Why one object (or one field of it) was refused. The last good version of the object stays in force."""

    origin: str
    """Where it came from: a file path, or `kubernetes`."""
    kind: str
    """`EgressNATPolicy`, ...; empty where the file could not be read as an object at all."""
    name: str
    """`namespace/name`, or `name` for cluster-scoped objects; may be empty."""
    field: str
    """Path of the field, such as `spec.destinationCIDRs[1]`; empty for the whole object."""
    message: str
    """What is wrong and what to write instead."""

    def __str__(self) -> str:
        what = " ".join(part for part in (self.kind, self.name) if part)
        return ": ".join(part for part in (self.origin, what, self.field, self.message) if part)
