"""The gateway under test: a lab with the three floating IPs and a policy, and the questions when it is whole."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from service.lab.client import ask_udp
from service.lab.lab import Lab, lab_down, lab_up, wait_until_ready
from service.lab.manifest import apply_manifest
from service.lab.namespace import inside
from service.lab.plan import LabOptions, PlannedPod
from service.lab.state import locked
from service.lab.status import fetch_json, wait_for
from service.model.errors import TransientError

FLOATING_IPS = ("192.168.1.100", "192.168.1.101", "192.168.1.102")
SOURCE_IP = FLOATING_IPS[0]
"""The `egressSourceIP` of the policy."""
OUTSIDE = "8.8.8.8"
WHOLE_TIMEOUT_S = 60.0
ASK_TIMEOUT_S = 0.5

Report = Callable[[str], None]


def manifests(destinations: tuple[str, ...]) -> list[dict[str, Any]]:
    """The gateway with its floating IPs, and the policy of the frontends of alice and paul."""
    api_version = "networking.gke.io/v1alpha1"
    pods = {"matchLabels": {"role": "frontend"}}
    return [
        {
            "apiVersion": api_version,
            "kind": "AnthosNetworkGateway",
            "metadata": {"namespace": "kube-system", "name": "default"},
            "spec": {"floatingIPs": list(FLOATING_IPS)},
        },
        {
            "apiVersion": api_version,
            "kind": "EgressNATPolicy",
            "metadata": {"name": "load"},
            "spec": {
                "egress": [
                    {"namespaceSelector": {"matchLabels": {"user": user}}, "podSelector": pods}
                    for user in ("alice", "paul")
                ],
                "destinationCIDRs": list(destinations),
                "egressSourceIP": SOURCE_IP,
            },
        },
    ]


@contextlib.contextmanager
def running_lab(options: LabOptions, report: Report, *, processes: bool = True, keep: bool = False) -> Iterator[Lab]:
    """A lab of our own, in the place of any left over of that name; cleared on the way out, whatever happens.

    Raises OperatorError where another load test is using that name.
    """
    with locked(f"{options.name}-loadtest"):
        try:
            yield lab_up(options, processes=processes, replace=True, report=report)
        finally:
            if not keep:
                report(f"clearing the lab {options.name}")
                lab_down(options.name)


def apply_policy(lab: Lab, destinations: tuple[str, ...]) -> None:
    """The gateway and one policy for these destinations, in the place of an earlier one; returns at once."""
    apply_manifest(lab.manifests, "load.yaml", manifests(destinations))


def status(lab: Lab, node: str) -> dict[str, Any]:
    """The status document of a node's agent. Raises TransientError where it does not answer."""
    planned = lab.node(node)
    return fetch_json(planned.netns, str(planned.ip), "/v1/status")


def leads(lab: Lab, controller: str) -> bool:
    """Whether that controller is the leader. Raises TransientError where it does not answer."""
    planned = next(one for one in lab.plan.controllers if one.name == controller)
    return bool(fetch_json(planned.netns, str(planned.ip), "/v1/status")["leading"])


def defect(document: dict[str, Any], node_names: tuple[str, ...]) -> str:
    """What a node's status document says is not as it should be; empty where the cluster is whole in its eyes."""
    nodes = document.get("nodes", {})
    for name in node_names:
        node = nodes.get(name, {})
        if node.get("state") != "Up" or not node.get("ready"):
            return f"{name} is {node.get('state', 'unknown')}, {'' if node.get('ready') else 'not '}ready"
    for address in FLOATING_IPS:
        row = document.get("floatingIPs", {}).get(address, {})
        if not row.get("holder") or row["holder"] != row.get("assigned"):
            return f"{address} is assigned to {row.get('assigned')} and held by {row.get('holder')}"
        if not row.get("successor"):
            return f"{address} has no successor"
    keeper = document.get("keeper", {})
    if not keeper.get("alive"):
        return f"the keeper of {document.get('node')} is not alive"
    if keeper.get("elector") and not keeper.get("voting"):
        return f"the elector on {document.get('node')} does not vote"
    waiting = [pod for pod, phase in document.get("pods", {}).items() if phase != "steering"]
    return f"pods not yet steered: {', '.join(waiting)}" if waiting else ""


def wait_until_whole(lab: Lab, *, timeout_s: float = WHOLE_TIMEOUT_S) -> dict[str, Any]:
    """Wait until every agent sees the whole cluster in order, and return the status of the last one asked.

    Raises TransientError saying what is still missing.
    """
    names = tuple(node.name for node in lab.plan.nodes)

    def is_whole() -> dict[str, Any]:
        document: dict[str, Any] = {}
        for name in names:
            document = status(lab, name)
            if missing := defect(document, names):
                raise TransientError(f"{name} says: {missing}")
        return document

    wait_until_ready(lab)
    return wait_for("the cluster to be whole", is_whole, timeout_s=timeout_s)


def wait_until_translated(lab: Lab, pod: PlannedPod, *, timeout_s: float = WHOLE_TIMEOUT_S) -> None:
    """Until the outside server sees the pod as the policy's source. Raises TransientError where it does not."""

    def is_translated() -> bool:
        try:
            seen = inside(pod.netns, lambda: ask_udp(OUTSIDE, timeout_s=ASK_TIMEOUT_S)).source
        except OSError as error:
            raise TransientError(str(error)) from error
        if seen != SOURCE_IP:
            raise TransientError(f"{pod.full_name} is seen as {seen}")
        return True

    wait_for(f"{pod.full_name} to be seen as {SOURCE_IP}", is_translated, timeout_s=timeout_s)


def selected_pod(lab: Lab, node: str, *, on_bridge: bool) -> PlannedPod:
    """A pod of the node that the policy selects, attached in the way asked for."""
    pods = lab.node(node).pods
    return next(pod for pod in pods if pod.role == "frontend" and pod.on_bridge == on_bridge)
