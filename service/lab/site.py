"""Builds the namespaces, links, addresses, routes and CNI-like rules of a plan. Processes are not its business."""

from collections.abc import Iterator

from service.lab.namespace import create_namespaces, ip_batch, nft, run, write_sysctls
from service.lab.plan import (
    FAR_SEGMENT,
    NETWORKS,
    OUTSIDE_ADDRESSES,
    OUTSIDE_NETWORKS,
    PLAIN_BRIDGE,
    POD_CIDR,
    POD_GATEWAY,
    ROUTER_OCTET,
    SECOND_UPLINK_DESTINATION,
    SEGMENTS,
    Plan,
    PlannedController,
    PlannedNode,
    PlannedPod,
    segment_mac,
)

SEGMENT_BRIDGES = tuple(f"segment{index}" for index in range(len(NETWORKS)))
POD_BRIDGE = "cni0"
_BRIDGE_OPTIONS = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
_BASE_SYSCTLS = {
    # Neighbour discovery and router solicitations would only be noise in the captures.
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv6/conf/default/disable_ipv6": "1",
    # Whoever gets an address says so once, as CNI plugins do: bridges learn the pods before their first packet.
    "ipv4/conf/all/arp_notify": "1",
    "ipv4/conf/default/arp_notify": "1",
}
_NODE_SYSCTLS = {
    "ipv4/ip_forward": "1",
    "ipv4/conf/all/rp_filter": "1",
    "ipv4/conf/default/rp_filter": "1",
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
    # As on a Kubernetes node: bridged pod traffic passes netfilter.
    "bridge/bridge-nf-call-iptables": "1",
}
_ROUTER_SYSCTLS = {
    "ipv4/ip_forward": "1",
    # It must not hide a leak by dropping it.
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
}
_FABRIC_SYSCTLS = {"bridge/bridge-nf-call-iptables": "0", "bridge/bridge-nf-call-arptables": "0"}


def build_site(plan: Plan) -> Iterator[str]:
    """Build everything, saying before each step what it is. A failure leaves a half-built site for `down` to clear."""
    yield "network namespaces"
    create_namespaces(plan.namespaces)
    _write_all_sysctls(plan)
    yield "segments, router and outside"
    ip_batch(plan.fabric, _fabric_lines(plan))
    ip_batch(plan.router, _router_lines(plan))
    ip_batch(plan.outside, _outside_lines(plan))
    for controller in plan.hosts:
        ip_batch(controller.netns, _controller_lines(controller))
    for node in plan.nodes:
        yield f"{node.name} and its pods"
        ip_batch(node.netns, _node_lines(plan, node))
        if not plan.options.kubernetes:
            nft(node.netns, masquerade_ruleset(node))
        for pod in node.pods:
            ip_batch(pod.netns, pod_lines(node, pod))


def _write_all_sysctls(plan: Plan) -> None:
    extras = {plan.fabric: _FABRIC_SYSCTLS, plan.router: _ROUTER_SYSCTLS}
    extras |= {node.netns: _NODE_SYSCTLS for node in plan.nodes}
    for netns in plan.namespaces:
        write_sysctls(netns, _BASE_SYSCTLS | extras.get(netns, {}))


def _fabric_lines(plan: Plan) -> Iterator[str]:
    yield "link set lo up"
    for segment in _segments(plan):
        bridge = SEGMENT_BRIDGES[segment]
        yield f"link add {bridge} {_BRIDGE_OPTIONS}"
        yield f"link set {bridge} up"
        yield from _attach(bridge, f"router-{segment}", plan.router, segment, ROUTER_OCTET)
        for node in plan.nodes:
            if segment in node.segments:
                yield from _attach(bridge, node.port(segment), node.netns, segment, node.octet)
    for controller in plan.hosts:
        yield from _attach(SEGMENT_BRIDGES[0], controller.port, controller.netns, 0, controller.octet)


def _segments(plan: Plan) -> range:
    return range(len(NETWORKS) if plan.options.far_nodes else FAR_SEGMENT)


def _attach(bridge: str, port: str, netns: str, segment: int, octet: int) -> Iterator[str]:
    mac = segment_mac(segment, octet)
    yield f"link add {port} type veth peer name eth{segment} netns {netns} address {mac}"
    yield f"link set {port} master {bridge} up"


def _router_lines(plan: Plan) -> Iterator[str]:
    here, there = plan.outside_link
    yield "link set lo up"
    for segment in _segments(plan):
        network = NETWORKS[segment]
        yield f"address add {network[ROUTER_OCTET]}/{network.prefixlen} broadcast + dev eth{segment}"
        yield f"link set eth{segment} up"
    yield f"link add outside0 type veth peer name eth0 netns {plan.outside}"
    yield f"address add {here}/30 dev outside0"
    yield "link set outside0 up"
    for network in OUTSIDE_NETWORKS:
        yield f"route add {network} via {there}"


def _outside_lines(plan: Plan) -> Iterator[str]:
    router, here = plan.outside_link
    yield "link set lo up"
    for address in OUTSIDE_ADDRESSES:
        yield f"address add {address}/32 dev lo"
    for network in OUTSIDE_NETWORKS:
        yield f"route add local {network} dev lo"
    yield f"address add {here}/30 dev eth0"
    yield "link set eth0 up"
    yield f"route add default via {router}"


def _controller_lines(controller: PlannedController) -> Iterator[str]:
    yield "link set lo up"
    yield f"address add {controller.ip}/24 broadcast + dev eth0"
    yield "link set eth0 up"
    yield f"route add default via {SEGMENTS[0][ROUTER_OCTET]}"


def _node_lines(plan: Plan, node: PlannedNode) -> Iterator[str]:
    yield "link set lo up"
    for segment in node.segments:
        yield f"address add {node.address(segment)}/24 broadcast + dev eth{segment}"
        yield f"link set eth{segment} up"
    yield f"route add default via {NETWORKS[node.segments[0]][ROUTER_OCTET]}"
    if not node.is_far:
        yield f"route add {SECOND_UPLINK_DESTINATION} via {SEGMENTS[1][ROUTER_OCTET]}"
    if not plan.options.kubernetes:
        yield f"link add {POD_BRIDGE} address {node.bridge_mac} {_BRIDGE_OPTIONS}"
        yield f"address add {node.bridge_address}/24 broadcast + dev {POD_BRIDGE}"
        yield f"link set {POD_BRIDGE} up"
    if plan.options.cni == PLAIN_BRIDGE:
        yield from _pod_routes(plan, node)
    for pod in node.pods:
        yield from pod_link_lines(pod)


def _pod_routes(plan: Plan, node: PlannedNode) -> Iterator[str]:
    """To the other nodes' pods through their nodes, where these are near."""
    for other in plan.nodes:
        if other is not node and other.segments == node.segments:
            yield f"route add {other.pod_cidr} via {other.ip}"


def pod_link_lines(pod: PlannedPod) -> Iterator[str]:
    """What a CNI does on the node for a pod whose namespace is there."""
    yield f"link add {pod.device} type veth peer name eth0 netns {pod.netns} address {pod.mac}"
    if pod.on_bridge:
        yield f"link set {pod.device} master {POD_BRIDGE} up"
    else:
        yield f"address add {POD_GATEWAY}/32 scope link dev {pod.device}"
        yield f"link set {pod.device} up"
        yield f"route add {pod.ip}/32 dev {pod.device} scope link"


def pod_lines(node: PlannedNode, pod: PlannedPod) -> Iterator[str]:
    """What a CNI does in the pod's own namespace."""
    yield "link set lo up"
    if pod.on_bridge:
        yield f"address add {pod.ip}/{node.pod_cidr.prefixlen} broadcast + dev eth0"
        yield "link set eth0 up"
        yield f"route add default via {node.bridge_address}"
    else:
        yield f"address add {pod.ip}/32 dev eth0"
        yield "link set eth0 up"
        yield f"route add {POD_GATEWAY}/32 dev eth0 scope link"
        yield f"route add default via {POD_GATEWAY}"


def masquerade_ruleset(node: PlannedNode) -> str:
    """What a CNI's `ipMasq` puts on a node: pods are seen outside as their node."""
    in_cluster = ", ".join(str(network) for network in (POD_CIDR, *NETWORKS))
    return f"""
table ip cni {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {node.pod_cidr} ip daddr != {{ {in_cluster}, 224.0.0.0/4 }} counter masquerade
  }}
}}
"""


def set_port_state(plan: Plan, port: str, *, forwarding: bool) -> None:
    """Let a bridge port forward, or silently not: the link itself stays up on both ends."""
    run(["bridge", "-n", plan.fabric, "link", "set", "dev", port, "state", "3" if forwarding else "0"])
