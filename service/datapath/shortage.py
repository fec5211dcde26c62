"""What a full map costs, and whom: told in status and metrics while it lasts (rule I1). Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from service.datapath import layout
from service.datapath.admission import POD_ROWS
from service.datapath.layout import MapName
from service.datapath.worker_pool import FULL
from service.policy.rule_set import RuleSet

_SHOWN_PODS = 8


@dataclass(frozen=True, slots=True)
class Shortage:
    """One map that lacks rows."""

    map: str
    entries: int
    """How many rows are not in the kernel."""
    reason: str
    pods: tuple[IPv4Address, ...]
    """Whose packets are dropped for it; sorted."""

    def __str__(self) -> str:
        """For a person, in one line."""
        told = f"map {self.map}: {self.entries} entries wait ({self.reason})"
        if not self.pods:
            return told
        more = len(self.pods) - _SHOWN_PODS
        names = ", ".join(map(str, self.pods[:_SHOWN_PODS])) + (f" and {more} more" if more > 0 else "")
        return f"{told}; dropped are packets of pods {names}"


def shortages(
    waiting: Mapping[str, Mapping[bytes, str]],
    unfit: Mapping[int, RuleSet],
    unfit_pods: Collection[IPv4Address],
    rule_sets: Iterable[tuple[IPv4Address, RuleSet]],
) -> tuple[Shortage, ...]:
    """One for each map and reason. `rule_sets`: of each pod of this node.

    `waiting`: by map the keys that the kernel refuses, and why; `unfit`, `unfit_pods`: what was not tried, because it
    would not fit whole.
    """
    pods = tuple(rule_sets)
    found = [_of_map(name, keys, pods) for name, keys in waiting.items()]
    if unfit:
        entries = sum(len(rule_set.entries) for rule_set in unfit.values())
        without = {pod for pod, rule_set in pods if rule_set.id in unfit}
        found.append(Shortage(MapName.RULES, entries, FULL, tuple(sorted(without))))
    if unfit_pods:
        entries = POD_ROWS * len(unfit_pods)
        found.append(Shortage(MapName.SELECTED, entries, FULL, tuple(sorted(unfit_pods))))
    return tuple(found)


def _of_map(name: str, keys: Mapping[bytes, str], pods: Collection[tuple[IPv4Address, RuleSet]]) -> Shortage:
    reasons = ", ".join(sorted(set(keys.values())))
    return Shortage(name, len(keys), reasons, tuple(sorted(set(_pods_without(name, keys, pods)))))


def _pods_without(
    name: str, keys: Collection[bytes], pods: Collection[tuple[IPv4Address, RuleSet]]
) -> Iterator[IPv4Address]:
    if name == MapName.SELECTED:
        yield from (IPv4Address(key[:4]) for key in keys)
    elif name in (MapName.WAYS, MapName.FLOATING_IPS):
        lost = {IPv4Address(key) for key in keys}
        yield from (pod for pod, rule_set in pods if not lost.isdisjoint(rule_set.addresses()))
    elif name == MapName.RULES:
        partial = {layout.parse_rule_key(key)[0] for key in keys}
        yield from (pod for pod, rule_set in pods if rule_set.id in partial)
