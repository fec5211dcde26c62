"""The steering device `egw0` and the policy routing that brings marked packets to it (rules W3, G7, G8).

One collect-metadata VXLAN device without ARP serves both transports: the program on its egress writes the MACs or the
tunnel key itself. Everything here is `ensure`: it compares first and changes only what differs. Synchronous: called in
the thread that owns the IPRoute socket.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from socket import AF_INET
from typing import Any

from service.model.errors import OperatorError, TransientError
from service.network.link import RT_TABLE_MAIN, Interface, find_interface
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


def ensure_steering_device(ipr: Any, spec: SteeringSpec, sysctl: Sysctl) -> Interface:
    """Make device, sysctls, routes and rules as `spec` says, in this order: no rule points to an empty table."""
    device = _ensure_device(ipr, spec)
    for key, value in steering_sysctls(spec).items():
        sysctl.write(key, value, keep_former=f"/{spec.name}/" not in key)
    ipr.link("set", index=device.index, state="up", arp=False, mtu=spec.mtu)
    ipr.addr("replace", index=device.index, address=DEVICE_ADDRESS, prefixlen=32, scope=_RT_SCOPE_HOST)
    _ensure_routes(ipr, device.index, spec.table)
    _ensure_rules(ipr, spec)
    found = find_interface(ipr, spec.name)
    if found is None:
        raise TransientError(f"{spec.name} was deleted while it was being set up")
    return found


def remove_steering_device(ipr: Any, *, name: str, table: int, mark: int) -> None:
    """Rules first, then the table, then the device (G8): at no time does a rule lead to a half-taken-down device."""
    for rule in _rules(ipr):
        if _is_ours(rule, table, mark):
            ipr.rule("del", **_rule_key(rule))
    for kind in ("blackhole", "unicast"):
        if any(route.get_attr("RTA_TABLE") == table for route in _routes(ipr, table)):
            ipr.flush_routes(family=AF_INET, table=table, type=kind)
    device = find_interface(ipr, name)
    if device is not None and device.kind == "vxlan":
        ipr.link("del", index=device.index)


def conflicting_rules(ipr: Any, table: int, mark: int) -> tuple[str, ...]:
    """Rules of others that look at our mark bit (W6), in the words of `ip rule`."""
    found = []
    for rule in _rules(ipr):
        value = rule.get_attr("FRA_FWMARK") or 0
        mask = rule.get_attr("FRA_FWMASK") or 0
        # A rule without a mask compares the whole mark; it concerns us only where its value has our bit.
        touches = value & mark if mask == 0xFFFFFFFF else mask & mark
        if touches and not _is_ours(rule, table, mark):
            number = rule.get_attr("FRA_PRIORITY") or 0
            found.append(f"ip rule {number}: fwmark {value:#x}/{mask:#x} lookup {rule.get_attr('FRA_TABLE')}")
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


def _ensure_device(ipr: Any, spec: SteeringSpec) -> Interface:
    mac = b"\x02\xe9" + spec.vtep_address.packed if spec.vtep_address is not None else b""
    present = find_interface(ipr, spec.name)
    if present is not None and present.kind != "vxlan":
        raise OperatorError(f"interface {spec.name} exists and is not ours ({present.kind or 'a physical device'})")
    if present is not None and not _has_shape(ipr, present, spec.vni_port):
        # Neither port nor mode of a VXLAN device can be changed in place.
        ipr.link("del", index=present.index)
        present = None
    if present is None:
        ipr.link(
            "add", ifname=spec.name, kind="vxlan", vxlan_port=spec.vni_port, vxlan_collect_metadata=1, vxlan_learning=0
        )
        present = find_interface(ipr, spec.name)
    if present is None:
        raise TransientError(f"{spec.name} was deleted while it was being set up")
    if mac and present.mac != mac:
        ipr.link("set", index=present.index, address=mac.hex(":"))
    return present


def _has_shape(ipr: Any, device: Interface, port: int) -> bool:
    message = next(iter(ipr.get_links(device.index)), None)
    if message is None:
        return False
    data = message.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
    return bool(data.get_attr("IFLA_VXLAN_COLLECT_METADATA")) and data.get_attr("IFLA_VXLAN_PORT") == port


def _ensure_routes(ipr: Any, index: int, table: int) -> None:
    ipr.route("replace", dst="0.0.0.0/0", gateway=NEXT_HOP, oif=index, table=table, flags=_RTNH_F_ONLINK)
    # Should the device go, a marked packet must not fall through to the main table: right source or no packet.
    ipr.route("replace", type="blackhole", dst="0.0.0.0/0", priority=_METRIC_LAST, table=table)


def _ensure_rules(ipr: Any, spec: SteeringSpec) -> None:
    wanted: list[dict[str, Any]] = [
        {"priority": PRIORITY_LOCAL, "table": RT_TABLE_MAIN, "iifname": "lo"},
        {"priority": PRIORITY_STEER, "table": spec.table},
    ]
    present = [_rule_key(rule) for rule in _rules(ipr) if _is_ours(rule, spec.table, spec.mark)]
    wanted = [rule | {"fwmark": spec.mark, "fwmask": spec.mark} for rule in wanted]
    for rule in wanted:
        if rule not in present:
            ipr.rule("add", **rule)
    for rule in _superfluous(present, wanted):
        ipr.rule("del", **rule)


def _superfluous(present: Iterable[dict[str, Any]], wanted: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    left = list(wanted)
    found = []
    for rule in present:
        if rule in left:
            left.remove(rule)
        else:
            found.append(rule)
    return found


def _rules(ipr: Any) -> list[Any]:
    return list(ipr.get_rules(family=AF_INET))


def _routes(ipr: Any, table: int) -> list[Any]:
    return list(ipr.get_routes(family=AF_INET, table=table))


def _is_ours(rule: Any, table: int, mark: int) -> bool:
    """Ours are all rules into our table, and the one at our priority that looks at our mark."""
    into_table = rule.get_attr("FRA_TABLE") == table
    local = rule.get_attr("FRA_PRIORITY") == PRIORITY_LOCAL and rule.get_attr("FRA_FWMARK") == mark
    return bool(into_table or local)


def _rule_key(rule: Any) -> dict[str, Any]:
    """A rule message as the arguments that add or delete it."""
    key = {
        "priority": rule.get_attr("FRA_PRIORITY") or 0,
        "table": rule.get_attr("FRA_TABLE"),
        "iifname": rule.get_attr("FRA_IIFNAME"),
        "fwmark": rule.get_attr("FRA_FWMARK"),
        "fwmask": rule.get_attr("FRA_FWMASK"),
    }
    return {name: value for name, value in key.items() if value is not None}
