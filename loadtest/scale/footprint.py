"""What a lab takes at one moment: memory and open files of each program; map entries, nft, rules and pins of each node.

Taken while it is quiet: with as much of everything as before there must be as much of each as before. Maps that forget
by themselves when they are full (LRU) and arrays are not counted, for their room is all that they ever take.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from loadtest.scale.program import Memory, memory, open_files, programs
from service.datapath.bpf_map import open_pinned
from service.datapath.layout import MAP_SHAPES, MapName
from service.lab.configuration import member_folder
from service.lab.lab import Lab
from service.lab.namespace import enter_command, run
from service.model.errors import TransientError
from service.network.destinations import TABLE

WISHES = frozenset(
    (MapName.SELECTED, MapName.RULES, MapName.CLUSTER, MapName.FLOATING_IPS, MapName.LIMITS, MapName.WAYS)
)
"""Maps that say what is wanted: the same wishes give as many entries. The others learn, and forget in time."""
WISHED, LEARNED = "entries of maps that say what is wanted", "entries of maps that learn"
ELEMENTS, RULES, PINS, ROUTING = "nft elements", "nft rules, sets and chains", "pins", "ip rules and routes"
_COUNTED_TYPES = (1, 11)
"""BPF_MAP_TYPE_HASH and BPF_MAP_TYPE_LPM_TRIE (include/uapi/linux/bpf.h)."""
_ALL_ROUTES = ["route", "show", "table", "all"]
_LOOKS, _PAUSE_S = 3, 0.5
"""At open files, of which the fewest count: a question that is being answered has one, too."""


@dataclass(frozen=True, slots=True)
class Taken:
    """By one program."""

    pid: int
    files: int
    memory: Memory


@dataclass(frozen=True, slots=True)
class Footprint:
    """At one moment."""

    programs: dict[str, Taken]
    nodes: dict[str, dict[str, int]]
    """Node -> what -> how many."""
    maps: dict[str, dict[str, int]]
    """Node -> map -> entries."""


class Growth(NamedTuple):
    """Of one thing, where it grew most."""

    where: str
    before: float
    after: float

    @property
    def more(self) -> float:
        """Below zero where there is less."""
        return self.after - self.before

    @property
    def percent(self) -> float:
        """Of what there was; of nothing, so many hundreds as there are now."""
        return 100 * self.more / (self.before or 1)

    def __str__(self) -> str:
        return f"{self.where}: {self.before:.6g} -> {self.after:.6g}"


def take_footprint(lab: Lab, *, floating_ips: int) -> Footprint:
    """Now. Each node may know a deadline for every one of so many floating IPs that it has ever held.

    Raises TransientError where a program is gone.
    """
    nodes, maps = {}, {}
    for node in lab.plan.nodes:
        pins = member_folder(lab.folder, node.name) / "bpf"
        maps[node.name] = found = map_entries(pins, floating_ips)
        nodes[node.name] = {
            WISHED: sum(count for name, count in found.items() if name in WISHES),
            LEARNED: sum(count for name, count in found.items() if name not in WISHES),
            PINS: sum(1 for path in pins.rglob("*") if path.is_file()),
            **nft_counts(run([*enter_command(node.netns), "nft", "-j", "list", "table", "ip", TABLE])),
            ROUTING: sum(len(run(["ip", "-n", node.netns, *one]).splitlines()) for one in (["rule"], _ALL_ROUTES)),
        }
    return Footprint(_programs(lab), nodes, maps)


def map_entries(pins: Path, floating_ips: int) -> dict[str, int]:
    """Of each map that is pinned below this folder and can grow."""
    found = {}
    for path in pins.rglob("*"):
        if path.name not in MAP_SHAPES or MAP_SHAPES[path.name].type not in _COUNTED_TYPES:
            continue
        opened = open_pinned(str(path))
        try:
            count = len(opened.keys())
        finally:
            opened.close()
        found[path.name] = max(0, count - floating_ips) if path.name == MapName.LEASE_DEADLINES else count
    return found


def nft_counts(listing: str) -> dict[str, int]:
    """Of what `nft -j list table` prints."""
    elements = others = 0
    for entry in json.loads(listing)["nftables"]:
        for kind, value in entry.items():
            if kind in ("rule", "set", "map", "chain"):
                others += 1
            if kind in ("set", "map"):
                elements += len(value.get("elem", ()))
    return {ELEMENTS: elements, RULES: others}


def most_grown(before: Mapping[str, float], after: Mapping[str, float]) -> Growth:
    """Where it grew most, of those that are in both. Raises TransientError where nothing is."""
    both = [Growth(where, before[where], after[where]) for where in before if where in after]
    if not both:
        raise TransientError("nothing is there from before")
    return max(both, key=lambda growth: growth.percent)


def _programs(lab: Lab) -> dict[str, Taken]:
    known = programs(lab.state.processes)
    files = {name: open_files(record.pid) for name, record in known.items()}
    for _ in range(_LOOKS - 1):
        time.sleep(_PAUSE_S)
        files = {name: min(files[name], open_files(record.pid)) for name, record in known.items()}
    return {name: Taken(record.pid, files[name], memory(record.pid)) for name, record in known.items()}
