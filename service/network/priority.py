"""What `pod_ingress` tells netfilter of a packet, in `meta priority`: the Python side of bpf/layout.h.

No device's nor bridge's name tells that there. A pod cannot set it, and forwarding overwrites it.
"""

FLOW_PRIORITY = 0x45470001
"""Of a live flow, whatever connection tracking says (rule D1)."""
ENDED_PRIORITY = 0x45470002
"""A segment of an ended TCP flow, to be answered with a reset (rule E2)."""
CANDIDATE_PRIORITY = 0x45470003
"""Of a pod whose rules name the destination, and of no flow. What is marked without it, somebody else has (rule W6)."""
CLASSIFIED_PRIORITY = 0x45470004
"""Of a pod that the agent knows, and of no flow (rule W11)."""


def written(priority: int) -> str:
    """As nft writes it: two halves."""
    return f"{priority >> 16:x}:{priority & 0xFFFF:x}"
