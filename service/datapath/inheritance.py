"""What outlived a former agent of this node in its pinned maps."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from service.datapath import layout
from service.datapath.desired import Rows
from service.datapath.layout import ClusterFlag, MapName, SelectedState
from service.datapath.loader import LoadedDatapath
from service.datapath.steering import NOTHING
from service.model.objects import NO_TIMEOUTS
from service.policy.rule_set import RuleSet


@dataclass(frozen=True, slots=True)
class Inheritance:
    """State that outlived a former agent of this node and must not be interrupted."""

    steered: dict[IPv4Address, RuleSet]
    """Local pods that are steered, with the rules they are steered by."""
    devices: dict[IPv4Address, int]
    """The devices they were behind."""
    ways: Rows
    """Where floating IPs were."""
    rule_sets: tuple[RuleSet, ...]
    exempt: tuple[IPv4Address, ...] = ()
    """Single addresses that were never steered: other nodes', above all."""


def read_inheritance(loaded: LoadedDatapath) -> Inheritance:
    """All of it. Blocking: for the start only."""
    entries: dict[int, list[tuple[IPv4Network, IPv4Address | None]]] = {}
    for key, value in loaded.map(MapName.RULES).items().items():
        rule_set, network = layout.parse_rule_key(key)
        entries.setdefault(rule_set, []).append((network, layout.parse_rule_value(value)))
    limits = {
        int.from_bytes(key, "little"): layout.parse_limits(value).timeouts
        for key, value in loaded.map(MapName.LIMITS).items().items()
    }
    rule_sets = {
        identity: RuleSet(identity, tuple(sorted(rows)), limits.get(identity, NO_TIMEOUTS))
        for identity, rows in entries.items()
    }
    steered, devices, known = {}, {}, rule_sets | {NOTHING.id: NOTHING}  # That of pods that have left.
    for key, value in loaded.map(MapName.SELECTED).items().items():
        pod_ip, ifindex, rule_set, state = layout.parse_selected(key, value)
        if ifindex == 0 and state == SelectedState.STEER and rule_set in known:
            steered[pod_ip] = known[rule_set]
        elif ifindex:
            devices[pod_ip] = ifindex
    ways = loaded.map(MapName.WAYS).items()
    # Where an address went while there was no agent is known by a hint alone.
    beat = loaded.map(MapName.AGENT_BEAT).lookup(bytes(4))
    for key, hint in loaded.map(MapName.WAY_HINTS).items().items():
        way = layout.way_under_hint(ways.get(key), hint, beat)
        ways |= {key: way} if way is not None else {}
    cluster = [layout.parse_cluster(*row) for row in loaded.map(MapName.CLUSTER).items().items()]
    # No networks: releases that took whole subnets of nodes for in-cluster have left those.
    exempt = tuple(network[0] for network, flag in cluster if _is_host(network, flag))
    return Inheritance(steered, devices, ways, tuple(rule_sets.values()), exempt)


def _is_host(network: IPv4Network, flag: int) -> bool:
    return flag == ClusterFlag.NODE and network.prefixlen == network.max_prefixlen
