"""Looks at a node as the agent does at its start, and changes nothing there (`egressgw check`)."""

import asyncio
import ctypes
import errno
import os
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from service.model.errors import OperatorError, TransientError
from service.network import inspection, tcx
from service.network.capability import check_node
from service.network.handover_device import HANDOVER_DEVICES
from service.network.hook import DIRECTIONS
from service.network.inspection import Finding
from service.network.link import Interface, choose_uplinks
from service.network.netlink import Netlink
from service.network.nftables import Nftables
from service.settings import Settings

_PROC_NET = Path("/proc/sys/net")
_TIMEX_BYTES = 208
_TIME_ERROR = 5
"""Of adjtimex(2): the clock is not synchronised."""


async def look(settings: Settings, *, is_fresh: bool) -> list[Finding]:
    """Findings in the order in which an operator mends them. `is_fresh`: no agent is here, so its ports are free."""
    findings = [_node()]
    try:
        async with Netlink() as netlink:
            findings += [finding async for finding in _network(netlink, settings, is_fresh=is_fresh)]
    except (OperatorError, TransientError) as error:
        findings.append(inspection.judge_refusals("netlink", [str(error)], ""))
    findings += [inspection.judge_clock(_is_synchronised()), _connection_tracking()]
    if is_fresh:
        findings.append(inspection.judge_ports(_refused_ports(settings)))
    return findings


def _node() -> Finding:
    try:
        warnings = check_node()
    except OperatorError as error:
        return inspection.judge_refusals("node", str(error).splitlines(), "")
    if warnings:
        return Finding("node", inspection.Level.DOUBTFUL, "; ".join(warnings), "set the sysctl that it names")
    return Finding("node", inspection.Level.GOOD, f"Linux {os.uname().release}, rights and nft are there")


async def _network(netlink: Netlink, settings: Settings, *, is_fresh: bool) -> AsyncIterator[Finding]:
    own = settings.datapath
    interfaces = await netlink.interfaces()
    routed = own.uplinks or await netlink.default_route_interfaces()
    uplinks = choose_uplinks(interfaces, named=own.uplinks, routed=routed, bind_address=settings.bind_address)
    veths = [interface for interface in interfaces if interface.kind == "veth" and interface.up]
    pods = [veth for veth in veths if veth.name not in HANDOVER_DEVICES]
    yield inspection.judge_cni((each.name for each in interfaces), is_tried=own.unsupported_cni == "try")
    yield inspection.judge_uplinks(uplinks)
    yield inspection.judge_mtu(uplinks, pods, own.transport)
    yield inspection.judge_reverse_path(_reverse_path(uplinks), uplinks)
    yield await _marks(netlink, settings)
    # Where an agent is, its own programs are there too.
    yield await asyncio.to_thread(_hooks, uplinks if is_fresh else ())


async def _marks(netlink: Netlink, settings: Settings) -> Finding:
    own = settings.datapath
    refusals: list[str] = []
    for question in (
        netlink.check_mark(table=own.route_table, mark=own.mark),
        Nftables().check_marks(own.mark, own.connection_mark),
    ):
        try:
            await question
        except (OperatorError, TransientError) as error:
            refusals.append(str(error))
    good = f"{own.mark:#x}, {own.connection_mark:#x} of connections and table {own.route_table} are nobody else's"
    return inspection.judge_refusals("marks", refusals, good)


def _hooks(uplinks: Sequence[Interface]) -> Finding:
    try:
        if not tcx.has_tcx():
            return inspection.judge_hooks(False, {})
        others = {
            uplink.name: sum(len(tcx.read_links(uplink.index, direction)) for direction in DIRECTIONS)
            for uplink in uplinks
        }
    except OSError as error:
        told = f"bpf(2) is refused: {error.strerror}"
        return inspection.judge_refusals("hooks", [f"{told}; run this as root"], "")
    return inspection.judge_hooks(True, others)


def _reverse_path(uplinks: Sequence[Interface]) -> dict[str, str]:
    names = ("all", *(uplink.name for uplink in uplinks))
    return {name: _read(_PROC_NET / "ipv4/conf" / name / "rp_filter") or "0" for name in names}


def _connection_tracking() -> Finding:
    folder = _PROC_NET / "netfilter"
    count, room = (_read(folder / name) for name in ("nf_conntrack_count", "nf_conntrack_max"))
    return inspection.judge_connection_tracking(int(count or 0), int(room or 0))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _is_synchronised() -> bool | None:
    try:
        # Nothing is set: `modes` is the first field.
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def _refused_ports(settings: Settings) -> dict[str, int]:
    ports = settings.ports
    udp = (ports.gossip, ports.state, ports.lease, ports.probe)
    wanted = [(socket.SOCK_DGRAM, "udp", port) for port in udp] + [(socket.SOCK_STREAM, "tcp", ports.http)]
    if settings.datapath.transport != "l2":
        wanted.append((socket.SOCK_DGRAM, "udp", ports.vxlan))
    refused = {}
    for kind, name, port in wanted:
        with socket.socket(socket.AF_INET, kind) as probe:
            # As the servers have it: connections of a former one that are still closing are in nobody's way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind == socket.SOCK_STREAM))
            try:
                probe.bind(("0.0.0.0", port))
            except OSError as error:
                refused[f"{port}/{name}"] = error.errno or errno.EIO
    return refused
