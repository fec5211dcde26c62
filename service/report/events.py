"""Which Events are due. Deduplicated: what is wrong is said once and then from time to time; floods are counted.

A problem (`hold`) lasts until it is no longer among those held; an occurrence (`occur`) happens once. Each object has a
budget of Events; what goes beyond it waits, the newest of each sort replacing the older and counting them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from service.model.object_event import ObjectEvent
from service.model.objects import ObjectKey

REPEAT_NS = 900_000_000_000
"""A problem that lasts is said again so often: the API server forgets Events after an hour."""
BURST = 10
REFILL_NS = 30_000_000_000
"""Each object may have BURST Events at once, and one more per REFILL_NS."""
_WAITING_MAX = 1024
_OBJECTS_MAX = 4096


@dataclass(slots=True)
class _Budget:
    tokens: float
    at_ns: int


@dataclass(slots=True)
class _Waiting:
    event: ObjectEvent
    others: int = 0


class EventRecorder:
    """Takes what is wrong and what happened; gives what to post. Knows no clock."""

    def __init__(self) -> None:
        self._standing: dict[ObjectEvent, int] = {}
        """Problems held -> when they were last given out; -1 while they wait."""
        self._waiting: dict[tuple[ObjectKey, str, str], _Waiting] = {}
        self._budgets: dict[ObjectKey, _Budget] = {}
        self.lost = 0
        """Events given up because too many waited."""

    def hold(self, problems: Iterable[ObjectEvent], *, now_ns: int) -> None:
        """Replace the set of what is wrong now."""
        current = dict.fromkeys(problems)
        for event in [event for event in self._standing if event not in current]:
            del self._standing[event]
            waiting = self._waiting.get(_slot(event))
            # Over before it was said: nobody needs to hear of it.
            if waiting is not None and waiting.event == event:
                del self._waiting[_slot(event)]
        for event in current:
            given_ns = self._standing.get(event)
            if given_ns is None or (given_ns >= 0 and now_ns - given_ns >= REPEAT_NS):
                self._standing[event] = -1
                self._wait(event)

    def occur(self, event: ObjectEvent) -> None:
        """Something happened once."""
        self._wait(event)

    def due(self, *, now_ns: int) -> list[ObjectEvent]:
        """Take out what may be posted now, oldest first."""
        found = []
        for slot, waiting in list(self._waiting.items()):
            if not self._spend(slot[0], now_ns):
                continue
            del self._waiting[slot]
            event = waiting.event
            if event in self._standing:
                self._standing[event] = now_ns
            if waiting.others:
                event = replace(event, note=f"{event.note} (stands for {waiting.others} more like it)")
            found.append(event)
        return found

    def put_back(self, event: ObjectEvent) -> None:
        """It could not be posted: give it out again later, at no cost, unless a newer one of its sort waits."""
        budget = self._budgets.get(event.regarding)
        if budget is not None:
            budget.tokens = min(BURST, budget.tokens + 1)
        self._waiting.setdefault(_slot(event), _Waiting(event))

    def forget(self) -> None:
        """Another one posts from now on."""
        self._standing.clear()
        self._waiting.clear()

    def _wait(self, event: ObjectEvent) -> None:
        slot = _slot(event)
        waiting = self._waiting.get(slot)
        if waiting is not None:
            waiting.event, waiting.others = event, waiting.others + (waiting.event != event)
            return
        if len(self._waiting) >= _WAITING_MAX:
            self.lost += 1
            oldest = self._waiting.pop(next(iter(self._waiting)))
            # Still wrong, then: said at the next repetition.
            self._standing.pop(oldest.event, None)
        self._waiting[slot] = _Waiting(event)

    def _spend(self, key: ObjectKey, now_ns: int) -> bool:
        budget = self._budgets.pop(key, None) or _Budget(BURST, now_ns)
        budget.tokens = min(BURST, budget.tokens + (now_ns - budget.at_ns) / REFILL_NS)
        budget.at_ns = now_ns
        # The least recently used goes first; at worst an object gets a new burst.
        if len(self._budgets) >= _OBJECTS_MAX:
            del self._budgets[next(iter(self._budgets))]
        self._budgets[key] = budget
        if budget.tokens < 1:
            return False
        budget.tokens -= 1
        return True


def _slot(event: ObjectEvent) -> tuple[ObjectKey, str, str]:
    return (event.regarding, event.reason, event.subject)
