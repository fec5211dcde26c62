"""The pods of this node in the maps and in netfilter, driven by what changes: whose rules are in the kernel, who is
steered, who is known to be behind which device. Pure.

What changes of a pod is noted for each of those who have to take account of it, and taken account of when it is their
turn: first what netfilter asks (`destinations`), then who is steered (`select`), then whose device is believed
(`classify`), then rows (`wish`).
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from ipaddress import IPv4Address

from service.datapath import desired, layout
from service.datapath.admission import Admission, MapView
from service.datapath.classification import Classification
from service.datapath.desired import Rows
from service.datapath.layout import Limits, MapName
from service.datapath.local_destinations import LocalDestinations
from service.datapath.local_pods import LocalPods
from service.datapath.review import Part
from service.datapath.selected_rows import SelectedRows
from service.datapath.shortage import Shortage, shortages
from service.datapath.steering import Clearing, Phase, Steering
from service.datapath.used_addresses import UsedAddresses
from service.datapath.worker_pool import Wishes
from service.model.kept import Kept
from service.model.objects import NO_TIMEOUTS, Pod
from service.network.connection_life import ConnectionLives
from service.network.destinations import Destinations
from service.policy.index import PolicyIndex, is_same_selection
from service.policy.rule_set import RuleSet, Selection

_POD_COST, _LIMITS_COST = 4, 1024
"""In the review, beside a look at one row: of a pod or a rule set, and of all limits."""


class DrivenPods:
    """Follows an index; devices are learned, and so is what a former agent left."""

    def __init__(self, node: str, index: PolicyIndex, limits: Limits) -> None:
        """`limits` hold for every rule set that has none of its own."""
        self._local = LocalPods(node, index)
        self.steering = Steering()
        self._admission = Admission()
        self._classification = Classification()
        self._selected = SelectedRows(self._local, self.steering, self._admission, self._classification)
        self._destinations = LocalDestinations(self._local)
        self._lives = Kept[ConnectionLives]()
        self._used = UsedAddresses()
        # Pods of which something is known that has not been taken account of yet: by each of those who have to.
        self._unselected: dict[IPv4Address, None] = {}
        self._unnamed: dict[IPv4Address, None] = {}
        self._unclassified: dict[IPv4Address, None] = {}
        self._unwritten: dict[IPv4Address, None] = {}
        self._missing: dict[IPv4Address, None] = {}
        """Pods of which no device is known."""
        self._is_new = True
        """No selection has been taken yet: what a former agent steered may not be selected any more."""
        self._inherited: dict[int, RuleSet] = {}
        """Rule sets that a former agent left."""
        self._limits = limits
        self._limit_changes: Wishes = dict(desired.limit_rows((), limits))

    @property
    def devices(self) -> Mapping[IPv4Address, int]:
        """Interface index behind which each local pod is."""
        return self._selected.devices

    @property
    def selections(self) -> Mapping[IPv4Address, Selection]:
        """This node's selected pods by address; a live view."""
        return self._local.selections

    @property
    def pods(self) -> Mapping[IPv4Address, Pod]:
        """This node's pods by address, selected or not; a live view."""
        return self._local.pods

    def without_device(self) -> Collection[IPv4Address]:
        """This node's pods of which it is not known behind which device they are; a live view."""
        self._spread()
        return self._missing.keys()

    # -- what is learned --

    def learn_devices(self, devices: Mapping[IPv4Address, int]) -> bool:
        """Take which device each local pod is behind, all of them at once. False where nothing is new."""
        before = self.devices
        changed = [pod_ip for pod_ip, device in devices.items() if before.get(pod_ip) != device]
        if len(before) + sum(pod_ip not in before for pod_ip in changed) > len(devices):
            changed += [pod_ip for pod_ip in before if pod_ip not in devices]
        if not changed:
            return False
        self._selected.devices = dict(devices)
        self._unclassified |= dict.fromkeys(changed)
        self._miss(changed)
        return True

    def _miss(self, changed: Iterable[IPv4Address]) -> None:
        for pod_ip in changed:
            if pod_ip in self._local.pods and pod_ip not in self.devices:
                self._missing[pod_ip] = None
            else:
                self._missing.pop(pod_ip, None)

    def inherit(self, rule_sets: Iterable[RuleSet]) -> None:
        """Go on with what a former agent knew, after `learn_devices`, until it is known anew."""
        self._classification.inherit(self.devices)
        self._unclassified |= dict.fromkeys(self.devices)
        self._inherit({rule_set.id: rule_set for rule_set in rule_sets})

    def disinherit(self) -> None:
        """What nobody has told again by now is not so any more."""
        self._inherit({})

    def _inherit(self, rule_sets: dict[int, RuleSet]) -> None:
        former, self._inherited = self._inherited, rule_sets
        for identity in former | rule_sets:
            self._want(identity)

    # -- what follows, in the order of a turn --

    def destinations(self) -> Destinations:
        """What the rules of each local pod name: what netfilter may keep marked after DNAT (rule W4). The same object
        until something changes."""
        self._spread()
        self._destinations.renew(self._unnamed)
        self._unnamed = {}
        return self._destinations.value

    def connection_lives(self) -> ConnectionLives:
        """For how long connection tracking has to remember what is steered (rule B3)."""
        rule_sets, node = self._rule_sets(), self._limits

        def longest() -> ConnectionLives:
            said = {rule_set.timeouts for rule_set in rule_sets.values() if rule_set.timeouts != NO_TIMEOUTS}
            return ConnectionLives.longest([node.timeouts, *(own.over(node.timeouts) for own in said)])

        return self._lives.of(longest, rule_sets)

    def floating_ips(self) -> tuple[IPv4Address, ...]:
        """Those that local pods are to send from, in order; the same object until they are others."""
        return self._used.of(self._rule_sets())

    def _rule_sets(self) -> Mapping[int, RuleSet]:
        self.destinations()
        return self._destinations.rule_sets

    def destinations_changed(self, since: Destinations) -> Collection[IPv4Address] | None:
        """The pods that are otherwise now than in that former value of `destinations`; None: not known."""
        return self._destinations.changed_since(since)

    def select(self) -> None:
        """Take the selections of this node's pods as they are now."""
        self._spread()
        selections = self._local.selections
        if self._is_new:
            self.steering.select(selections)
        else:
            self.steering.select_some({pod_ip: selections.get(pod_ip) for pod_ip in self._unselected})
        self._is_new, self._unselected = False, {}

    def classify(self, *, now_ns: int) -> None:
        """Say anew which devices are believed to be their pods', of pods and devices as they are known now (W11)."""
        self._spread()
        for pod_ip in self._unclassified:
            pod = self._local.pods.get(pod_ip)
            uid = pod.uid if pod is not None else None
            self._classification.learn(pod_ip, uid, self.devices.get(pod_ip), now_ns=now_ns)
        believed = self._classification.pass_time(now_ns=now_ns)
        self._unwritten |= self._unclassified | dict.fromkeys(believed)
        self._unclassified = {}

    def wish(self, maps: MapView) -> dict[str, Wishes]:
        """What changes of each map, as far as what it depends on is in the kernel by now (rule I1)."""
        self._spread()
        self._take_steered()
        admitted = self._admission.admit(maps)
        self.steering.switch(self._admission.whole)
        self._take_steered()
        for identity in admitted.turned:
            self._unwritten |= dict.fromkeys(self.steering.users(identity))
        limits, self._limit_changes = self._limit_changes | self._limits_of(admitted.sets), {}
        selected, self._unwritten = self._selected.renew(self._unwritten, maps), {}
        # Before what names them.
        return {MapName.LIMITS: limits, MapName.RULES: admitted.rows, MapName.SELECTED: selected}

    def _spread(self) -> None:
        """Have all that follows from pods and their selections worked out anew, of those that changed. Their rows are
        when they have been classified, or steered otherwise."""
        if changed := self._local.take_changed():
            self._unselected |= changed
            self._unnamed |= changed
            self._unclassified |= changed
            self._miss(changed)

    def _take_steered(self) -> None:
        pods, sets = self.steering.take_changed()
        self._unwritten |= pods
        for identity in sets:
            self._want(identity)

    def _want(self, identity: int) -> None:
        self._admission.want(identity, self.steering.rule_set(identity) or self._inherited.get(identity))

    def _limits_of(self, sets: Mapping[int, RuleSet | None]) -> Wishes:
        """Of these sets, also those that have no row of their own (any more)."""
        present = [rule_set for rule_set in sets.values() if rule_set is not None]
        rows = desired.limit_rows(present, self._limits) if present else {}
        return dict.fromkeys(map(layout.limits_key, sets)) | rows

    # -- what is asked besides --

    def to_clear(self, maps: MapView) -> tuple[Clearing, ...]:
        """Pods whose connection-tracking entries can go now, because the rows that precede it are in the kernel (W10).

        Each for itself: a pod for whose rows there is no room holds up no other.
        """
        return tuple(clearing for clearing in self.steering.to_clear() if self._is_preceded(clearing, maps))

    def _is_preceded(self, clearing: Clearing, maps: MapView) -> bool:
        whole = self._admission.whole
        device = self._selected.believed(clearing.pod_ip)
        rows = self.steering.rows_of(clearing.pod_ip, device, whole, self._local.pods)
        if clearing.phase is not Phase.LEAVING:
            return clearing.rule_set in whole and maps.contains(MapName.SELECTED, rows)
        # Of a pod that has no row nothing is steered: it need not get one in order to leave.
        return all(
            maps.contains(MapName.SELECTED, {key: value}) or not maps.has(MapName.SELECTED, key)
            for key, value in rows.items()
        )

    def shortages(self, maps: MapView) -> tuple[Shortage, ...]:
        """What is not in the kernel for want of room, and which pods suffer; as of the last `wish`."""
        served = self.steering.rule_sets()
        unfit = {rule_set.id: rule_set for _, rule_set in served if rule_set.id in self._admission.unfit}
        return shortages(maps.waiting(), unfit, self._admission.unfit_pods, served)

    # -- the review --

    def review_parts(self, maps: MapView) -> tuple[Part, ...]:
        """What `Review` goes through. Each is looked at right after a `wish` that was wished for."""
        admission, selected, limits = self._admission, self._selected, MapName.LIMITS
        return (
            Part("", self._local.keys, lambda keys: (self._local.compare(keys), {}), _POD_COST),
            Part("", selected.pods, lambda pod_ips: (self._compare_steered(pod_ips), {}), _POD_COST),
            Part(MapName.SELECTED, selected.pods, lambda pod_ips: selected.compare(pod_ips, maps), _POD_COST),
            _keys_part(MapName.SELECTED, maps, selected.compare_keys),
            Part(MapName.RULES, admission.ids, lambda ids: admission.compare(ids, maps), _POD_COST),
            _keys_part(MapName.RULES, maps, admission.compare_keys),
            Part(limits, lambda: (None,), lambda _: _difference(maps.wanted(limits), self._limit_rows()), _LIMITS_COST),
        )

    def _compare_steered(self, pod_ips: Iterable[IPv4Address]) -> int:
        """How many pods are steered otherwise than they are selected, or netfilter has otherwise; put right in the next
        turn."""
        self._spread()
        pods = tuple(pod_ips)
        wrong = [
            pod_ip
            for pod_ip in pods
            if not is_same_selection(self.steering.wanted(pod_ip), self._local.selections.get(pod_ip))
            and pod_ip not in self._unselected
        ]
        self._unselected |= dict.fromkeys(wrong)
        self._unclassified |= dict.fromkeys(pods)
        self._miss(pods)
        return len(wrong) + self._destinations.renew(pod_ip for pod_ip in pods if pod_ip not in self._unnamed)

    def _limit_rows(self) -> Rows:
        return desired.limit_rows(self._admission.sets(), self._limits)


def _difference(wanted: Mapping[bytes, bytes], rows: Rows) -> tuple[int, Wishes]:
    wrong: Wishes = {key: value for key, value in rows.items() if wanted.get(key) != value}
    wrong |= {key: None for key in wanted if key not in rows}
    return len(wrong), wrong


def _keys_part(name: str, maps: MapView, compare: Callable[[Iterable[bytes], MapView], Wishes]) -> Part:
    """What is wished for and should not be."""

    def counted(keys: Iterable[bytes]) -> tuple[int, Wishes]:
        wrong = compare(keys, maps)
        return len(wrong), wrong

    return Part(name, lambda: tuple(maps.wanted(name)), counted)
