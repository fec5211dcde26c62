"""The rows of `selected`, pod by pod: of those whose selection is in force or on its way, and of others. Pure.

While there is room for all, a pod's rows depend on nothing but itself, so only those of which something changed are
worked out. Where there is not, each may depend on every other one: selected pods that have rows come first, then other
selected ones, then pods that are left alone.
"""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address

from service.datapath import layout
from service.datapath.admission import POD_ROWS, Admission, MapView
from service.datapath.classification import Classification
from service.datapath.desired import Rows
from service.datapath.layout import MapName, SelectedState
from service.datapath.local_pods import LocalPods
from service.datapath.steering import Steering
from service.datapath.worker_pool import Wishes

_NO_DEVICE: Mapping[IPv4Address, int] = {}


class SelectedRows:
    """Remembers what is wished for of each pod."""

    def __init__(
        self, local: LocalPods, steering: Steering, admission: Admission, classification: Classification
    ) -> None:
        self._local = local
        self._steering = steering
        self._admission = admission
        self._classification = classification
        self.devices: Mapping[IPv4Address, int] = {}
        """Behind which each local pod is."""
        self._rows: dict[IPv4Address, Rows] = {}
        self._room = 0
        self._is_tight = False
        """Not all found room at the last time."""

    def believed(self, pod_ip: IPv4Address) -> Mapping[IPv4Address, int]:
        """The pod's device, where it is known and believed to be the pod's."""
        device = self.devices.get(pod_ip)
        return _NO_DEVICE if device is None or self._classification.is_doubted(pod_ip) else {pod_ip: device}

    def renew(self, changed: Mapping[IPv4Address, None], maps: MapView) -> Wishes:
        """What changes of the map, after something has changed of these pods."""
        room, is_tight = maps.room(MapName.SELECTED), self._may_be_tight(maps)
        if is_tight or self._is_tight:
            if not changed and room == self._room:
                return {}
            wanted = self._fitting(maps)
            pods: Iterable[IPv4Address] = {**dict.fromkeys(self._rows), **dict.fromkeys(wanted)}
        else:
            wanted, pods = {pod_ip: self._rows_of(pod_ip) for pod_ip in changed}, changed
        self._room, self._is_tight = room, is_tight
        if not is_tight:
            self._admission.unfit_pods = frozenset()
        wishes = Wishes()
        for pod_ip in pods:
            wishes |= self._put(pod_ip, wanted.get(pod_ip, {}))
        return wishes

    def _may_be_tight(self, maps: MapView) -> bool:
        local = self._local
        others = len(local.pods) - len(local.selections)
        return POD_ROWS * len(self._steering) + others > maps.room(MapName.SELECTED)

    def _put(self, pod_ip: IPv4Address, rows: Rows) -> Wishes:
        former = self._rows.get(pod_ip, {})
        if rows == former:
            return {}
        if rows:
            self._rows[pod_ip] = rows
        else:
            del self._rows[pod_ip]
        gone: Wishes = {key: None for key in former if key not in rows}
        return gone | {key: value for key, value in rows.items() if former.get(key) != value}

    def _rows_of(self, pod_ip: IPv4Address) -> Rows:
        device = self.believed(pod_ip)
        if self._steering.has_left(pod_ip) and pod_ip not in self._local.pods:
            # Whoever has its address next is not known by its row (rule W11).
            return {}
        if pod_ip in self._steering:
            return self._steering.rows_of(pod_ip, device, self._admission.whole, self._local.pods)
        if not device or pod_ip not in self._local.pods or pod_ip in self._local.selections:
            return {}
        return {layout.selected_key(pod_ip, device[pod_ip]): layout.selected_value(0, SelectedState.NOT)}

    def _fitting(self, maps: MapView) -> dict[IPv4Address, Rows]:
        admitted = self._admission.admit_pods(self._steering, maps)
        wanted = {pod_ip: self._rows_of(pod_ip) for pod_ip in admitted}
        left = maps.room(MapName.SELECTED) - sum(map(len, wanted.values()))
        # Pods that are left alone come last: of them only as many as there is room for.
        for pod_ip in self._local.pods:
            if left <= 0:
                break
            if pod_ip not in self._steering and (rows := self._rows_of(pod_ip)):
                wanted[pod_ip] = rows
                left -= 1
        return wanted

    # -- the review --

    def pods(self) -> tuple[IPv4Address, ...]:
        """All that have rows, or may get some."""
        return tuple({**dict.fromkeys(self._steering), **dict.fromkeys(self._local.pods), **dict.fromkeys(self._rows)})

    def compare(self, pod_ips: Iterable[IPv4Address], maps: MapView) -> tuple[int, Wishes]:
        """How many of these pods are wished for otherwise than they should be, and what puts it right. Right after
        `renew`."""
        wanted, wrong, wishes = maps.wanted(MapName.SELECTED), 0, Wishes()
        for pod_ip in pod_ips:
            put_right = Wishes() if self._is_tight else self._put(pod_ip, self._rows_of(pod_ip))
            rows = self._rows.get(pod_ip, {})
            put_right |= {key: value for key, value in rows.items() if wanted.get(key) != value}
            wrong += bool(put_right)
            wishes |= put_right
        return wrong, wishes

    def compare_keys(self, keys: Iterable[bytes], maps: MapView) -> Wishes:
        """Those that are wished for and should not be, to be absent."""
        wanted = maps.wanted(MapName.SELECTED)
        return {key: None for key in keys if key in wanted and key not in self._rows.get(layout.pod_of(key), ())}
