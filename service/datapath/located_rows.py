"""Rows of floating IPs that follow from where each is: made anew for those that moved, and for all only where something
else has changed. A failover moves a few of thousands, and every millisecond of it is felt. Pure."""

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address

from service.datapath.desired import Rows
from service.model.assignment import Location

Make = Callable[[Mapping[IPv4Address, Location]], Rows]
"""The rows of these, each of its location alone."""


class LocatedRows:
    """Remembers the rows, and what else they were made of."""

    def __init__(self) -> None:
        self._rows: Rows = {}
        self._sources: tuple[object, ...] | None = None
        self._moved: dict[IPv4Address, None] = {}

    def move(self, floating_ip: IPv4Address) -> None:
        """It is somewhere else, or nowhere any more."""
        self._moved[floating_ip] = None

    def forget(self) -> None:
        """Make all of them anew at the next call."""
        self._sources = None

    def renew(self, make: Make, locations: Mapping[IPv4Address, Location], base: Rows, *sources: object) -> Rows:
        """All rows over those of `base`; the same object where nothing is otherwise. `sources` are what `make` goes by
        beside the location, compared by identity."""
        sources = (base, *sources)
        if self._sources is None or any(a is not b for a, b in zip(sources, self._sources, strict=True)):
            rows = base | make(locations)
        elif self._moved:
            moved = {floating_ip: locations[floating_ip] for floating_ip in self._moved if floating_ip in locations}
            keys = {floating_ip.packed for floating_ip in self._moved}
            kept = {key: value for key, value in self._rows.items() if key not in keys}
            rows = kept | {key: value for key, value in base.items() if key in keys} | make(moved)
        else:
            return self._rows
        self._sources, self._moved = sources, {}
        if rows != self._rows:
            self._rows = rows
        return self._rows
