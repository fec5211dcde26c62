"""Row `flows`: what flows cost the agent of their pods' node, by how many there are in its table.

The product's `FlowTable` sweeps real maps of the kernel, made here and pinned nowhere, in which every flow goes on:
each is looked at and counted, and none is taken away. Processor time is that of this process, which does nothing else;
the agent sweeps in a thread, and then waits three times as long as it took, half a second at least. What a packet costs
with many flows is another question (`loadtest datapath`).
"""

import asyncio
import contextlib
import gc
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from socket import IPPROTO_TCP

from loadtest.gateway import Report
from loadtest.goal import Figure, Row
from loadtest.scale.curve import Curve, Point
from loadtest.scale.options import ScaleOptions
from loadtest.scale.turn import up_to
from loadtest.statistics import median
from service.datapath.attribution import Attribution
from service.datapath.bpf_map import BpfMap, create_map
from service.datapath.flow_row import FlowRow, flow_key
from service.datapath.flow_table import FlowTable
from service.datapath.layout import FIRST_PORT, MAP_SHAPES, MapName
from service.host.clock import boot_ns
from service.lab.namespace import require_root
from service.model.errors import TransientError

FLOATING_IP = IPv4Address("192.168.1.100")
_FIRST_POD, _FIRST_REMOTE = IPv4Address("10.244.0.10"), IPv4Address("20.0.0.1")
_PODS, _POD_PORTS, _PORTS = 250, 28_000, 60_000
_FIRST_POD_PORT = 32_768
_LIFE_S = 7200
_ESTABLISHED = 1
"""As bpf/life.h has it."""
_BATCH = 4096
_SMALL_ROOM = 64
"""Of maps that stay empty here, or nearly."""
_BY_FLOW = (MapName.FLOWS_OPEN, MapName.MIRRORS_OPEN)
_OTHERS = (
    MapName.FLOWS_YOUNG,
    MapName.FLOWS_DATAGRAM,
    MapName.POLICY_TRAFFIC,
    MapName.DEPARTED_FLOWS,
    MapName.POD_LOADS,
    MapName.POD_SPARES,
)


@dataclass(frozen=True, slots=True)
class Sweeps:
    """Of one size."""

    ms: list[float]
    """Processor time of each, of those after the first."""
    held_mb: float
    """Of Python's objects, from one sweep to the next."""


def measure_flows(options: ScaleOptions, report: Report) -> Row:
    """All of one node, 250 pods under one policy."""
    found: dict[int, Sweeps] = {}
    most = options.sizes.flows
    with own_maps(most) as maps:
        for count in up_to(most):
            report(f"{count} flows")
            fill_flows(maps[MapName.FLOWS_OPEN], count)
            found[count] = asyncio.run(_sweeps(maps, count, options.repeats))
        kernel_bytes = sum(kernel_memory(maps[name]) for name in _BY_FLOW) / most
    curves = [
        Curve("a sweep of all flows", "flows", "ms", tuple(Point(n, median(one.ms)) for n, one in found.items())),
        Curve("memory of an agent for flows", "flows", "MB", tuple(Point(n, one.held_mb) for n, one in found.items())),
    ]
    largest = found[most]
    held = 1e6 * largest.held_mb / most
    figures = [
        Figure(f"a sweep of {most:,} flows", median(largest.ms), "ms", 0, note="in a thread, a fourth of the time"),
        Figure("memory of an agent for one flow", held, "bytes", 0),
        Figure("memory of the kernel for one flow of a connection", kernel_bytes, "bytes", 0, note="full or not"),
    ]
    detail = {"curves": [curve.document() for curve in curves], "ms": {str(n): one.ms for n, one in found.items()}}
    return Row("flows", figures, detail)


@contextlib.contextmanager
def own_maps(flows: int) -> Iterator[dict[str, BpfMap]]:
    """What a sweep needs, empty, with room for so many flows. Raises OperatorError where this is not root."""
    require_root()
    with contextlib.ExitStack() as stack:
        maps = {}
        for name in (*_BY_FLOW, *_OTHERS):
            shape, room = MAP_SHAPES[name], flows if name in _BY_FLOW else _SMALL_ROOM
            made = BpfMap(create_map(shape.type, shape.key_size, shape.value_size, room, name=name))
            maps[name] = stack.enter_context(contextlib.closing(made))
        yield maps


def fill_flows(table: BpfMap, count: int) -> None:
    """So many connections that were used just now. Raises TransientError where the table has no room for them."""
    rows = [_flow(number) for number in range(count)]
    for start in range(0, count, _BATCH):
        piece = rows[start : start + _BATCH]
        if table.update_many(piece) < len(piece):
            raise TransientError(f"there is no room for {count} flows")


def kernel_memory(table: BpfMap) -> int:
    """Bytes that the kernel has taken for it, by what it says of the descriptor."""
    lines = Path(f"/proc/self/fdinfo/{table.fd}").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("memlock:"))


def _flow(number: int) -> tuple[bytes, bytes]:
    row = FlowRow(
        pod=_FIRST_POD + number % _PODS,
        pod_port=_FIRST_POD_PORT + number // _PODS % _POD_PORTS,
        remote=_FIRST_REMOTE + number // _PORTS,
        remote_port=443,
        protocol=IPPROTO_TCP,
        floating_ip=FLOATING_IP,
        nat_port=FIRST_PORT + number % _PORTS,
        rule_set=1,
        last_ns=time.monotonic_ns(),
        life_s=_LIFE_S,
        pod_number=1 + number % _PODS,
        state=_ESTABLISHED,
        is_ended=False,
        acked=0,
        ifindex=2,
        out_packets=10,
        in_packets=10,
        out_bytes=1000,
        in_bytes=1000,
    )
    key = flow_key(row.pod.packed, row.remote.packed, row.pod_port, row.remote_port, row.protocol)
    return key, row.value()


async def _sweeps(maps: Mapping[str, BpfMap], count: int, repeats: int) -> Sweeps:
    table = FlowTable(maps, clock=boot_ns, monotonic=time.monotonic_ns)
    packed = FLOATING_IP.packed
    attribution = Attribution({packed: "load"}, policies=("load",), floating_ips=(packed,))
    gc.collect()
    tracemalloc.start()
    try:
        # The first one learns every row.
        flows = (await table.sweep(None, attribution)).flows
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    if flows != count:
        raise TransientError(f"{flows} of {count} flows were seen")
    taken = []
    for _ in range(repeats):
        before_ns = time.process_time_ns()
        await table.sweep(None, attribution)
        taken.append((time.process_time_ns() - before_ns) / 1e6)
    return Sweeps(taken, held / 1e6)
