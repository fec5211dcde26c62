"""Which local pods are steered, and by which rules: the life of a selection on the pod's node. Pure.

A pod that is newly selected has connections whose source connection tracking remembers: their packets would reach the
steering device translated by somebody else. So it begins in a state in which matching packets are dropped and counted
before netfilter sees them, until its outside entries are deleted (rule W10). It ends in one too, as an entry from its
time would let an unsteered packet leave with the bare pod address. In between, an edit of its rules is one write to its
row (rule E1): open flows go on under the rules by which they were judged, are judged anew by the next packet, and those
whose verdict is the same feel nothing. What connection tracking knows of destinations that are named now and were not,
or the reverse, is deleted then.
"""

from collections.abc import Container, Iterable, Mapping
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
    """No longer selected; the former rules drop until connection tracking is cleared, then the pod goes."""


_STATES = {
    Phase.SETTING: SelectedState.CHANGING,
    Phase.STEERING: SelectedState.STEER,
    Phase.LEAVING: SelectedState.CHANGING,
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


class Steering:
    """All local pods by address. The caller reports what it did to the kernel; this says what comes next."""

    def __init__(self) -> None:
        self._pods: dict[IPv4Address, SteeredPod] = {}
        self._kept: dict[tuple[int, ...], tuple[IPv4Network, ...]] = {}
        """What is unchanged between rule sets, as long as any pod waits: many have the same."""

    def adopt(self, pod_ip: IPv4Address, rule_set: RuleSet) -> None:
        """A pod that a former agent was steering: if its rule set is still the same, nothing is interrupted.

        That agent may not have come to clearing. What has a flow is in step (rule E3)."""
        self._pods[pod_ip] = SteeredPod(rule_set, None, Phase.STEERING, None)

    def select(self, selections: Mapping[IPv4Address, Selection]) -> None:
        """Take the selections of this node's pods as they are now."""
        for pod_ip, selection in selections.items():
            known = self._pods.get(pod_ip)
            if known is None:
                self._pods[pod_ip] = SteeredPod(selection.rule_set, selection, Phase.SETTING, selection.pod)
            else:
                _select(known, selection)
        for pod_ip, pod in self._pods.items():
            if pod_ip not in selections and pod.phase is not Phase.LEAVING:
                # Selected again, it has lost its flows, and with them what is known of its connections.
                pod.wanted, pod.phase, pod.former = None, Phase.LEAVING, (*pod.former, pod.rule_set, NOTHING)

    def switch(self, whole: Container[int]) -> None:
        """Let each pod go by its new rules as soon as all of these are in the kernel: `whole` names such sets (E1)."""
        for pod in self._pods.values():
            if pod.phase is not Phase.STEERING or pod.wanted is None:
                continue
            wanted = pod.wanted.rule_set
            if wanted.id != pod.rule_set.id and wanted.id in whole:
                pod.former += (pod.rule_set,)
                pod.rule_set = wanted

    def to_clear(self) -> tuple[Clearing, ...]:
        """Pods whose connection-tracking entries must go, once the present rows are in the kernel."""
        waiting = [(pod_ip, pod) for pod_ip, pod in self._pods.items() if pod.phase is not Phase.STEERING or pod.former]
        if not waiting:
            self._kept.clear()
        return tuple(
            Clearing(pod_ip, pod.phase, pod.rule_set.id, self._unchanged(pod), len(pod.former))
            for pod_ip, pod in waiting
        )

    def _unchanged(self, pod: SteeredPod) -> tuple[IPv4Network, ...]:
        """What is steered, or is not, as it was under every former rule set."""
        now = NOTHING if pod.phase is Phase.LEAVING else pod.rule_set
        name = (now.id, *(former.id for former in pod.former))
        if name not in self._kept:
            keep = unchanged(pod.former[0].steered, now.steered)
            for former in pod.former[1:]:
                keep = _both(keep, unchanged(former.steered, now.steered))
            self._kept[name] = keep
        return self._kept[name]

    def cleared(self, done: Iterable[Clearing]) -> None:
        """Their entries are deleted. A pod whose phase or rules changed meanwhile is cleared again."""
        for clearing in done:
            pod = self._pods.get(clearing.pod_ip)
            if pod is None or (pod.phase, pod.rule_set.id) != (clearing.phase, clearing.rule_set):
                continue
            pod.former = pod.former[clearing.former :]
            if pod.wanted is None:
                del self._pods[clearing.pod_ip]
            elif pod.phase is Phase.SETTING:
                pod.phase = Phase.STEERING

    def rule_sets(self) -> list[tuple[IPv4Address, RuleSet]]:
        """What each pod goes by, and what it shall go by: both have to be in the kernel."""
        found = []
        for pod_ip, pod in self._pods.items():
            found.append((pod_ip, pod.rule_set))
            if pod.wanted is not None and pod.wanted.rule_set.id != pod.rule_set.id:
                found.append((pod_ip, pod.wanted.rule_set))
        return found

    def phases(self) -> dict[IPv4Address, Phase]:
        """How far each selected pod is; for status."""
        return {pod_ip: pod.phase for pod_ip, pod in self._pods.items()}

    def unsettled(self) -> frozenset[IPv4Address]:
        """Pods of which connection tracking may know flows that are judged otherwise now: theirs must stay ended."""
        return frozenset(clearing.pod_ip for clearing in self.to_clear())

    def rows_of(
        self, pod_ip: IPv4Address, devices: Mapping[IPv4Address, int], whole: Container[int]
    ) -> dict[bytes, bytes]:
        """Of the `selected` map: one row with the pod's device, where known, and one with device 0.

        Without the first, matching packets of the pod are dropped as from an unknown device: never leaked. A pod whose
        rule set is not in `whole` is not steered: by half of its rules it could get a wrong address (rule C1).
        """
        pod, device = self._pods[pod_ip], devices.get(pod_ip)
        state = _STATES[pod.phase] if pod.rule_set.id in whole else SelectedState.CHANGING
        uid = pod.pod.uid if pod.pod is not None else ""
        value = layout.selected_value(pod.rule_set.id, state, layout.pod_number(uid, device or 0))
        rows = {layout.selected_key(pod_ip, 0): value}
        if device is not None:
            rows[layout.selected_key(pod_ip, device)] = value
        return rows


def _select(pod: SteeredPod, selection: Selection) -> None:
    wanted = selection.rule_set
    if pod.phase is Phase.LEAVING or (pod.phase is Phase.SETTING and wanted.id != pod.rule_set.id):
        pod.rule_set, pod.phase = wanted, Phase.SETTING
    if wanted.id == pod.rule_set.id:
        # Of an adopted one only that is known which had come into the kernel.
        pod.rule_set = wanted
    pod.wanted, pod.pod = selection, selection.pod


def _both(one: tuple[IPv4Network, ...], other: tuple[IPv4Network, ...]) -> tuple[IPv4Network, ...]:
    everything = (IPv4Network("0.0.0.0/0"),)
    # An address is in both where it is missing from neither: what is not in the one, and what is not in the other.
    lacking = (*unchanged(one, ()), *unchanged(other, ()))
    return unchanged(lacking, ()) if lacking else everything
