"""What an event is: done, undone, and what it may cost meanwhile."""

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from loadtest.chaos.site import ChaosSite
from service.lab.plan import PlannedNode


@dataclass(frozen=True, slots=True)
class Cost:
    """What may be seen while an event lasts, and until the site is calm again. Promises are never among it."""

    loses: bool = True
    """Requests may go unanswered."""
    breaks: bool = True
    """Open connections may end."""
    bare: bool = False
    """Pods that no policy selects may be seen by their own address: the event has taken the CNI's masquerade away."""
    moves: bool = False
    """Floating IPs may move to another node."""


QUIET = Cost(loses=False, breaks=False)


class Event(ABC):
    """One thing that happens. `apply` and `undo` are called once each in that order, also after a failure.

    An event chooses its victims with `chance` in its constructor, so that the same seed hurts the same ones.
    """

    name: ClassVar[str]
    cost: ClassVar[Cost] = Cost()
    telling_s: ClassVar[float] = 3.0
    """Its trouble must be told once it has lasted so long."""
    drops: ClassVar[frozenset[str]] = frozenset()
    """Reasons that fit: what selected pods lose while it lasts is counted under these. None: it is lost elsewhere."""

    def __init__(self, site: ChaosSite, chance: random.Random) -> None:
        self.site = site
        self.chance = chance
        self.node: PlannedNode = chance.choice(site.nodes)

    @abstractmethod
    def apply(self) -> None:
        """Do it."""

    def undo(self) -> None:  # noqa: B027 - most end by themselves
        """Put back what the field would put back, as it would; nothing where it ends by itself."""

    def strangers(self) -> frozenset[tuple[str, str]]:
        """(node, floating IP): hosts that speak for an address beside us, so that their frames say nothing of us."""
        return frozenset()

    def macs(self) -> Mapping[str, bytes]:
        """MAC by node, where an uplink has one beside its own meanwhile: what is sent to it is sent to that node."""
        return {}

    def answers(self) -> str:
        """The member that must answer over HTTP while it lasts, whatever is done to it; empty where none must."""
        return ""

    def trouble(self) -> tuple[str, str] | None:
        """(member, text): while it lasts this member must say that something is wrong, in words with this text."""
        return None
