"""Leases that have outlived the listing of their address: nobody would hear where it is (K1). Pure.

When an address is listed no more the leader ends its location, above every token of that assignment. A keeper whose
agent was away meanwhile, or that never saw the address unlisted, still has its lease when it is listed again; the word
of it is old for everybody. So the lease is given up, and the next one is under the new assignment.
"""

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address

from service.model.assignment import Location
from service.model.lease import Token


def outlived(
    node: str,
    held: Mapping[IPv4Address, Token],
    *,
    is_assigned: Callable[[IPv4Address], bool],
    told: Mapping[IPv4Address, Location],
    tell: Callable[[Location], bool],
) -> frozenset[IPv4Address]:
    """Which of `held` are to be given up.

    `told`: where addresses are, as all members know it. `tell` says it to all; False where a newer word is known. An
    address that is not assigned to anybody is given up anyway, for it is listed no more.
    """
    return frozenset(
        floating_ip
        for floating_ip, token in held.items()
        # Where a living word is newer, the lease is over soon, and not for this reason.
        if is_assigned(floating_ip) and floating_ip not in told and not tell(Location(floating_ip, node, token))
    )
