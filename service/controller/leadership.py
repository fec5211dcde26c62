"""Whether this process leads, and in which term: the lease `leader`, as the lease machine says that it comes and goes.

That the lease lives on is said with each renewal, and is no news. A new term may be granted to the process that led the
last one: everything that belongs to a term begins anew all the same.
"""

from collections.abc import Callable

from service.lease.holder import CloseFence, OpenFence
from service.model.lease import Token


class Leadership:
    """`began` and `ended` are called with `term` set: what they record belongs to that term."""

    def __init__(self, *, began: Callable[[Token], None], ended: Callable[[Token, str], None]) -> None:
        self.term: int | None = None
        """None while this process does not lead."""
        self._began = began
        self._ended = ended

    @property
    def is_held(self) -> bool:
        """This process leads."""
        return self.term is not None

    def opened(self, output: OpenFence) -> bool:
        """The lease is held until the output's deadline; whether that is news."""
        if self.term == output.token.term:
            return False
        self.term = output.token.term
        self._began(output.token)
        return True

    def closed(self, output: CloseFence) -> None:
        """The lease is over, or given up."""
        if self.term is None:
            return
        self._ended(output.token, output.reason)
        self.term = None
