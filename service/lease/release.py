"""Releases under way: what was given up, and which electors do not know it yet (rule P1).

A release is repeated with every renewal until all electors have confirmed it, or until no promise can be left that it
could shorten. It is only ever begun behind a closed fence, so losing one costs the successor time, and nobody safety.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from service.model.lease import Token


@dataclass(slots=True)
class _Release:
    token: Token
    """Of the tenure that is over. A later tenure of the same key is not meant."""
    until_ns: int
    """When it is dropped, confirmed or not."""
    waiting: dict[str, None]
    """Electors that have not confirmed it."""


class Releases:
    """The releases of one holder, by key. Time is the holder's boot clock, passed in."""

    def __init__(self) -> None:
        self._releases: dict[str, _Release] = {}

    def __len__(self) -> int:
        return len(self._releases)

    def begin(self, key: str, token: Token, *, until_ns: int, electors: Iterable[str]) -> None:
        """A tenure is over: all of these electors are to know it. Replaces an earlier release of the key."""
        self._releases[key] = _Release(token, until_ns, dict.fromkeys(electors))

    def abandon(self, key: str) -> None:
        """The key is claimed anew under another token, which says as much as the release did."""
        self._releases.pop(key, None)

    def confirm(self, elector: str, key: str, token: Token) -> bool:
        """An elector knows. True where it was the last: the release is over, and need not be said any more."""
        release = self._releases.get(key)
        if release is None or release.token != token:
            return False
        release.waiting.pop(elector, None)
        if release.waiting:
            return False
        del self._releases[key]
        return True

    def ask_all(self, electors: Iterable[str]) -> None:
        """In a new epoch no earlier confirmation counts (M4)."""
        names = list(electors)
        for release in self._releases.values():
            release.waiting = dict.fromkeys(names)

    def keep(self, electors: Iterable[str]) -> None:
        """Wait only for these any more: the others have no say from now on."""
        names = dict.fromkeys(electors)
        for release in self._releases.values():
            release.waiting = {name: None for name in release.waiting if name in names}

    def expire(self, now_ns: int) -> list[str]:
        """The keys whose release is over by time, which are forgotten."""
        over = [key for key, release in self._releases.items() if now_ns >= release.until_ns]
        for key in over:
            del self._releases[key]
        return over

    def ends_ns(self) -> list[int]:
        """When each is over by time."""
        return [release.until_ns for release in self._releases.values()]
