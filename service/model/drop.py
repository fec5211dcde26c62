"""Why the datapath dropped a packet. Shared with bpf/drop.h, number for number (a test compares them)."""

from enum import IntEnum


class DropReason(IntEnum):
    """Names are the metric label `reason`, in lower case."""

    NONE = 0
    NO_GATEWAY = 1
    """Selected, but no row says which node holds the floating IP."""
    ENDPOINT_PENDING = 2
    """Its pod's selection is changing."""
    UNKNOWN_DEVICE = 3
    """A selected pod's address on a device that is not known to be that pod's."""
    NOT_SELECTED = 4
    """Reached the steering device without a rule that matches."""
    NO_TRANSPORT = 5
    """By the tunnel, and not of a member; or to a node that is reached in no way this version knows."""
    LEASE_EXPIRED_INGRESS = 6
    """To or for a floating IP whose lease is over on this node."""
    LEASE_EXPIRED_EGRESS = 7
    """From a floating IP whose lease is over on this node: the fence."""
    WRONG_NODE = 9
    """From a floating IP that is held here, but not from a member's MAC."""
    NO_FLOW = 10
    """To a floating IP, and no live flow waits for it."""
    PORTS_EXHAUSTED = 11
    """All ports of this node's blocks are taken towards this destination."""
    UNSUPPORTED_PROTOCOL = 12
    FRAGMENT = 13
    MALFORMED = 14
    TTL_EXPIRED = 15
    NO_STATE = 16
    """A segment that no flow knows and that may not make one."""
    MAP_FULL = 17
    NO_PORTS = 18
    """This node has no block of ports of the floating IP."""
    WRONG_BLOCK = 19
    """From a member whose block of ports this was not."""
    QUOTA = 20
    """A new flow of a pod that has as many as it may have."""
    FLOW_ENDED = 21
    """Of a flow that a change of policy, or the loss of its port, has ended."""
    FORGED_SOURCE = 22
    """In the name of a floating IP, and not made by this datapath."""
    NO_ROUTE = 23
    """The holder has no route by the floating IP's uplink."""
    TOO_BIG = 24
    """Bigger than the way takes."""
    FORGED_TUNNEL = 25
    """For the tunnel's port, and not made by the steering device."""
