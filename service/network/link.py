"""Interfaces as the kernel shows them. Synchronous: called in the thread that owns the socket."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface
from socket import AF_INET
from typing import Any, NamedTuple

from service.network.route_socket import RouteTables

IFF_UP = 0x1
RT_TABLE_MAIN = 254
RTN_UNICAST = 1


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


def read_interfaces(tables: RouteTables) -> tuple[Interface, ...]:
    """All interfaces by index: two dumps, one of links and one of addresses."""
    addresses = _addresses(tables)
    found = (_with(interface, addresses) for interface in tables.links(_interface))
    return tuple(sorted(found, key=lambda interface: interface.index))


def _addresses(tables: RouteTables) -> dict[int, tuple[IPv4Interface, ...]]:
    found: dict[int, tuple[IPv4Interface, ...]] = {}
    for index, address in tables.addresses(_address, family=AF_INET):
        found[index] = (*found.get(index, ()), address)
    return found


def _with(interface: Interface, addresses: Mapping[int, tuple[IPv4Interface, ...]]) -> Interface:
    own = addresses.get(interface.index)
    return replace(interface, addresses=own) if own else interface


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


def find_interface(tables: RouteTables, name: str) -> Interface | None:
    """One interface by name; None where there is none."""
    found = tables.link_named(name, _interface)
    return None if found is None else _with(found, _addresses(tables))


class _DefaultRoute(NamedTuple):
    metric: int
    devices: tuple[int, ...]
    gateways: tuple[IPv4Address, ...]


def read_default_route_interfaces(tables: RouteTables) -> tuple[str, ...]:
    """Names of the devices that carry a default route of the main table, best metric first."""
    names = dict(tables.links(_index_and_name))
    found = sorted((route.metric, index) for route in _default_routes(tables) for index in route.devices)
    # A device may be gone by now.
    return tuple(dict.fromkeys(names[index] for _, index in found if index in names))


def read_default_gateways(tables: RouteTables) -> tuple[IPv4Address, ...]:
    """Next hops of the default routes of the main table, each once."""
    return tuple(dict.fromkeys(gateway for route in _default_routes(tables) for gateway in route.gateways))


def _default_routes(tables: RouteTables) -> list[_DefaultRoute]:
    routes = tables.routes(_default_route, family=AF_INET, table=RT_TABLE_MAIN)
    return [route for route in routes if route is not None]


def _default_route(message: Any) -> _DefaultRoute | None:
    if message["dst_len"] or message["type"] != RTN_UNICAST:
        return None
    hops = (message, *(message.get_attr("RTA_MULTIPATH") or ()))
    gateways = tuple(IPv4Address(hop.get_attr("RTA_GATEWAY")) for hop in hops if hop.get_attr("RTA_GATEWAY"))
    return _DefaultRoute(message.get_attr("RTA_PRIORITY") or 0, next_hop_indices(message), gateways)


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


def _interface(message: Any) -> Interface:
    """Without its addresses, which are in another table."""
    return Interface(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        mac=parse_mac(message.get_attr("IFLA_ADDRESS")),
        up=bool(message["flags"] & IFF_UP),
        carrier=bool(message.get_attr("IFLA_CARRIER")),
        kind=link_kind(message),
        addresses=(),
        mtu=message.get_attr("IFLA_MTU") or 1500,
    )


def _index_and_name(message: Any) -> tuple[int, str]:
    return message["index"], message.get_attr("IFLA_IFNAME")


def _address(message: Any) -> tuple[int, IPv4Interface]:
    local = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return message["index"], IPv4Interface(f"{local}/{message['prefixlen']}")
