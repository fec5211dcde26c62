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
"""

from service.lab.lab import Lab
from service.lab.namespace import ip_batch, nft, write_sysctls
from service.lab.plan import PlannedNode, PlannedPod

SERVER = "198.51.100.1"
SERVER_NETWORK = "198.51.100.0/24"
MARK = 0x2000
TABLE = 100
RULE_PRIORITY = 90


def add_server(lab: Lab) -> None:
    """Give the router's namespace the address the load goes to; nodes reach it by their default route."""
    ip_batch(lab.plan.router, [f"address add {SERVER}/32 dev lo"])


def route_plainly(lab: Lab, pod: PlannedPod, gateway: PlannedNode) -> None:
    """Make the site the plain routing variant for this pod."""
    for node in lab.plan.nodes:
        nft(node.netns, "delete table ip cni")
        write_sysctls(node.netns, {"bridge/bridge-nf-call-iptables": "0"})
    node = lab.node(pod.node)
    ip_batch(
        node.netns,
        [
            f"route add {SERVER_NETWORK} via {gateway.ip} dev eth0 table {TABLE}",
            f"rule add from {pod.ip} lookup {TABLE} priority {RULE_PRIORITY}",
        ],
    )
    ip_batch(lab.plan.router, [f"route add {pod.ip}/32 via {gateway.ip}"])


def route_by_nft_maps(lab: Lab, pod: PlannedPod, gateway: PlannedNode, floating_ip: str) -> None:
    """Make the site the nft maps variant for this pod."""
    node = lab.node(pod.node)
    nft(node.netns, marking_ruleset(pod))
    ip_batch(
        node.netns,
        [
            f"route add default via {floating_ip} dev eth0 onlink table {TABLE}",
            f"rule add fwmark {MARK:#x} lookup {TABLE} priority {RULE_PRIORITY}",
        ],
    )
    ip_batch(gateway.netns, [f"address add {floating_ip}/32 dev eth0"])
    nft(gateway.netns, translating_ruleset(pod, floating_ip))


def marking_ruleset(pod: PlannedPod) -> str:
    """The pod's node: which packets go to the gateway, and that the CNI leaves their source alone."""
    return f"""
table ip peer {{
  set destinations {{ type ipv4_addr; flags interval; elements = {{ {SERVER_NETWORK} }} }}
  map marks {{ type ipv4_addr : mark; elements = {{ {pod.ip} : {MARK:#x} }} }}
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


def translating_ruleset(pod: PlannedPod, floating_ip: str) -> str:
    """The gateway node: which source each pod gets."""
    return f"""
table ip peer {{
  set destinations {{ type ipv4_addr; flags interval; elements = {{ {SERVER_NETWORK} }} }}
  map sources {{ type ipv4_addr : ipv4_addr; elements = {{ {pod.ip} : {floating_ip} }} }}
  chain postrouting {{
    type nat hook postrouting priority 90; policy accept;
    ip daddr @destinations snat to ip saddr map @sources
  }}
}}
"""
