"""Why the datapath dropped a packet. Shared with bpf/drop.h, number for number (a test compares them)."""

from enum import IntEnum


class DropReason(IntEnum):
    """Names are the metric label `reason`, in lower case."""

    NONE = 0
    NO_GATEWAY = 1
    """Selected, but no row says which node holds the floating IP."""
    ENDPOINT_PENDING = 2
    """Selected, but holder and successor have not yet acknowledged the pod, or its selection is changing."""
    UNKNOWN_DEVICE = 3
    """A selected pod's address on a device that is not known to be that pod's."""
    NOT_SELECTED = 4
    """Reached the steering device without a rule that matches."""
    NO_TRANSPORT = 5
    """The pod's node has no way to the gateway node."""
    LEASE_EXPIRED_INGRESS = 6
    """To or for a floating IP whose lease is over on this node."""
    LEASE_EXPIRED_EGRESS = 7
    """From a floating IP whose lease is over on this node: the fence."""
    UNKNOWN_ENDPOINT = 8
    """Arrived from another node's pod that was not announced to this gateway."""
    WRONG_NODE = 9
    """A steered frame from a MAC that is not that of the pod's node."""
    NO_BINDING = 10
    """A reply to a floating IP for which no NAT binding exists."""
    PORTS_EXHAUSTED = 11
    """No free source port for this destination."""
    UNSUPPORTED_PROTOCOL = 12
    FRAGMENT = 13
    MALFORMED = 14
    TTL_EXPIRED = 15
    NO_STATE = 16
    """A FIN or RST without a binding; it must not create one."""
    MAP_FULL = 17
