"""Which device of the node a local pod is behind (rules W8, W11). Synchronous, one look per call.

A pod with a host route of its own is behind that device. A pod in a bridge's subnet is behind the bridge *port* that
learned its MAC: address -> neighbour on the bridge -> forwarding database. A pod that has not been heard of is asked
for by ARP; the caller looks again a little later.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from random import sample
from socket import AF_BRIDGE, AF_INET
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from service.network.link import RT_TABLE_MAIN, RTN_UNICAST, by_index, parse_mac, read_interfaces
from service.network.route_socket import RouteSocket

NTF_USE = 0x01
NUD_NONE = 0x00
NUD_PERMANENT = 0x80
NUD_NO_ADDRESS = 0x01 | 0x20
"""Incomplete or failed: whatever address is there does not count."""

ASKED_PODS = 128
"""At one look: each takes a place in the kernel's table of neighbours, which all namespaces share."""

Key = tuple[int, Any]
"""(bridge index, pod address) of a neighbour or (bridge index, MAC) of a forwarding entry."""


@dataclass(frozen=True, slots=True)
class PodDevices:
    """What one look has found."""

    devices: dict[IPv4Address, int]
    pending: tuple[IPv4Address, ...]
    """Behind a bridge, asked for just now: worth another look."""


def locate_pods(
    ipr: RouteSocket, pod_ips: Iterable[IPv4Address], uplinks: Iterable[str], *, provoke: bool
) -> PodDevices:
    """Find each pod's device with one dump per table, however many pods. With `provoke`, ask for the silent ones."""
    interfaces = by_index(read_interfaces(ipr))
    foreign = set(uplinks)
    routes = _direct_routes(ipr)
    devices: dict[IPv4Address, int] = {}
    bridged: dict[IPv4Address, int] = {}
    for pod_ip in dict.fromkeys(pod_ips):
        index, prefix_length = _longest_match(routes, pod_ip)
        device = interfaces.get(index)
        if device is None or device.name in foreign:
            continue
        if device.kind == "bridge":
            bridged[pod_ip] = index
        elif prefix_length == 32 and device.kind is not None:
            devices[pod_ip] = index
    if not bridged:
        return PodDevices(devices, ())
    ports, pending = _bridge_ports(ipr, bridged, provoke)
    # The dumps are taken one after the other: a port that came in between is found at the next look.
    allowed = {
        pod_ip: port for pod_ip, port in ports.items() if port in interfaces and interfaces[port].name not in foreign
    }
    return PodDevices(devices | allowed, pending)


def _direct_routes(ipr: RouteSocket) -> dict[int, dict[int, int]]:
    """Prefix length -> network -> device, of the main table's unicast routes without a gateway."""
    routes: dict[int, dict[int, int]] = {}
    for length, network, device in ipr.routes(_direct_route, family=AF_INET, table=RT_TABLE_MAIN):
        routes.setdefault(length, {}).setdefault(network, device)
    return dict(sorted(routes.items(), reverse=True))


def _direct_route(message: Any) -> tuple[int, int, int]:
    """Length, network and device; device 0 where it does not lead to a link of this node."""
    device = message.get_attr("RTA_OIF")
    if message["type"] != RTN_UNICAST or device is None or message.get_attr("RTA_GATEWAY") is not None:
        device = 0
    return message["dst_len"], int(IPv4Address(message.get_attr("RTA_DST") or "0.0.0.0")), int(device)


def _longest_match(routes: Mapping[int, Mapping[int, int]], address: IPv4Address) -> tuple[int, int]:
    """(device, prefix length); device 0 where the address is not on a link of this node."""
    for length, networks in routes.items():
        key = int(address) & int(IPv4Network((0, length)).netmask)
        if key in networks:
            return networks[key], length
    return 0, 0


def _bridge_ports(
    ipr: RouteSocket, bridged: Mapping[IPv4Address, int], provoke: bool
) -> tuple[dict[IPv4Address, int], tuple[IPv4Address, ...]]:
    neighbours = _neighbours(ipr)
    forwarding = _forwarding_database(ipr)
    ports: dict[IPv4Address, int] = {}
    pending: list[tuple[IPv4Address, int, bool]] = []
    for pod_ip, bridge in bridged.items():
        mac = neighbours.get((bridge, pod_ip))
        port = forwarding.get((bridge, mac)) if mac else None
        if port is not None:
            ports[pod_ip] = port
            continue
        pending.append((pod_ip, bridge, mac is not None))
    # Not always the same ones: who never answers must not keep others from being asked.
    for pod_ip, bridge, is_stale in sample(pending, min(len(pending), ASKED_PODS)) if provoke else ():
        _ask_for(ipr, pod_ip, bridge, stale=is_stale)
    return ports, tuple(pod_ip for pod_ip, _, _ in pending)


def _ask_for(ipr: RouteSocket, pod_ip: IPv4Address, bridge: int, *, stale: bool) -> None:
    """Let the kernel send an ARP request. A MAC no port knows is of a pod that is gone, or has long been silent."""
    # A bridge that is down or just going refuses; its pods stay pending, the others must not suffer.
    with suppress(NetlinkError):
        if stale:
            ipr.neigh("del", dst=str(pod_ip), ifindex=bridge)
        ipr.neigh("replace", dst=str(pod_ip), ifindex=bridge, flags=NTF_USE, state=NUD_NONE)


def _neighbours(ipr: RouteSocket) -> dict[Key, bytes]:
    return dict(found for found in ipr.neighbours(_neighbour, family=AF_INET) if found is not None)


def _neighbour(message: Any) -> tuple[Key, bytes] | None:
    mac = message.get_attr("NDA_LLADDR")
    if not mac or message["state"] & NUD_NO_ADDRESS:
        return None
    return (message["ifindex"], IPv4Address(message.get_attr("NDA_DST"))), parse_mac(mac)


def _forwarding_database(ipr: RouteSocket) -> dict[Key, int]:
    """(bridge, MAC) -> port, of learned and static entries; a port's own MAC (permanent) is no pod's."""
    return dict(found for found in ipr.neighbours(_forwarding_entry, family=AF_BRIDGE) if found is not None)


def _forwarding_entry(message: Any) -> tuple[Key, int] | None:
    bridge = message.get_attr("NDA_MASTER")
    if bridge is None or message["state"] & NUD_PERMANENT:
        return None
    return (bridge, parse_mac(message.get_attr("NDA_LLADDR"))), message["ifindex"]
