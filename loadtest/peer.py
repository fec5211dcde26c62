"""What the gateway is compared with, built on the same site without agents: plain routing and a gateway of nft maps.

In all variants the packet goes from a pod on node A over the segment to node B and from there over the same segment to
the server, which stands in the router's namespace: no hop that would dilute a ratio. Replies take the same way back.

**Plain routing** is the floor for any gateway on another node: A sends the pod's traffic to B by an ip rule, B
forwards, the server's side has a route to the pod by B. No NAT, no netfilter rules and no connection tracking anywhere,
bridged traffic not shown to netfilter.

**nft maps** is what a careful administrator builds from standard parts, without a tunnel. Both nodes keep the CNI's
masquerade rules as every node of the lab has them.
- A: prerouting, mangle priority: for the policy's destinations (an interval set) the mark comes from a map {pod IP ->
  mark}; an ip rule sends marked packets to a table whose default route is the floating IP on the segment. A nat chain
  ahead of the CNI's (priority 90) sets the source to itself, so that the CNI does not masquerade.
- B: has the floating IP as an interface address; a nat chain at priority 90 does `snat to ip saddr map {pod IP ->
  floating IP}` for the same destinations.
- Connection tracking works on both. There are no INVALID, NetworkPolicy or kube-proxy chains, which a real node would
  add: it is on the cheap side. It has one floating IP on one node, no failover and no fence.

**nft maps, tunnel** is the same for nodes that share no segment: A's table leads into a vxlan device towards B, and B
has routes to the pods through its own, so that replies take the same way back.

**Rules of a real node** can be put on every node of any of these and of ours, for as long as something is measured:
what kube-proxy in iptables mode and a CNI that enforces NetworkPolicy leave in `forward`.
"""

import contextlib
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address

from service.lab.lab import Lab
from service.lab.namespace import ip_batch, nft, write_sysctls
from service.lab.plan import PlannedNode, PlannedPod

SERVER = "198.51.100.1"
SERVER_NETWORK = "198.51.100.0/24"
MARK = 0x2000
TABLE = 100
RULE_PRIORITY = 90
TUNNEL = "peer0"
TUNNEL_PORT = 4790
_TUNNEL_ENDS = ("172.31.77.1", "172.31.77.2")
"""Of the pods' node and of the gateway."""
SERVICES = 100
"""Of the cluster that the rules of a real node are of."""


def add_server(lab: Lab) -> None:
    """Give the router's namespace the address the load goes to; nodes reach it by their default route."""
    ip_batch(lab.plan.router, [f"address add {SERVER}/32 dev lo"])


def route_plainly(lab: Lab, pods: Sequence[PlannedPod], gateway: PlannedNode) -> None:
    """Make the site the plain routing variant for these pods of one node."""
    for node in lab.plan.nodes:
        nft(node.netns, "delete table ip cni")
        write_sysctls(node.netns, {"bridge/bridge-nf-call-iptables": "0"})
    node = lab.node(pods[0].node)
    rules = [f"rule add from {pod.ip} lookup {TABLE} priority {RULE_PRIORITY}" for pod in pods]
    ip_batch(node.netns, [f"route add {SERVER_NETWORK} via {gateway.ip} dev eth0 table {TABLE}", *rules])
    ip_batch(lab.plan.router, [f"route add {pod.ip}/32 via {gateway.ip}" for pod in pods])


def route_by_nft_maps(
    lab: Lab, pods: Sequence[PlannedPod], gateway: PlannedNode, floating_ip: str, *, through_tunnel: bool = False
) -> None:
    """Make the site the nft maps variant for these pods of one node."""
    node = lab.node(pods[0].node)
    nft(node.netns, marking_ruleset(pods))
    way = f"via {floating_ip} dev eth0 onlink"
    if through_tunnel:
        _join_by_tunnel(node, gateway, pods)
        way = f"via {_TUNNEL_ENDS[1]} dev {TUNNEL}"
    rule = f"rule add fwmark {MARK:#x} lookup {TABLE} priority {RULE_PRIORITY}"
    ip_batch(node.netns, [f"route add default {way} table {TABLE}", rule])
    ip_batch(gateway.netns, [f"address add {floating_ip}/32 dev eth0"])
    nft(gateway.netns, translating_ruleset(pods, floating_ip))


def _join_by_tunnel(node: PlannedNode, gateway: PlannedNode, pods: Sequence[PlannedPod]) -> None:
    for (here, own), (there, _) in (
        ((node, _TUNNEL_ENDS[0]), (gateway, _TUNNEL_ENDS[1])),
        ((gateway, _TUNNEL_ENDS[1]), (node, _TUNNEL_ENDS[0])),
    ):
        ends = f"local {here.ip} remote {there.ip} dstport {TUNNEL_PORT} dev eth0"
        # Loose: the main table routes the server by eth0, and its replies come out of the tunnel.
        ip_batch(
            here.netns,
            [
                f"link add {TUNNEL} type vxlan id 77 {ends}",
                f"address add {own}/30 dev {TUNNEL}",
                f"link set {TUNNEL} up",
            ],
        )
        write_sysctls(here.netns, {f"ipv4/conf/{TUNNEL}/rp_filter": "2"})
    # Or the tunnel's own packets, which bear the mark of what is in them, would go into the tunnel.
    ip_batch(node.netns, [f"rule add iif lo fwmark {MARK:#x} lookup main priority {RULE_PRIORITY - 1}"])
    ip_batch(gateway.netns, [f"route add {pod.ip}/32 via {_TUNNEL_ENDS[0]} dev {TUNNEL}" for pod in pods])


def marking_ruleset(pods: Sequence[PlannedPod]) -> str:
    """The pods' node: which packets go to the gateway, and that the CNI leaves their source alone."""
    marks = ", ".join(f"{pod.ip} : {MARK:#x}" for pod in pods)
    return f"""
table ip peer {{
  set destinations {{ type ipv4_addr; flags interval; elements = {{ {SERVER_NETWORK} }} }}
  map marks {{ type ipv4_addr : mark; elements = {{ {marks} }} }}
  chain prerouting {{
    type filter hook prerouting priority mangle; policy accept;
    ip daddr @destinations meta mark set ip saddr map @marks
  }}
  chain postrouting {{
    type nat hook postrouting priority 90; policy accept;
    meta mark {MARK:#x} snat to ip saddr
  }}
}}
"""


def translating_ruleset(pods: Sequence[PlannedPod], floating_ip: str) -> str:
    """The gateway node: which source each pod gets."""
    sources = ", ".join(f"{pod.ip} : {floating_ip}" for pod in pods)
    return f"""
table ip peer {{
  set destinations {{ type ipv4_addr; flags interval; elements = {{ {SERVER_NETWORK} }} }}
  map sources {{ type ipv4_addr : ipv4_addr; elements = {{ {sources} }} }}
  chain postrouting {{
    type nat hook postrouting priority 90; policy accept;
    ip daddr @destinations snat to ip saddr map @sources
  }}
}}
"""


@contextlib.contextmanager
def node_rules(lab: Lab) -> Iterator[None]:
    """Every node has the rules of a real one meanwhile."""
    for node in lab.plan.nodes:
        nft(node.netns, node_ruleset([pod.ip for pod in node.pods]))
    try:
        yield
    finally:
        for node in lab.plan.nodes:
            nft(node.netns, "delete table ip kube_proxy\ndelete table ip network_policy")


def node_ruleset(pods: Sequence[IPv4Address]) -> str:
    """What a real node has in netfilter beside a CNI's masquerade. Everything here is let through in the end."""
    return kube_proxy_ruleset(pods[0]) + network_policy_ruleset(pods)


def kube_proxy_ruleset(endpoint: IPv4Address) -> str:
    """kube-proxy's, in iptables mode, as nft lists it: checks of state and mark for every packet that is forwarded, and
    the services for each new connection."""
    services = ", ".join(f"10.96.{number // 200}.{number % 200 + 10} : goto service" for number in range(SERVICES))
    return f"""
table ip kube_proxy {{
  map services {{ type ipv4_addr : verdict; elements = {{ {services} }} }}
  chain service {{
    counter dnat to {endpoint}
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    meta l4proto {{ tcp, udp }} ip daddr vmap @services
    fib daddr type local counter
  }}
  chain firewall {{
    ip daddr 10.96.255.254 counter drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    ct state new counter jump firewall
    ct state invalid counter drop
    meta mark & 0x4000 == 0x4000 counter accept
    ct state related,established counter accept
    ct state new ip daddr 10.96.255.253 counter reject
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    meta mark & 0x4000 != 0x4000 return
    counter masquerade
  }}
}}
"""


def network_policy_ruleset(pods: Sequence[IPv4Address]) -> str:
    """A CNI's, with a NetworkPolicy for each pod: both directions of its packets go through its chain."""
    by_pod = ", ".join(f"{pod} : jump pod" for pod in pods)
    return f"""
table ip network_policy {{
  map from_pods {{ type ipv4_addr : verdict; elements = {{ {by_pod} }} }}
  map to_pods {{ type ipv4_addr : verdict; elements = {{ {by_pod} }} }}
  set peers {{ type ipv4_addr; flags interval; elements = {{ 8.0.0.0/8, 10.0.0.0/8, {SERVER_NETWORK} }} }}
  chain pod {{
    ct state invalid counter drop
    ct state related,established counter return
    ip saddr @peers counter return
    counter drop
  }}
  chain forward {{
    type filter hook forward priority filter - 1; policy accept;
    ip saddr vmap @from_pods
    ip daddr vmap @to_pods
  }}
}}
"""
