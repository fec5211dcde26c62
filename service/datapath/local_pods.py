"""The pods of this node by address, and what selects each: kept in step by what changes. Pure.

Thousands of pods, and a few changes in a batch: nothing here looks at all of them but the first reading, and the review
that looks for what a difference has missed.
"""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address
from types import MappingProxyType

from service.model.objects import ObjectKey, Pod
from service.policy.index import PolicyDelta, PolicyIndex, is_same_place, is_same_selection
from service.policy.rule_set import Selection


class LocalPods:
    """Follows an index. `changed` has the addresses at which something is otherwise since the last `take_changed`."""

    def __init__(self, node: str, index: PolicyIndex) -> None:
        self._node = node
        self._index = index
        self._pods: dict[IPv4Address, Pod] = {}
        self._selections: dict[IPv4Address, Selection] = {}
        self._places: dict[ObjectKey, IPv4Address] = {}
        """Under which address each pod of this node is filed."""
        self._changed: dict[IPv4Address, None] = {}
        for pod in index.pods_on(node):
            self._file(pod)
        index.follow(self._take)

    @property
    def pods(self) -> Mapping[IPv4Address, Pod]:
        """A live view: selected or not."""
        return MappingProxyType(self._pods)

    @property
    def selections(self) -> Mapping[IPv4Address, Selection]:
        """A live view: of the selected ones."""
        return MappingProxyType(self._selections)

    def take_changed(self) -> dict[IPv4Address, None]:
        """The addresses that changed since the last call, in order."""
        changed, self._changed = self._changed, {}
        return changed

    def _take(self, delta: PolicyDelta) -> None:
        places = {key: self._place_of(pod) for key, pod in delta.pods.items()}
        # Who goes first: at an address that passed from pod to pod the next one is filed after that.
        for key, place in places.items():
            if place != self._places.get(key):
                self._remove(key)
        for pod in delta.pods.values():
            if pod is not None and places[pod.key] is not None:
                self._file(pod)
        for key in delta.selections:
            if (known := self._places.get(key)) is not None:
                self._select(known)

    def _place_of(self, pod: Pod | None) -> IPv4Address | None:
        return pod.ip if pod is not None and pod.node == self._node else None

    def _file(self, pod: Pod) -> None:
        assert pod.ip is not None
        former = self._pods.get(pod.ip)
        if former is not None and former.key != pod.key:
            self._places.pop(former.key, None)
        self._pods[pod.ip] = pod
        self._places[pod.key] = pod.ip
        self._select(pod.ip)

    def _remove(self, key: ObjectKey) -> None:
        place = self._places.pop(key, None)
        if place is not None:
            del self._pods[place]
            self._select(place)

    def _select(self, pod_ip: IPv4Address) -> None:
        """Take what selects the pod at this address now."""
        pod = self._pods.get(pod_ip)
        selection = self._index.selections().get(pod.key) if pod is not None else None
        if selection is not None:
            self._selections[pod_ip] = selection
        else:
            self._selections.pop(pod_ip, None)
        self._changed[pod_ip] = None

    # -- the review --

    def keys(self) -> tuple[ObjectKey, ...]:
        """Of every pod that the index has here, and of every one that is filed."""
        return tuple({pod.key: None for pod in self._index.pods_on(self._node)} | dict.fromkeys(self._places))

    def compare(self, keys: Iterable[ObjectKey]) -> int:
        """Look whether these are filed as the index has them; what is not is put right, and counted."""
        wrong = 0
        for key in keys:
            pod, place = self._index.pod(key), self._places.get(key)
            wanted = self._place_of(pod)
            if wanted == place and (place is None or self._is_as_told(place, pod)):
                continue
            wrong += 1
            if place is not None and wanted != place:
                self._remove(key)
            if pod is not None and wanted is not None:
                self._file(pod)
        return wrong

    def _is_as_told(self, place: IPv4Address, pod: Pod | None) -> bool:
        known = self._index.selections().get(pod.key) if pod is not None else None
        return is_same_place(self._pods.get(place), pod) and is_same_selection(self._selections.get(place), known)
