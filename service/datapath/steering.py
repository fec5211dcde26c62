"""Which local pods are steered, and when: the life of a selection on the pod's node. Pure.

A selection never changes under open flows (rule W10). Connection tracking remembers how a flow's source was treated:
an entry from before a policy would masquerade a steered packet, one from its time would let an unsteered packet leave
with the bare pod address. So a pod passes through states in which matching packets are dropped and counted before
netfilter sees them, first with the old rules, then with the new, and each time its outside entries are deleted. And
steering begins when the holder and a living successor have acknowledged the pod (rule G5): a packet steered earlier
would only be dropped at the gateway.
"""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address

from service.datapath import layout
from service.datapath.layout import SelectedState
from service.policy.rule_set import RuleSet, Selection

SUCCESSOR_PATIENCE_NS = 1_000_000_000
"""How long a pod waits for a successor that does not acknowledge; the holder alone is then enough, because a pod that
cannot talk now is worse off than one whose first packets after a failover are dropped."""


class Phase(Enum):
    """How far a selected pod is."""

    WITHDRAWING = "withdrawing"
    """The former rules still stand but drop; connection tracking is to be cleared."""
    SETTING = "setting"
    """The new rules stand but drop; connection tracking is to be cleared."""
    PENDING = "pending"
    """Cleared; waits for acknowledgements."""
    STEERING = "steering"
    LEAVING = "leaving"
    """No longer selected; the former rules drop until connection tracking is cleared, then the pod goes."""


_STATES = {
    Phase.WITHDRAWING: SelectedState.CHANGING,
    Phase.SETTING: SelectedState.CHANGING,
    Phase.PENDING: SelectedState.PENDING,
    Phase.STEERING: SelectedState.STEER,
    Phase.LEAVING: SelectedState.CHANGING,
}
_CLEARING = (Phase.WITHDRAWING, Phase.SETTING, Phase.LEAVING)


@dataclass(slots=True)
class SteeredPod:
    """One local pod that is or was selected."""

    rule_set: RuleSet
    """In force in the datapath."""
    wanted: Selection | None
    """What shall be; None: not selected any more."""
    phase: Phase
    since_ns: int
    """Start of the phase."""


@dataclass(frozen=True, slots=True)
class Clearing:
    """One pod's turn at connection tracking: report it back when its entries are deleted."""

    pod_ip: IPv4Address
    phase: Phase
    rule_set: int


@dataclass(frozen=True, slots=True)
class Audience:
    """Who must know a pod before it is steered."""

    holders: tuple[str, ...]
    successors: tuple[str, ...]
    """Only those that live."""


class Steering:
    """All local pods by address. The caller reports what it did to the kernel; this says what comes next."""

    def __init__(self) -> None:
        self._pods: dict[IPv4Address, SteeredPod] = {}

    def adopt(self, pod_ip: IPv4Address, rule_set: RuleSet, *, now_ns: int) -> None:
        """A pod that a former agent was steering: if its rule set is still the same, nothing is interrupted."""
        self._pods[pod_ip] = SteeredPod(rule_set, None, Phase.STEERING, now_ns)

    def select(self, selections: Mapping[IPv4Address, Selection], *, now_ns: int) -> None:
        """Take the selections of this node's pods as they are now."""
        for pod_ip, selection in selections.items():
            pod = self._pods.get(pod_ip)
            if pod is None:
                self._pods[pod_ip] = SteeredPod(selection.rule_set, selection, Phase.SETTING, now_ns)
                continue
            pod.wanted = selection
            if pod.rule_set.id == selection.rule_set.id:
                # Of an adopted one only that is known which had come into the kernel.
                pod.rule_set = selection.rule_set
            if pod.rule_set.id != selection.rule_set.id or pod.phase is Phase.LEAVING:
                _enter(pod, Phase.WITHDRAWING, now_ns)
        for pod_ip, pod in self._pods.items():
            if pod_ip not in selections:
                pod.wanted = None
                _enter(pod, Phase.LEAVING, now_ns)

    def to_clear(self) -> tuple[Clearing, ...]:
        """Pods whose connection-tracking entries must go, once the present rows are in the kernel."""
        return tuple(
            Clearing(pod_ip, pod.phase, pod.rule_set.id) for pod_ip, pod in self._pods.items() if pod.phase in _CLEARING
        )

    def cleared(self, done: Iterable[Clearing], *, now_ns: int) -> None:
        """Their entries are deleted. A pod whose phase or rules changed meanwhile is cleared again."""
        for clearing in done:
            pod = self._pods.get(clearing.pod_ip)
            if pod is None or (pod.phase, pod.rule_set.id) != (clearing.phase, clearing.rule_set):
                continue
            if pod.wanted is None:
                del self._pods[clearing.pod_ip]
            elif pod.rule_set.id != pod.wanted.rule_set.id or pod.phase is Phase.WITHDRAWING:
                pod.rule_set = pod.wanted.rule_set
                _enter(pod, Phase.SETTING, now_ns)
            else:
                _enter(pod, Phase.PENDING, now_ns)

    def admit(
        self,
        audience: Callable[[Selection], Audience],
        acknowledged: Callable[[IPv4Address], Iterable[str]],
        *,
        now_ns: int,
    ) -> int | None:
        """Let pods whose audience has acknowledged begin; returns when the next one's patience ends, or None."""
        deadline: int | None = None
        for pod_ip, pod in self._pods.items():
            if pod.phase is not Phase.PENDING or pod.wanted is None:
                continue
            needed = audience(pod.wanted)
            known = tuple(acknowledged(pod_ip))
            patience_ns = pod.since_ns + SUCCESSOR_PATIENCE_NS
            if not all(name in known for name in needed.holders):
                continue
            if all(name in known for name in needed.successors) or now_ns >= patience_ns:
                _enter(pod, Phase.STEERING, now_ns)
            elif deadline is None or patience_ns < deadline:
                deadline = patience_ns
        return deadline

    def rule_sets(self) -> dict[IPv4Address, RuleSet]:
        """Rules in force, by pod."""
        return {pod_ip: pod.rule_set for pod_ip, pod in self._pods.items()}

    def phases(self) -> dict[IPv4Address, Phase]:
        """How far each selected pod is; for status."""
        return {pod_ip: pod.phase for pod_ip, pod in self._pods.items()}

    def rows_of(
        self, pod_ip: IPv4Address, devices: Mapping[IPv4Address, int], whole: Container[int]
    ) -> dict[bytes, bytes]:
        """Of the `selected` map: one row with the pod's device, where known, and one with device 0.

        Without the first, matching packets of the pod are dropped as from an unknown device: never leaked. A pod whose
        rule set is not in `whole` is not steered: by half of its rules it could get a wrong address (rule C1).
        """
        pod = self._pods[pod_ip]
        state = _STATES[pod.phase] if pod.rule_set.id in whole else SelectedState.CHANGING
        value = layout.selected_value(pod.rule_set.id, state)
        rows = {layout.selected_key(pod_ip, 0): value}
        if (device := devices.get(pod_ip)) is not None:
            rows[layout.selected_key(pod_ip, device)] = value
        return rows


def _enter(pod: SteeredPod, phase: Phase, now_ns: int) -> None:
    if pod.phase is not phase:
        pod.phase, pod.since_ns = phase, now_ns
