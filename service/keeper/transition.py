"""When this node goes over to a newer electorate (leases.md, M1, M3): all its parts at once, and after a pause.

The book knows the newest electorate; the elector's hand writes it to disk; here is decided when it is entered. Others
may still be writing: whoever goes over alone is not answered. So every keeper waits a moment, or until the first one
that has gone over is heard; then all go at once. Where one elector decides alone, the leases of both nodes wait for it:
nobody is to be waited for.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from service.electorate.book import ElectorateBook
from service.lease.elector import ElectorMachine
from service.model.lease import Electorate
from service.wire.pump import MachinePump

PREPARATION_S = 1.0
"""Between the writing of a new electorate and going over to it: time for the others to write it, too."""


class Follower(Protocol):
    """A part of the keeper that goes by the electorate."""

    @property
    def pump(self) -> MachinePump:
        """Executes what the change makes it want."""

    def enter_epoch(self, electorate: Electorate, *, now_ns: int) -> None:
        """Go over to this electorate; one that is not newer changes nothing."""


class Transition:
    """Takes `followers` over, in this order, then calls `entered`."""

    def __init__(
        self,
        book: ElectorateBook,
        *,
        followers: Sequence[Follower],
        entered: Callable[[], None],
        clock: Callable[[], int],
    ) -> None:
        self._book = book
        self._followers = followers
        self._entered = entered
        self._clock = clock
        self._epoch = book.known.epoch
        self._going_over: asyncio.TimerHandle | None = None

    def prepare(self) -> None:
        """The electorate that is known is on disk here: enter it when the others have had time to write it."""
        if self._going_over is not None:
            self._going_over.cancel()
        # Where it was heard of before it was on disk, all but the elector have gone over already.
        is_entered = self._epoch == self._book.known.epoch
        delay_s = 0.0 if is_entered else preparation_s(self._epoch, self._book.known)
        self._going_over = asyncio.get_running_loop().call_later(delay_s, self.enter)

    def hear_epoch(self, epoch: int) -> None:
        """Somebody speaks in this epoch: where it is the one known here, he has gone over, and the wait is over."""
        if self._epoch < epoch == self._book.known.epoch:
            self.enter()

    def enter(self) -> None:
        """Go over to the electorate that is known; the elector only if it is on disk (M1)."""
        known, now_ns = self._book.known, self._clock()
        self._epoch = known.epoch
        for follower in self._followers:
            follower.enter_epoch(known, now_ns=now_ns)
        # First all, then what they have to say: an answer may come back at once, from this very node.
        for follower in self._followers:
            follower.pump.wake()
        self._entered()


def preparation_s(epoch: int, following: Electorate) -> float:
    """How long to wait on the way from `epoch`: not at all for the first one, nor for an elector that is alone."""
    has_company = epoch > 0 and len(following.members) > 1
    return PREPARATION_S if has_company else 0.0


def may_follow(following: Electorate, known: Electorate, elector: ElectorMachine, *, epoch_in_force: int) -> bool:
    """Whether `known` was in force, as far as this keeper can tell, so that `following` may be entered (M2).

    Who decides alone from now on need not have seen it: of two electors it knows everything itself (Two nodes).
    """
    if elector.epoch != known.epoch:
        return False
    return epoch_in_force == known.epoch or (elector.is_settled and elector.is_elector_alone_in(following))


def trouble(node: str, book: ElectorateBook, elector: ElectorMachine) -> str:
    """Why this node is no elector though it is named (M7), else why an offer was refused; empty where all is well."""
    is_named = book.known.member(node) is not None
    if is_named and not elector.is_elector and elector.epoch == book.known.epoch:
        return "this node is named as an elector, but has not the disk that was meant: it is a newcomer"
    return book.trouble
