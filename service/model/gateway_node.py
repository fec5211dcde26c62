"""A node as the others see it: role, segments, readiness. Carried as gossip metadata."""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from ipaddress import IPv4Address, IPv4Network


class NodeRole(StrEnum):
    """What a node is in the cluster. Workers are preferred as gateways; a controller never is one."""

    WORKER = "worker"
    CONTROL_PLANE = "control-plane"
    CONTROLLER = "controller"
    """A controller process: a gossip member that is never a gateway."""


class NodeState(StrEnum):
    """Whether gossip takes the node's agent to be there. Whether its datapath forwards, only the lease says."""

    UP = "Up"
    DOWN = "Down"


class Hearing(IntEnum):
    """Whether a node is answered on a segment, by its own word (rule S5). The numbers are those of the wire."""

    UNKNOWN = 0
    """There is nobody to ask, or nobody has answered yet."""
    HEARS = 1
    SILENT = 2
    """Nobody answers; the segment itself may have failed."""
    DEAF = 3
    """Nobody answers this node while others are answered: it is of no use there."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One layer 2 segment a node is on: the address, its subnet, and the MAC that answers there."""

    network: IPv4Network
    address: IPv4Address
    """The node's own in that subnet; never a floating IP."""
    mac: bytes
    """Six bytes."""
    interface: str = ""
    """Its name, where it is known."""
    hearing: Hearing = Hearing.UNKNOWN


@dataclass(frozen=True, slots=True)
class GatewayNode:
    """What the leader needs to know of a node to place a floating IP on it."""

    name: str
    role: NodeRole
    state: NodeState
    ready: bool
    """Its datapath is loaded and its keeper alive."""
    segments: tuple[Segment, ...]
    schedulable: bool = True
    """False while cordoned or draining: keeps nothing new, hands over what it has."""
    drained: bool = False
    """An operator has drained it (`egressgw drain`); then it is not schedulable either."""
    selected: bool = True
    """The gateway's `spec.nodeSelector` matches its labels, or there is none."""
    labels: tuple[tuple[str, str], ...] = ()
    """By its own settings, sorted by key; what a Node object says goes before (rule O2)."""
    own_addresses: tuple[IPv4Address, ...] = ()
    """Listed floating IPs that are addresses of its interfaces, whoever put them there, or were a moment ago, or its
    API server's."""
    address: IPv4Address | None = None
    """By which gossip reaches it."""
    tunnels: bool = False
    """It takes packets of members out of the tunnel (rule X2)."""
    translates: bool = True
    """It gives its pods' packets their floating IP itself; before, the holder did (rule U1)."""
