"""A selected pod as its node announces it to the holder and successor of its floating IPs (rules G4, G5)."""

from dataclasses import dataclass
from ipaddress import IPv4Address


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`pod IP -> rule set, node, MAC`, versioned by the announcing node."""

    pod_ip: IPv4Address
    pod_uid: str
    """Tells a pod from the one that had its address before."""
    node: str
    macs: tuple[bytes, ...]
    """The node's MACs, one per segment; a steered frame must come from one of them."""
    rule_set: int
    """64-bit name of the rule set by content."""
    policies: tuple[int, ...]
    """64-bit content names of the policies that make the rule set, in precedence order."""
    sequence: int
    """Grows with each change of this row on its node; the higher wins within one start of the agent."""
