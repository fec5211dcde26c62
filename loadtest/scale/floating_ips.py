"""A lab with more floating IPs than the load test's usual three."""

from ipaddress import IPv4Address
from typing import Any

from loadtest import gateway
from service.lab.lab import Lab
from service.lab.manifest import apply_manifest
from service.lab.plan import SEGMENTS
from service.lab.status import wait_for
from service.model.errors import TransientError

FIRST_OCTET, LAST_OCTET = 100, 254
"""Those of a lab's first segment that no host of it has."""
HELD_S = 90.0
_FILE = "load.yaml"
"""That of `gateway.apply_policy`: there is one gateway object, and it is replaced."""


def floating_ips(count: int) -> tuple[IPv4Address, ...]:
    """So many, the usual three first. Raises ValueError where the segment has no room for them."""
    found = tuple(SEGMENTS[0][octet] for octet in range(FIRST_OCTET, FIRST_OCTET + count))
    if not 0 < count <= LAST_OCTET - FIRST_OCTET + 1:
        raise ValueError(f"a lab has room for {LAST_OCTET - FIRST_OCTET + 1} floating IPs, not {count}")
    return found


def apply_floating_ips(lab: Lab, count: int, *, has_policy: bool = True) -> None:
    """The gateway with so many, and the load test's one policy; returns at once."""
    gateway_object, policy = gateway.manifests((f"{gateway.OUTSIDE}/32",))
    gateway_object["spec"] = {"floatingIPs": [str(address) for address in floating_ips(count)]}
    apply_manifest(lab.manifests, _FILE, [gateway_object, *([policy] if has_policy else [])])


def wait_until_held(lab: Lab, count: int) -> None:
    """Until every agent says that each of these, and no other, is where it is assigned, and that the cluster is whole.

    Raises TransientError with what is still missing.
    """
    names = tuple(node.name for node in lab.plan.nodes)
    wanted = {str(address) for address in floating_ips(count)}

    def is_held() -> bool:
        for name in names:
            document = gateway.status(lab, name)
            if wrong := gateway.defect(document, names) or _unheld(document, wanted):
                raise TransientError(f"{name} says: {wrong}")
        return True

    wait_for(f"{count} floating IPs to be held", is_held, timeout_s=HELD_S)


def _unheld(document: dict[str, Any], wanted: set[str]) -> str:
    known = document["floatingIPs"]
    if other := {address for address, row in known.items() if row["holder"]} - wanted:
        return f"{len(other)} others are held, such as {min(other)}"
    waiting = [address for address in wanted if not _is_held(known.get(address) or {})]
    return f"{len(waiting)} are not held where they are assigned, such as {min(waiting)}" if waiting else ""


def _is_held(row: dict[str, Any]) -> bool:
    return bool(row.get("holder")) and row["holder"] == row.get("assigned")
