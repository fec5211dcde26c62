"""What an elector need not remember: keys that nobody holds or claims any more, beyond so many (rule K1).

The token of a key must grow also where the key returns after years. So the highest token of all that was forgotten is
kept under a key of its own, and counts for every key that is not known. Those forgotten first have the lowest tokens:
what is claimed by an assignment of today is above them. The row travels with all others: to both records, and to
electors that ask what was promised (M3).
"""

from collections.abc import Container, Mapping

from service.lease.promise import Instant, Promise
from service.model.lease import LEADER_KEY, ZERO_TOKEN, Token

IDLE_KEYS_MAX = 1024
"""Each costs a microsecond or two at every renewal: the record of promises is written whole (P2)."""
FORGOTTEN = "255.255.255.255"
"""No address of anybody: the row for all keys that have none."""


def highest_token(promises: Mapping[str, Promise], key: str) -> Token:
    """What a grant of the key must be above."""
    promise = promises.get(key) or promises.get(FORGOTTEN)
    return promise.token if promise is not None else ZERO_TOKEN


def forget_idle(promises: dict[str, Promise], in_use: Container[str], now: Instant) -> bool:
    """Forget the oldest of too many keys that are promised to nobody and not `in_use`; whether there were any."""
    idle = [
        key
        for key, promise in promises.items()
        if promise.is_over(now) and key not in in_use and key not in (LEADER_KEY, FORGOTTEN)
    ]
    idle.sort(key=lambda key: promises[key].token)
    excess = idle[: max(0, len(idle) - IDLE_KEYS_MAX)]
    for key in excess:
        token = promises.pop(key).token
        row = promises.setdefault(FORGOTTEN, Promise())
        row.token = max(row.token, token)
    return bool(excess)
