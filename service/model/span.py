"""Networks as spans of numbers: what `ipaddress` does with tens of thousands of networks in seconds, in a tenth."""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network


def number_of(network: IPv4Network) -> int:
    """The network as one number. They sort as networks do."""
    return int(network.network_address) << 6 | network.prefixlen


def network_of(number: int) -> IPv4Network:
    """The reverse of `number_of`."""
    return IPv4Network((number >> 6, number & 63))


def spans(networks: Iterable[IPv4Network]) -> Iterator[tuple[int, int]]:
    """[first, end) of addresses in order, neither overlapping nor adjacent."""
    begun, over = 0, 0
    for first, end in sorted((int(one.network_address), int(one.broadcast_address) + 1) for one in networks):
        if first > over:
            if over > begun:
                yield begun, over
            begun = first
        over = max(over, end)
    if over > begun:
        yield begun, over


def networks_of(first: int, end: int) -> Iterator[IPv4Network]:
    """The fewest networks that are all addresses of [first, end), in order."""
    while first < end:
        # The largest that begins here, by its number, and does not go beyond the end.
        bits = min((first & -first).bit_length() - 1 if first else 32, (end - first).bit_length() - 1)
        yield IPv4Network((first, 32 - bits))
        first += 1 << bits


def merged(networks: Iterable[IPv4Network]) -> list[IPv4Network]:
    """The fewest networks with the same addresses, in order (`ipaddress.collapse_addresses`)."""
    return [network for span in spans(networks) for network in networks_of(*span)]
