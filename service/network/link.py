"""Interfaces as the kernel shows them. Synchronous: called in the thread that owns the IPRoute socket."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from socket import AF_INET
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

IFF_UP = 0x1
RT_TABLE_MAIN = 254
RTN_UNICAST = 1
RTEXT_FILTER_SKIP_STATS = 8
"""Leaves the counters out of a link dump (linux/rtnetlink.h)."""


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface of this node."""

    index: int
    name: str
    mac: bytes
    """Six bytes; empty where the device has no Ethernet address."""
    up: bool
    """Administratively up."""
    carrier: bool
    kind: str | None
    """`veth`, `bridge`, `vxlan`, ...; None for physical devices."""
    addresses: tuple[IPv4Interface, ...]
    mtu: int = 1500


def read_interfaces(ipr: Any) -> tuple[Interface, ...]:
    """All interfaces by index: two dumps, one of links and one of addresses."""
    addresses: dict[int, list[IPv4Interface]] = defaultdict(list)
    for message in ipr.get_addr(family=AF_INET):
        local = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        addresses[message["index"]].append(IPv4Interface(f"{local}/{message['prefixlen']}"))
    links = ipr.get_links(ext_mask=RTEXT_FILTER_SKIP_STATS)
    found = (_interface(message, tuple(addresses[message["index"]])) for message in links)
    return tuple(sorted(found, key=lambda interface: interface.index))


def choose_uplinks(
    interfaces: Iterable[Interface], *, named: Collection[str], routed: Collection[str], bind_address: str
) -> list[Interface]:
    """Uplinks among them, which have an address: those that settings name; where none is named, those that carry a
    default route or `bind_address`."""
    names = named or routed
    return [
        interface
        for interface in interfaces
        if interface.addresses
        and (interface.name in names or (not named and str(interface.addresses[0].ip) == bind_address))
    ]


def find_interface(ipr: Any, name: str) -> Interface | None:
    """One interface by name, at the price of all: two dumps."""
    return next((interface for interface in read_interfaces(ipr) if interface.name == name), None)


def read_default_route_interfaces(ipr: Any) -> tuple[str, ...]:
    """Names of the devices that carry a default route of the main table, best metric first."""
    found: list[tuple[int, int]] = []
    for message in ipr.get_routes(family=AF_INET, table=RT_TABLE_MAIN):
        if message["dst_len"] == 0 and message["type"] == RTN_UNICAST:
            metric = message.get_attr("RTA_PRIORITY") or 0
            found += [(metric, index) for index in next_hop_indices(message)]
    names = (_name_of(ipr, index) for _, index in sorted(found))
    return tuple(dict.fromkeys(name for name in names if name is not None))


def _name_of(ipr: Any, index: int) -> str | None:
    """None where it is gone by now. One message instead of a dump of all links (rule I3)."""
    with suppress(NetlinkError):
        for message in ipr.get_links(index):
            return str(message.get_attr("IFLA_IFNAME"))
    return None


def read_default_gateways(ipr: Any) -> tuple[IPv4Address, ...]:
    """Next hops of the default routes of the main table, each once."""
    found: dict[IPv4Address, None] = {}
    for message in ipr.get_routes(family=AF_INET, table=RT_TABLE_MAIN):
        if message["dst_len"] == 0 and message["type"] == RTN_UNICAST:
            hops = (message, *(message.get_attr("RTA_MULTIPATH") or ()))
            found |= dict.fromkeys(
                IPv4Address(hop.get_attr("RTA_GATEWAY")) for hop in hops if hop.get_attr("RTA_GATEWAY")
            )
    return tuple(found)


def next_hop_indices(route: Any) -> tuple[int, ...]:
    """Output devices of a route message, several for a multipath route."""
    single = route.get_attr("RTA_OIF")
    if single is not None:
        return (int(single),)
    return tuple(hop["oif"] for hop in route.get_attr("RTA_MULTIPATH") or ())


def link_kind(message: Any) -> str | None:
    """`veth`, `bridge`, ... of a link message, from a dump or an event; None for physical devices."""
    information = message.get_attr("IFLA_LINKINFO")
    return information.get_attr("IFLA_INFO_KIND") if information is not None else None


def parse_mac(text: str | None) -> bytes:
    """Six bytes of `02:00:...` as netlink messages spell it; empty where they have none."""
    return bytes.fromhex(text.replace(":", "")) if text else b""


def by_index(interfaces: Iterable[Interface]) -> dict[int, Interface]:
    """The index is the interface's name for good; a name may pass on to another."""
    return {interface.index: interface for interface in interfaces}


def _interface(message: Any, addresses: tuple[IPv4Interface, ...]) -> Interface:
    return Interface(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        mac=parse_mac(message.get_attr("IFLA_ADDRESS")),
        up=bool(message["flags"] & IFF_UP),
        carrier=bool(message.get_attr("IFLA_CARRIER")),
        kind=link_kind(message),
        addresses=addresses,
        mtu=message.get_attr("IFLA_MTU") or 1500,
    )
