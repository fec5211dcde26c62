"""The steering device `egw0` and the policy routing that brings marked packets to it (rules W3, G7, G8).

One collect-metadata VXLAN device without ARP serves both transports: the program on its egress writes the MACs or the
tunnel key itself. Everything here is `ensure`: it compares first and changes only what differs. Synchronous: called in
the thread that owns the socket.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from socket import AF_INET
from typing import Any, NamedTuple

from service.model.errors import OperatorError, TransientError
from service.network.link import IFF_UP, RT_TABLE_MAIN, RTN_UNICAST, Interface, find_interface, link_kind, parse_mac
from service.network.route_socket import RouteSocket
from service.network.sysctl import Sysctl

NEXT_HOP = "169.254.99.1"
"""Nobody has it: one on-link next hop, so that the kernel keeps one neighbour entry and not one per destination."""
DEVICE_ADDRESS = "169.254.99.2"
"""Host scope, never a source. Without any address a loose rp_filter drops what comes in by the device."""
PRIORITY_LOCAL = 96
"""`iif lo`: lookups of the node itself (tunnel outer headers, rpfilter --validmark) stay in the main table."""
PRIORITY_STEER = 97

_RT_SCOPE_HOST = 254
_RTNH_F_ONLINK = 4
_RTN_BLACKHOLE = 6
_IFF_NOARP = 0x80
_METRIC_LAST = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class SteeringSpec:
    """What the steering device shall be."""

    name: str
    vni_port: int
    """UDP port of the tunnel (`ports.vxlan`)."""
    table: int
    mark: int
    vtep_address: IPv4Address | None = None
    """The node's own address; it makes the device's MAC 02:e9:<address>, different on each node."""
    uplinks: tuple[str, ...] = ()
    mtu: int = 1500
    are_samples: bool = False
    """Connection tracking sees some packets of a flow only (rule F3): what is beside its window is no fault."""


class _Rule(NamedTuple):
    """A rule in the arguments that add or delete it; None: not among them."""

    priority: int
    table: int | None = None
    iifname: str | None = None
    fwmark: int | None = None
    fwmask: int | None = None

    def arguments(self) -> dict[str, Any]:
        return {name: value for name, value in self._asdict().items() if value is not None}


class _Route(NamedTuple):
    """A route of our table."""

    kind: int
    destination_bits: int
    gateway: str | None = None
    device: int | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class _Device:
    """What is ours to set of a link."""

    index: int
    kind: str | None
    mac: bytes
    is_up: bool
    asks: bool
    """By ARP."""
    mtu: int
    port: int | None
    """Of a VXLAN device whose tunnel keys come with the packets."""


def ensure_steering_device(ipr: RouteSocket, spec: SteeringSpec, sysctl: Sysctl) -> Interface:
    """Make device, sysctls, routes and rules as `spec` says, in this order: no rule points to an empty table."""
    device = _ensure_device(ipr, spec)
    for key, value in steering_sysctls(spec).items():
        sysctl.write(key, value, keep_former=f"/{spec.name}/" not in key)
    if not device.is_up or device.asks or device.mtu != spec.mtu:
        ipr.link("set", index=device.index, state="up", arp=False, mtu=spec.mtu)
    found = find_interface(ipr, spec.name)
    if found is None or IPv4Interface(DEVICE_ADDRESS) not in found.addresses:
        ipr.addr("replace", index=device.index, address=DEVICE_ADDRESS, prefixlen=32, scope=_RT_SCOPE_HOST)
    _ensure_routes(ipr, device.index, spec.table)
    _ensure_rules(ipr, spec)
    found = find_interface(ipr, spec.name)
    if found is None:
        raise TransientError(f"{spec.name} was deleted while it was being set up")
    return found


def remove_steering_device(ipr: RouteSocket, *, name: str, table: int, mark: int) -> None:
    """Rules first, then the table, then the device (G8): at no time does a rule lead to a half-taken-down device."""
    for rule in _rules(ipr):
        if _is_ours(rule, table, mark):
            ipr.rule("del", **rule.arguments())
    for kind in ("blackhole", "unicast"):
        if _routes(ipr, table):
            ipr.flush_routes(family=AF_INET, table=table, type=kind)
    device = ipr.link_named(name, _device)
    if device is not None and device.kind == "vxlan":
        ipr.link("del", index=device.index)


def conflicting_rules(ipr: RouteSocket, table: int, mark: int) -> tuple[str, ...]:
    """Rules of others that look at our mark bit (W6), in the words of `ip rule`."""
    found = []
    for rule in _rules(ipr):
        value, mask = rule.fwmark or 0, rule.fwmask or 0
        # A rule without a mask compares the whole mark; it concerns us only where its value has our bit.
        touches = value & mark if mask == 0xFFFFFFFF else mask & mark
        if touches and not _is_ours(rule, table, mark):
            found.append(f"ip rule {rule.priority}: fwmark {value:#x}/{mask:#x} lookup {rule.table}")
    return tuple(found)


def steering_sysctls(spec: SteeringSpec) -> Mapping[str, str]:
    """Keys below /proc/sys/net.

    Of `all` and the device the kernel takes the greater rp_filter, and sends redirects where either says so.
    """
    values = {
        f"ipv6/conf/{spec.name}/disable_ipv6": "1",
        f"ipv4/conf/{spec.name}/forwarding": "1",
        f"ipv4/conf/{spec.name}/rp_filter": "2",
        f"ipv4/conf/{spec.name}/send_redirects": "0",
        "ipv4/conf/all/send_redirects": "0",
    }
    if spec.are_samples:
        values["netfilter/nf_conntrack_tcp_be_liberal"] = "1"
    return values | {f"ipv4/conf/{name}/send_redirects": "0" for name in spec.uplinks}


def _ensure_device(ipr: RouteSocket, spec: SteeringSpec) -> _Device:
    mac = b"\x02\xe9" + spec.vtep_address.packed if spec.vtep_address is not None else b""
    present = ipr.link_named(spec.name, _device)
    if present is not None and present.kind != "vxlan":
        raise OperatorError(f"interface {spec.name} exists and is not ours ({present.kind or 'a physical device'})")
    if present is not None and present.port != spec.vni_port:
        # Neither port nor mode of a VXLAN device can be changed in place.
        ipr.link("del", index=present.index)
        present = None
    if present is None:
        ipr.link(
            "add", ifname=spec.name, kind="vxlan", vxlan_port=spec.vni_port, vxlan_collect_metadata=1, vxlan_learning=0
        )
        present = ipr.link_named(spec.name, _device)
    if present is None:
        raise TransientError(f"{spec.name} was deleted while it was being set up")
    if mac and present.mac != mac:
        ipr.link("set", index=present.index, address=mac.hex(":"))
    return present


def _device(message: Any) -> _Device:
    kind = link_kind(message)
    data = message.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA") if kind == "vxlan" else None
    takes_keys = data is not None and data.get_attr("IFLA_VXLAN_COLLECT_METADATA")
    return _Device(
        message["index"],
        kind,
        parse_mac(message.get_attr("IFLA_ADDRESS")),
        bool(message["flags"] & IFF_UP),
        not message["flags"] & _IFF_NOARP,
        message.get_attr("IFLA_MTU"),
        data.get_attr("IFLA_VXLAN_PORT") if data is not None and takes_keys else None,
    )


def _ensure_routes(ipr: RouteSocket, index: int, table: int) -> None:
    present = _routes(ipr, table)
    if _Route(RTN_UNICAST, 0, NEXT_HOP, index) not in present:
        ipr.route("replace", dst="0.0.0.0/0", gateway=NEXT_HOP, oif=index, table=table, flags=_RTNH_F_ONLINK)
    # Should the device go, a marked packet must not fall through to the main table: right source or no packet.
    if _Route(_RTN_BLACKHOLE, 0, priority=_METRIC_LAST) not in present:
        ipr.route("replace", type="blackhole", dst="0.0.0.0/0", priority=_METRIC_LAST, table=table)


def _ensure_rules(ipr: RouteSocket, spec: SteeringSpec) -> None:
    wanted = [
        _Rule(PRIORITY_LOCAL, RT_TABLE_MAIN, "lo", spec.mark, spec.mark),
        _Rule(PRIORITY_STEER, spec.table, None, spec.mark, spec.mark),
    ]
    present = [rule for rule in _rules(ipr) if _is_ours(rule, spec.table, spec.mark)]
    for rule in wanted:
        if rule not in present:
            ipr.rule("add", **rule.arguments())
    for rule in _superfluous(present, wanted):
        ipr.rule("del", **rule.arguments())


def _superfluous(present: Iterable[_Rule], wanted: Iterable[_Rule]) -> list[_Rule]:
    left = list(wanted)
    found = []
    for rule in present:
        if rule in left:
            left.remove(rule)
        else:
            found.append(rule)
    return found


def _rules(ipr: RouteSocket) -> list[_Rule]:
    return ipr.rules(_rule, family=AF_INET)


def _rule(message: Any) -> _Rule:
    return _Rule(
        message.get_attr("FRA_PRIORITY") or 0,
        message.get_attr("FRA_TABLE"),
        message.get_attr("FRA_IIFNAME"),
        message.get_attr("FRA_FWMARK"),
        message.get_attr("FRA_FWMASK"),
    )


def _routes(ipr: RouteSocket, table: int) -> list[_Route]:
    return ipr.routes(_route, family=AF_INET, table=table)


def _route(message: Any) -> _Route:
    return _Route(
        message["type"],
        message["dst_len"],
        message.get_attr("RTA_GATEWAY"),
        message.get_attr("RTA_OIF"),
        message.get_attr("RTA_PRIORITY") or 0,
    )


def _is_ours(rule: _Rule, table: int, mark: int) -> bool:
    """Ours are all rules into our table, and the one at our priority that looks at our mark."""
    return rule.table == table or (rule.priority == PRIORITY_LOCAL and rule.fwmark == mark)
