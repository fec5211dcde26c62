"""Where a pod may not send before it is classified (rule W11), as our netfilter table has it. Pure text.

The agent tells `pod_ingress` which address is behind which device, and that program gives what it knows a priority; so
a pod that comes, also behind a bridge, is no write to netfilter at all. What is here is what policies name. It is cut
into sets at places that depend on the networks there and not on their number: an edit makes one or two sets anew, each
in a short transaction (I3), and a last short one points to them.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

from service.model.span import network_of
from service.network.destinations import (
    PART,
    TABLE,
    added_set,
    parse_networks,
    set_definition,
)
from service.network.priority import CLASSIFIED_PRIORITY, written

NAMED = "named"
"""The chain that asks all sets, and the beginning of their names."""

UNCLASSIFIED = f"""
  chain unmarked {{
    meta priority {written(CLASSIFIED_PRIORITY)} return
    ct direction reply return
    iifname @uplinks return
    meta iifkind {{ "veth", "bridge" }} ip saddr @pods goto unclassified
  }}

  chain unclassified {{
    ip daddr @cluster return
    jump {NAMED}
  }}

  chain {NAMED} {{
  }}
"""
"""The chains for what `pod_ingress` has not marked, after DNAT. Only devices of the kinds that pods have count: by an
uplink, or a CNI's tunnel, pods of other nodes come. A reply is of a connection that somebody else has opened."""

_CUT = 512
"""After one network in so many a set ends, so that they have a quarter of PART each or so."""

Named = Mapping[int, Sequence[IPv4Network]]
"""Networks by the name of their content."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Networks up to a place where a set ends in any case."""

    numbers: tuple[int, ...]
    covered: int
    """Up to which address a network before them reaches."""
    sets: Mapping[int, tuple[IPv4Network, ...]]
    end: int
    """Up to which address these reach, or one before them."""


class NamedSets:
    """Cuts what policies name into sets that are free of overlaps, which the kernel refuses. An edit costs a look at
    where to cut, and the stretch that it changes."""

    def __init__(self) -> None:
        self.value: dict[int, tuple[IPv4Network, ...]] = {}
        """As of the last `renew`; another object when they are others."""
        self._numbers: tuple[int, ...] = ()
        self._present: set[int] = set()
        self._cuts: set[int] = set()
        """Of those that are present, where a set ends."""
        self._stretches: dict[int, _Stretch] = {}
        """By the first number of each."""

    def renew(self, numbers: tuple[int, ...]) -> None:
        """Take all that is named now, as sorted numbers (`number_of`)."""
        if numbers is self._numbers:
            return
        self._numbers = numbers
        former, self._stretches, start, covered = self._stretches, {}, 0, 0
        for end in self._ends(numbers):
            part = numbers[start:end]
            covered = covered if covered > part[0] >> 6 else 0
            known = former.get(part[0])
            if known is None or known.covered != covered or known.numbers != part:
                known = _stretch(part, covered)
            self._stretches[part[0]] = known
            start, covered = end, known.end
        self.value = {name: one for stretch in self._stretches.values() for name, one in stretch.sets.items()}

    def _ends(self, numbers: tuple[int, ...]) -> list[int]:
        present = set(numbers)
        fresh = present - self._present
        self._cuts = (self._cuts & present) | {number for number in fresh if _mix(number) % _CUT == 0}
        self._present = present
        ends = [bisect_right(numbers, cut) for cut in sorted(self._cuts)]
        return ends if ends[-1:] == [len(numbers)] or not numbers else [*ends, len(numbers)]


def _stretch(numbers: tuple[int, ...], covered: int) -> _Stretch:
    sets: dict[int, tuple[IPv4Network, ...]] = {}
    free, end = _uncovered(numbers, covered)
    for start in range(0, len(free), PART):
        part = free[start : start + PART]
        sets[_name(part)] = tuple(map(network_of, part))
    return _Stretch(numbers, covered, sets, end)


def named_definition(identity: int, networks: Sequence[IPv4Network]) -> str:
    """A transaction that makes one set; nothing is changed by it for any packet. May be repeated."""
    return set_definition(named_set(identity), networks)


def named_rules(identities: Iterable[int]) -> str:
    """One transaction after which these sets are asked, and no others."""
    rules = (
        f"add rule ip {TABLE} {NAMED} ip daddr @{named_set(identity)} counter name unclassified drop\n"
        for identity in identities
    )
    return f"flush chain ip {TABLE} {NAMED}\n" + "".join(rules)


def named_removal(identity: int) -> str:
    """Away with a set that is not asked any more; that it is not there is no error."""
    name = named_set(identity)
    return f"{added_set(name)}\ndelete set ip {TABLE} {name}\n"


def parse_named(document: Mapping[str, Any]) -> tuple[dict[int, tuple[IPv4Network, ...]], frozenset[int]]:
    """The sets in the answer to `nft -j list table`, and which of them are asked."""
    entries = document["nftables"]
    sets = {
        _identity(entry["set"]["name"]): tuple(
            network for element in entry["set"].get("elem", ()) for network in parse_networks(element)
        )
        for entry in entries
        if "set" in entry and entry["set"]["name"].startswith(f"{NAMED}_")
    }
    asked = [
        part["match"]["right"]
        for entry in entries
        if "rule" in entry and entry["rule"]["chain"] == NAMED
        for part in entry["rule"]["expr"]
        if "match" in part
    ]
    return sets, frozenset(_identity(name) for name in asked)


def _uncovered(numbers: Iterable[int], end: int) -> tuple[list[int], int]:
    """Sorted numbers but for what a wider network contains, and up to where they reach. Siblings stay apart: joined, an
    edit of one would move both."""
    found = []
    for number in numbers:
        first, length = number >> 6, number & 63
        if first >= end:
            end = first + (1 << 32 - length)
            found.append(number)
    return found, end


def _mix(key: int) -> int:
    """The finalizer of MurmurHash3, 64 bits. A weaker one finds no places to cut where networks are in even steps."""
    key = (key ^ key >> 33) * 0xFF51AFD7ED558CCD & 0xFFFFFFFFFFFFFFFF
    return key ^ key >> 33


def _name(keys: Sequence[int]) -> int:
    packed = b"".join(key.to_bytes(5, "big") for key in keys)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "big")


def named_set(identity: int) -> str:
    """Its name in the kernel."""
    return f"{NAMED}_{identity:016x}"


def _identity(name: str) -> int:
    return int(name.rsplit("_", 1)[1], 16)
