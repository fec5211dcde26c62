"""Which destinations the policies of this node's pods name, as our netfilter table has them (rules W4, I3). Pure text.

In proportion: each set of destinations is there once, however many pods share it, and a map says which set is a pod's.
A set is named by its content and never changes: it is made in parts, each a short transaction, before any pod points at
it, and goes when none does. A pod changes its set by one small transaction, so it is never between two.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, summarize_address_range
from typing import Any

from service.model.span import merged
from service.network.map_change import Jump, MapChange

TABLE = "egressgw"
PART = 2048
"""Networks of one set in the kernel: while a transaction is committed nothing else runs on that CPU (measured)."""
_BATCH = 32
"""Sets in one transaction at most: each has two chains."""
GUARD, TRANSLATED = "guarded", "translated"
"""Maps from a pod to what is asked of its packets: about to leave unmarked; after DNAT."""

_ANYWHERE = IPv4Network("0.0.0.0/0")
_PARTS_OF_OLD = "steer"
"""A set of (pod, network) pairs in the table of former versions."""


@dataclass(frozen=True, slots=True)
class Destinations:
    """What shall be, or was found to be, in the table."""

    pods: Mapping[IPv4Address, int] = field(default_factory=dict)
    """The set of each selected pod."""
    sets: Mapping[int, Sequence[IPv4Network]] = field(default_factory=dict)
    """By the name of their content, 64 bits."""


NOTHING = Destinations()


def parts_of(networks: Iterable[IPv4Network]) -> list[list[IPv4Network]]:
    """Free of overlaps, which the kernel refuses, and cut into sets that are made quickly; at least one."""
    distinct = merged(networks)
    return [distinct[start : start + PART] for start in range(0, len(distinct), PART)] or [[]]


def in_batches(sets: Mapping[int, int]) -> list[list[int]]:
    """Sets that are made or removed in one transaction: few enough, and with few networks in all: `sets` says
    how many each has."""
    batches: list[list[int]] = []
    room = 0
    for identity, networks in sets.items():
        if not batches or networks > room or len(batches[-1]) == _BATCH:
            batches.append([])
            room = PART
        batches[-1].append(identity)
        room -= networks
    return batches


def set_name(identity: int, part: int) -> str:
    """Of one part, in the kernel."""
    return f"to_{identity:016x}_{part}"


def definition(identity: int, parts: Sequence[Sequence[IPv4Network]], rest: str) -> list[str]:
    """Transactions that make a set, and the chains by which pods ask for it. Nothing is changed by them for any packet.

    `rest`: all bits but the mark, as nft writes them. May be repeated after a failure.
    """
    texts = [set_definition(set_name(identity, number), networks) for number, networks in enumerate(parts)]
    return [*texts, chains(identity, len(parts), rest)]


def chains(identity: int, parts: int, rest: str) -> str:
    """The two chains of a set: drop what leaves unmarked; unmark what DNAT sent elsewhere (rule W4)."""
    guard, translated = _chain(GUARD, identity), _chain(TRANSLATED, identity)
    lines = [f"{verb} chain ip {TABLE} {chain}" for chain in (guard, translated) for verb in ("add", "flush")]
    for part in range(parts):
        name = set_name(identity, part)
        lines.append(f"add rule ip {TABLE} {guard} ip daddr @{name} counter name guard_unmarked drop")
        lines.append(f"add rule ip {TABLE} {translated} ip daddr @{name} return")
    lines.append(f"add rule ip {TABLE} {translated} meta mark set meta mark & {rest}")
    return "\n".join(lines) + "\n"


def rule_count(parts: int) -> int:
    """Rules that the chains of a set of so many parts have."""
    return 2 * parts + 1


def switch(
    before: Mapping[IPv4Address, int], after: Mapping[IPv4Address, int], among: Iterable[IPv4Address] | None = None
) -> list[MapChange]:
    """One transaction that gives each pod its set; empty where nothing changes. `among`: only these are looked at."""
    looked = {**before, **after} if among is None else among
    changed = sorted(pod for pod in looked if before.get(pod) != after.get(pod))
    gone = [MapChange(name, pod.packed, None) for name in (GUARD, TRANSLATED) for pod in changed if pod in before]
    return gone + [
        MapChange(name, pod.packed, _chain(name, after[pod]), jump)
        for name, jump in ((GUARD, Jump.JUMP), (TRANSLATED, Jump.GOTO))
        for pod in changed
        if pod in after
    ]


def removal(identity: int, parts: int) -> list[str]:
    """Transactions that take away a set that no pod points at; what of it is not there is no error."""
    names = [_chain(GUARD, identity), _chain(TRANSLATED, identity)]
    texts = ["".join(f"{verb} chain ip {TABLE} {name}\n" for name in names for verb in ("add", "flush", "delete"))]
    for name in (set_name(identity, part) for part in range(parts)):
        texts.append(f"{added_set(name)}\ndelete set ip {TABLE} {name}\n")
    return texts


def parse_destinations(document: Mapping[str, Any]) -> Destinations:
    """The contents in the answer to `nft -j list table`; of a former version's table too."""
    entries = document["nftables"]
    found = {entry["set"]["name"]: entry["set"].get("elem", ()) for entry in entries if "set" in entry}
    if _PARTS_OF_OLD in found:
        return _parse_pairs(found[_PARTS_OF_OLD])
    sets: dict[int, list[IPv4Network]] = {}
    for name, elements in found.items():
        if name.startswith("to_"):
            networks = sets.setdefault(int(name.split("_")[1], 16), [])
            networks += (network for element in elements for network in parse_networks(element))
    maps = {entry["map"]["name"]: entry["map"].get("elem", ()) for entry in entries if "map" in entry}
    pods = {IPv4Address(pod): _identity(verdict) for pod, verdict in maps.get(GUARD, ())}
    return Destinations({pod: identity for pod, identity in pods.items() if identity in sets}, sets)


def parse_networks(element: Any) -> Iterable[IPv4Network]:
    """What one element of an interval set covers, as nft's JSON has it."""
    if isinstance(element, str):
        return (_ANYWHERE,) if element == "*" else (IPv4Network(element),)
    if "prefix" in element:
        return (IPv4Network((element["prefix"]["addr"], element["prefix"]["len"])),)
    first, last = element["range"]
    return tuple(summarize_address_range(IPv4Address(first), IPv4Address(last)))


def _parse_pairs(elements: Iterable[Mapping[str, Any]]) -> Destinations:
    by_pod: dict[IPv4Address, list[IPv4Network]] = {}
    for pod, element in (pair["concat"] for pair in elements):
        by_pod.setdefault(IPv4Address(pod), []).extend(parse_networks(element))
    named = {pod: (_name(networks), networks) for pod, networks in by_pod.items()}
    return Destinations({pod: identity for pod, (identity, _) in named.items()}, dict(named.values()))


def _name(networks: Iterable[IPv4Network]) -> int:
    return int.from_bytes(hashlib.blake2b(" ".join(map(str, networks)).encode(), digest_size=8).digest(), "big")


def _identity(verdict: Mapping[str, Mapping[str, str]]) -> int:
    return int(verdict["jump"]["target"].rsplit("_", 1)[1], 16)


def _chain(name: str, identity: int) -> str:
    return f"{name}_{identity:016x}"


def set_definition(name: str, networks: Sequence[IPv4Network]) -> str:
    """A transaction that makes an interval set with these networks, which do not overlap. May be repeated."""
    lines = [added_set(name), f"flush set ip {TABLE} {name}"]
    if networks:
        lines.append(f"add element ip {TABLE} {name} {{ {', '.join(map(str, networks))} }}")
    return "\n".join(lines) + "\n"


def added_set(name: str) -> str:
    """The line by which an interval set is there, whether or not it was before."""
    return f"add set ip {TABLE} {name} {{ type ipv4_addr; flags interval; }}"
