"""Which local pods are steered, and by which rules: the life of a selection on the pod's node. Pure.

A pod that is newly selected has connections whose source connection tracking remembers: their packets would reach the
steering device translated by somebody else. So it begins in a state in which matching packets are dropped and counted
before netfilter sees them, until its outside entries are deleted (rule W10). It ends in one too, as an entry from its
time would let an unsteered packet leave with the bare pod address. In between, an edit of its rules is one write to its
row (rule E1): open flows go on under the rules by which they were judged, are judged anew by the next packet, and those
whose verdict is the same feel nothing. What connection tracking knows of destinations that are named now and were not,
or the reverse, is deleted then. A pod that is no longer selected has a row without rules while it has flows: of a
connection that has ended, connection tracking would take a FIN for invalid, and nobody would translate it (rule E2).
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network

from service.datapath import layout
from service.datapath.layout import SelectedState
from service.gateway.exemption import unchanged
from service.model.objects import Pod
from service.policy.rule_set import RuleSet, Selection

NOTHING = RuleSet(0, ())
"""By which a pod goes that is not selected."""


class Phase(Enum):
    """How far a selected pod is."""

    SETTING = "setting"
    """The rules stand but drop; connection tracking is to be cleared."""
    STEERING = "steering"
    LEAVING = "leaving"
    """No longer selected; the former rules drop until connection tracking is cleared."""
    LEFT = "left"
    """Not selected; its connections have ended, and their segments are answered with resets until they are silent."""


_STATES = {
    Phase.SETTING: SelectedState.CHANGING,
    Phase.STEERING: SelectedState.STEER,
    Phase.LEAVING: SelectedState.CHANGING,
    Phase.LEFT: SelectedState.STEER,
}


@dataclass(slots=True)
class SteeredPod:
    """One local pod that is or was selected."""

    rule_set: RuleSet
    """In force in the datapath."""
    wanted: Selection | None
    """What shall be; None: not selected any more."""
    phase: Phase
    pod: Pod | None
    """As it was last selected; None of one that a former agent steered, before objects are known."""
    former: tuple[RuleSet, ...] = (NOTHING,)
    """In force before, since connection tracking was last in step; in order."""


@dataclass(frozen=True, slots=True)
class Clearing:
    """One pod's turn at connection tracking: report it back when its entries are deleted."""

    pod_ip: IPv4Address
    phase: Phase
    rule_set: int
    keep: tuple[IPv4Network, ...] = ()
    """Connections to here are as they should be."""
    former: int = 0
    """How many former rule sets it makes up for."""


@dataclass(slots=True)
class _Use:
    """A rule set that pods go by, or shall go by."""

    rule_set: RuleSet
    pods: dict[IPv4Address, None]


class Steering:
    """All local pods by address. The caller reports what it did to the kernel; this says what comes next."""

    def __init__(self) -> None:
        self._pods: dict[IPv4Address, SteeredPod] = {}
        # What follows from `_pods`, kept by `_file` after each change of a pod.
        self._named: dict[IPv4Address, tuple[int, ...]] = {}
        """The rule sets of each pod: what it goes by, then what it shall go by where that is another one."""
        self._uses: dict[int, _Use] = {}
        self._waiting: dict[IPv4Address, None] = {}
        """Pods that are steered and shall go by other rules."""
        self._unsettled: dict[IPv4Address, None] = {}
        """Pods of which connection tracking knows what must go."""
        self._left: dict[IPv4Address, None] = {}
        self._kept = _Kept()
        # What changed since it was last taken.
        self._changed: dict[IPv4Address, None] = {}
        self._changed_sets: dict[int, None] = {}

    def adopt(self, pod_ip: IPv4Address, rule_set: RuleSet) -> None:
        """A pod that a former agent was steering: if its rule set is still the same, nothing is interrupted.

        That agent may not have come to clearing. What has a flow is in step (rule E3)."""
        phase, former = (Phase.STEERING, (NOTHING,)) if rule_set.id != NOTHING.id else (Phase.LEFT, ())
        self._pods[pod_ip] = SteeredPod(rule_set, None, phase, None, former)
        self._file(pod_ip)

    def select(self, selections: Mapping[IPv4Address, Selection]) -> None:
        """Take the selections of all of this node's pods as they are now."""
        self.select_some({pod_ip: selections.get(pod_ip) for pod_ip in (*selections, *self._pods)})

    def select_some(self, selections: Mapping[IPv4Address, Selection | None]) -> None:
        """Take the selections of these pods as they are now; None: not selected, or gone."""
        for pod_ip, selection in selections.items():
            known = self._pods.get(pod_ip)
            if known is None and selection is None:
                continue
            if known is None:
                assert selection is not None
                self._pods[pod_ip] = SteeredPod(selection.rule_set, selection, Phase.SETTING, selection.pod)
            elif selection is not None:
                _select(known, selection)
            elif known.phase not in (Phase.LEAVING, Phase.LEFT):
                # Selected again, it has lost its flows, and with them what is known of its connections.
                known.wanted, known.phase = None, Phase.LEAVING
                known.former += (known.rule_set, NOTHING)
            self._file(pod_ip)

    def switch(self, whole: Container[int]) -> None:
        """Let each pod go by its new rules as soon as all of these are in the kernel: `whole` names such sets (E1)."""
        for pod_ip in tuple(self._waiting):
            pod = self._pods[pod_ip]
            if pod.wanted is not None and pod.wanted.rule_set.id in whole:
                pod.former += (pod.rule_set,)
                pod.rule_set = pod.wanted.rule_set
                self._file(pod_ip)

    @property
    def is_settled(self) -> bool:
        """There is nothing `to_clear`."""
        return not self._unsettled

    def to_clear(self) -> tuple[Clearing, ...]:
        """Pods whose connection-tracking entries must go, once the present rows are in the kernel."""
        return tuple(
            Clearing(pod_ip, pod.phase, pod.rule_set.id, self._kept.of(pod), len(pod.former))
            for pod_ip, pod in ((pod_ip, self._pods[pod_ip]) for pod_ip in self._unsettled)
        )

    def cleared(self, done: Iterable[Clearing]) -> None:
        """Their entries are deleted. A pod whose phase or rules changed meanwhile is cleared again."""
        for clearing in done:
            pod = self._pods.get(clearing.pod_ip)
            if pod is None or (pod.phase, pod.rule_set.id) != (clearing.phase, clearing.rule_set):
                continue
            pod.former = pod.former[clearing.former :]
            if pod.wanted is None:
                pod.rule_set, pod.phase, pod.former = NOTHING, Phase.LEFT, ()
            elif pod.phase is Phase.SETTING:
                pod.phase = Phase.STEERING
            self._file(clearing.pod_ip)

    def left(self) -> tuple[IPv4Address, ...]:
        """Pods that are kept for their ended flows alone."""
        return tuple(self._left)

    def has_left(self, pod_ip: IPv4Address) -> bool:
        """It is kept for its ended flows alone."""
        return pod_ip in self._left

    def forget(self, pod_ips: Iterable[IPv4Address]) -> bool:
        """Those of them that have left and have no flow any more; True where there were any."""
        gone = [pod_ip for pod_ip in pod_ips if pod_ip in self._left]
        for pod_ip in gone:
            del self._pods[pod_ip]
            self._file(pod_ip)
        return bool(gone)

    def rule_sets(self) -> list[tuple[IPv4Address, RuleSet]]:
        """What each pod goes by, and what it shall go by: both have to be in the kernel."""
        return [(pod_ip, self._uses[name].rule_set) for pod_ip, names in self._named.items() for name in names]

    def phases(self) -> dict[IPv4Address, Phase]:
        """How far each pod is that is selected, or was until now; for status."""
        return {pod_ip: pod.phase for pod_ip, pod in self._pods.items() if pod.phase is not Phase.LEFT}

    def unsettled(self) -> frozenset[IPv4Address]:
        """Pods of which connection tracking may know flows that are judged otherwise now: theirs must stay ended."""
        return frozenset(self._unsettled)

    # -- in pieces --

    def __contains__(self, pod_ip: IPv4Address) -> bool:
        """It is or was selected."""
        return pod_ip in self._pods

    def __iter__(self) -> Iterator[IPv4Address]:
        """All of them, in the order in which they were selected."""
        return iter(self._pods)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._pods)

    def wanted(self, pod_ip: IPv4Address) -> Selection | None:
        """What it shall go by."""
        pod = self._pods.get(pod_ip)
        return pod.wanted if pod is not None else None

    def rule_set(self, identity: int) -> RuleSet | None:
        """A rule set of this name that some pod goes by or shall go by."""
        use = self._uses.get(identity)
        return use.rule_set if use is not None else None

    def users(self, identity: int) -> Iterable[IPv4Address]:
        """The pods that go by this rule set, or shall."""
        use = self._uses.get(identity)
        return use.pods if use is not None else ()

    def take_changed(self) -> tuple[dict[IPv4Address, None], dict[int, None]]:
        """The pods of which anything changed since the last call, and the rule sets that got or lost all users."""
        taken = self._changed, self._changed_sets
        self._changed, self._changed_sets = {}, {}
        return taken

    def _file(self, pod_ip: IPv4Address) -> None:
        """Keep in step what follows from a pod that has changed, or is gone."""
        pod = self._pods.get(pod_ip)
        sets = _sets_of(pod) if pod is not None else ()
        before, names = self._named.get(pod_ip, ()), tuple(one.id for one in sets)
        if names:
            self._named[pod_ip] = names
        else:
            self._named.pop(pod_ip, None)
        for one in sets:
            self._use(pod_ip, one)
        for name in before:
            if name not in names:
                self._disuse(pod_ip, name)
        _keep(self._waiting, pod_ip, pod is not None and pod.phase is Phase.STEERING and len(names) > 1)
        is_settled = pod is None or (pod.phase in (Phase.STEERING, Phase.LEFT) and not pod.former)
        _keep(self._unsettled, pod_ip, not is_settled)
        _keep(self._left, pod_ip, pod is not None and pod.phase is Phase.LEFT)
        if not self._unsettled:
            self._kept = _Kept()
        self._changed[pod_ip] = None

    def _use(self, pod_ip: IPv4Address, rule_set: RuleSet) -> None:
        use = self._uses.get(rule_set.id)
        if use is None:
            use = self._uses[rule_set.id] = _Use(rule_set, {})
            self._changed_sets[rule_set.id] = None
        elif len(rule_set.entries) > len(use.rule_set.entries):
            # Of an adopted one only that was known which had come into the kernel.
            use.rule_set = rule_set
            self._changed_sets[rule_set.id] = None
        use.pods[pod_ip] = None

    def _disuse(self, pod_ip: IPv4Address, identity: int) -> None:
        use = self._uses[identity]
        use.pods.pop(pod_ip, None)
        if not use.pods:
            del self._uses[identity]
            self._changed_sets[identity] = None

    def rows_of(
        self,
        pod_ip: IPv4Address,
        devices: Mapping[IPv4Address, int],
        whole: Container[int],
        pods: Mapping[IPv4Address, Pod],
    ) -> dict[bytes, bytes]:
        """Of the `selected` map: one row with the pod's device, where known, and one with device 0.

        Without the first, matching packets of the pod are dropped as from an unknown device: never leaked. A pod whose
        rule set is not in `whole` is not steered: by half of its rules it could get a wrong address (rule I1).
        `pods`: as they are now, for those that only a former agent has seen selected.
        """
        pod, device = self._pods[pod_ip], devices.get(pod_ip)
        is_whole = pod.phase is Phase.LEFT or pod.rule_set.id in whole
        state = _STATES[pod.phase] if is_whole else SelectedState.CHANGING
        selected = pod.pod or pods.get(pod_ip)
        uid = selected.uid if selected is not None else ""
        value = layout.selected_value(pod.rule_set.id, state, layout.pod_number(uid, device or 0))
        rows = {layout.selected_key(pod_ip, 0): value}
        if device is not None:
            rows[layout.selected_key(pod_ip, device)] = value
        return rows


def _select(pod: SteeredPod, selection: Selection) -> None:
    wanted = selection.rule_set
    if pod.phase is Phase.LEFT:
        pod.former = (NOTHING,)
    if pod.phase in (Phase.LEAVING, Phase.LEFT) or (pod.phase is Phase.SETTING and wanted.id != pod.rule_set.id):
        pod.rule_set, pod.phase = wanted, Phase.SETTING
    if wanted.id == pod.rule_set.id:
        # Of an adopted one only that is known which had come into the kernel.
        pod.rule_set = wanted
    pod.wanted, pod.pod = selection, selection.pod


def _sets_of(pod: SteeredPod) -> tuple[RuleSet, ...]:
    if pod.phase is Phase.LEFT:
        return ()
    if pod.wanted is None or pod.wanted.rule_set.id == pod.rule_set.id:
        return (pod.rule_set,)
    return pod.rule_set, pod.wanted.rule_set


def _keep(pods: dict[IPv4Address, None], pod_ip: IPv4Address, belongs: bool) -> None:
    if belongs:
        pods.setdefault(pod_ip)
    else:
        pods.pop(pod_ip, None)


class _Kept:
    """What pods' clearings keep: worked out once for all that go from the same rules to the same rules, as it takes a
    second for tens of thousands of destinations."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[int, int], ...], tuple[IPv4Network, ...]] = {}

    def of(self, pod: SteeredPod) -> tuple[IPv4Network, ...]:
        """What is steered, or is not, as it was under every former rule set."""
        now = NOTHING if pod.phase is Phase.LEAVING else pod.rule_set
        # Of an adopted set only that may be known which had come into the kernel: that one keeps more.
        step = tuple((one.id, len(one.entries)) for one in (*pod.former, now))
        if step not in self._known:
            self._known[step] = _unchanged(pod.former, now)
        return self._known[step]


def _unchanged(formers: Sequence[RuleSet], present: RuleSet) -> tuple[IPv4Network, ...]:
    keep = unchanged(formers[0].steered, present.steered)
    for former in formers[1:]:
        keep = _both(keep, unchanged(former.steered, present.steered))
    return keep


def _both(one: tuple[IPv4Network, ...], other: tuple[IPv4Network, ...]) -> tuple[IPv4Network, ...]:
    everything = (IPv4Network("0.0.0.0/0"),)
    # An address is in both where it is missing from neither: what is not in the one, and what is not in the other.
    lacking = (*unchanged(one, ()), *unchanged(other, ()))
    return unchanged(lacking, ()) if lacking else everything
