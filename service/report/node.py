"""What is true of a gateway node now, by its gossip, its leases and its Node object."""

from typing import Any

from service.model.gateway_node import GatewayNode, Hearing, NodeState
from service.report.condition import condition
from service.report.facts import Facts


def node_status(node: GatewayNode, facts: Facts) -> dict[str, Any]:
    """The status of an AnthosNetworkGatewayNode, without term and times."""
    held = {str(address): by.token for address, by in sorted(facts.holders.items()) if by.node == node.name}
    status: dict[str, Any] = {
        "state": node.state.value,
        "role": node.role.value,
        "schedulable": node.schedulable,
        "addresses": ", ".join(held),
        "segments": [
            {
                "subnet": str(segment.network),
                "address": str(segment.address),
                "mac": segment.mac.hex(":"),
                **({"interface": segment.interface} if segment.interface else {}),
            }
            for segment in node.segments
        ],
        "floatingIPs": [
            {"address": address, "term": token.term, "token": ".".join(map(str, token))}
            for address, token in held.items()
        ],
        "conditions": [_ready(node, facts), _schedulable(node, facts), *_deaf(node), *_kubernetes_ready(node, facts)],
    }
    member = facts.members.get(node.name)
    if member is not None:
        status |= {"agentVersion": member[1].version, "tunnelEndpoint": member[0].address.host}
    return status


def _ready(node: GatewayNode, facts: Facts) -> dict[str, str]:
    if node.state is NodeState.DOWN:
        return condition("Ready", "Down", "the node does not answer the other members", is_true=False)
    member = facts.members.get(node.name)
    if member is not None and (cni := member[1].unsupported_cni):
        message = (
            f"the CNI there is {cni}, which enforces in eBPF or OVS and was not tested with: pods of the node are not "
            "steered, and it holds nothing; datapath.unsupported_cni: try, to do it all the same"
        )
        return condition("Ready", "UnsupportedCNI", message, is_true=False)
    if not node.ready:
        message = "the agent has not loaded the datapath, or its lease keeper is gone"
        return condition("Ready", "NotReady", message, is_true=False)
    return condition("Ready", "Ready", "the datapath is loaded and the lease keeper alive")


def _schedulable(node: GatewayNode, facts: Facts) -> dict[str, str]:
    said = facts.cluster_nodes.get(node.name)
    if said is not None and said.is_shutting_down:
        return condition("Schedulable", "ShuttingDown", "the kubelet shuts the node down", is_true=False)
    if said is not None and said.is_cordoned:
        message = "the node is cordoned, so its floating IPs move; kubectl uncordon makes it eligible again"
        return condition("Schedulable", "Cordoned", message, is_true=False)
    if node.drained:
        message = f"an operator has drained the node; egressgw undrain {node.name} makes it eligible again"
        return condition("Schedulable", "Drained", message, is_true=False)
    if not node.selected:
        message = "spec.nodeSelector of the gateway does not match the node's labels"
        return condition("Schedulable", "NotSelected", message, is_true=False)
    if not node.schedulable:
        return condition("Schedulable", "Draining", "the agent says that its node is to be emptied", is_true=False)
    return condition("Schedulable", "Schedulable", "the node may hold floating IPs")


def _deaf(node: GatewayNode) -> list[dict[str, str]]:
    """Segments that do not reach the node although its link is up (rule S5); said only while there are some."""
    deaf = [str(segment.network) for segment in node.segments if segment.hearing is Hearing.DEAF]
    if not deaf:
        return []
    message = f"nobody answers the node on {', '.join(deaf)}, though others there are answered; it holds nothing there"
    return [condition("SegmentsReachable", "Deaf", message, is_true=False)]


def _kubernetes_ready(node: GatewayNode, facts: Facts) -> list[dict[str, str]]:
    """What Kubernetes thinks of the kubelet: shown, and of no consequence, for the datapath lives on without it."""
    if not facts.cluster_nodes:
        return []
    said = facts.cluster_nodes.get(node.name)
    if said is None:
        message = f"there is no Node object named {node.name}"
        return [condition("KubernetesReady", "NodeGone", message, is_true=False)]
    if said.is_ready:
        return [condition("KubernetesReady", "KubeletReady")]
    reason = "KubeletNotReady" if said.is_ready is False else "KubeletUnknown"
    return [condition("KubernetesReady", reason, said.not_ready_reason[:1000], is_true=said.is_ready)]
