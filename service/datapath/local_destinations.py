"""What the rules of each local pod name, for netfilter (rule W4): kept in step pod by pod. Pure."""

from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network

from service.datapath.local_pods import LocalPods
from service.network.destinations import Destinations
from service.policy.rule_set import RuleSet


class LocalDestinations:
    """`renew` with the pods of which something changed; `value` is the same object until one of them is otherwise."""

    def __init__(self, local: LocalPods) -> None:
        self._local = local
        self._pods: dict[IPv4Address, int] = {}
        self._sets: dict[int, tuple[IPv4Network, ...]] = {}
        self._rule_sets: dict[int, RuleSet] = {}
        self._users: dict[int, int] = {}
        """How many pods have each set."""
        self.value = Destinations()
        self.rule_sets: Mapping[int, RuleSet] = {}
        """Those that pods have; the same object until one comes or goes."""
        self._former = self.value, frozenset[IPv4Address]()
        """The value before, and the pods that are otherwise in it."""
        self._are_others = False
        """Rule sets came or went."""

    def renew(self, changed: Iterable[IPv4Address]) -> int:
        """Take what these pods name now; how many of them named something else before."""
        others = frozenset(pod_ip for pod_ip in changed if self._renew(pod_ip))
        if others:
            self._former = self.value, others
            self.value = Destinations(dict(self._pods), dict(self._sets))
            if self._are_others and self._rule_sets != self.rule_sets:
                self.rule_sets = dict(self._rule_sets)
            self._are_others = False
        return len(others)

    def changed_since(self, value: Destinations) -> Collection[IPv4Address] | None:
        """The pods that are otherwise in this value than now; None where it is not the one just before."""
        former, changed = self._former
        return changed if value is former else None

    def _renew(self, pod_ip: IPv4Address) -> bool:
        selection, former = self._local.selections.get(pod_ip), self._pods.get(pod_ip)
        wanted = selection.rule_set.id if selection is not None else None
        if wanted == former:
            return False
        if selection is not None:
            rule_set = selection.rule_set
            self._pods[pod_ip] = rule_set.id
            if rule_set.id not in self._users:
                self._rule_sets[rule_set.id], self._sets[rule_set.id] = rule_set, rule_set.steered
                self._are_others = True
            self._users[rule_set.id] = self._users.get(rule_set.id, 0) + 1
        else:
            del self._pods[pod_ip]
        if former is not None:
            self._users[former] -= 1
            if not self._users[former]:
                del self._users[former], self._sets[former], self._rule_sets[former]
                self._are_others = True
        return True
