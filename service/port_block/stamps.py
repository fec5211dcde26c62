"""The stamps of one leader's term, each newer than the one before."""

from service.model.errors import InvariantError
from service.model.lease import VERSION_MAX, Stamp


class Stamps:
    """Of one term."""

    def __init__(self, term: int) -> None:
        self._term = term
        self._version = 0

    def next(self) -> Stamp:
        """A stamp that was never given out."""
        self._version += 1
        if self._version > VERSION_MAX:
            raise InvariantError("a term has no more versions")
        return Stamp(self._term, self._version)
