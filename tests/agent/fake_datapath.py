"""A node's datapath that remembers what it was told, for tests of those who drive one; no kernel is touched."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from types import TracebackType
from typing import Self

from service.datapath.desired import LocalUplink, Rows
from service.datapath.node_datapath import Inheritance, NodeDatapath
from service.datapath.worker_pool import WorkerPool
from service.model.errors import TransientError
from service.network.link_monitor import LinkMonitor, NetworkChange
from service.network.nftables import SteerElement
from service.settings import Settings

UPLINK = LocalUplink(2, "eth0", b"\2\0\0\0\0\1", IPv4Interface("192.168.1.21/24"), True)
NOTHING_INHERITED = Inheritance({}, {}, {}, {}, ())


class FakeLinks(LinkMonitor):
    """Reports as many changes as it is told to, then none."""

    def __init__(self, reports: int) -> None:
        self._reports = reports

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[NetworkChange, ...]:
        if not self._reports:
            await asyncio.Event().wait()
        self._reports -= 1
        return ()


class FakeDatapath(NodeDatapath):
    """`calls` lists what was asked for, in order; `failing` holds how often a call is refused before it succeeds."""

    def __init__(self, settings: Settings, uplink: LocalUplink = UPLINK) -> None:
        super().__init__(settings)
        self._uplinks = (uplink,)
        self._egw_ifindex = 9
        self.pool = WorkerPool({}, workers=1)
        self.nftables = self  # type: ignore[assignment]
        self.calls: list[tuple[object, ...]] = []
        self.failing: dict[str, int] = {}
        self.content: dict[str, Rows] = {}
        self.devices: dict[IPv4Address, int] = {}
        self.next_uplinks: tuple[LocalUplink, ...] | None = None
        self.repairs: list[int] = []
        """Index of the steering device after each round that found damage."""
        self.link_reports = 0
        self.left = NOTHING_INHERITED
        """By a former agent."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def inherited(self) -> Inheritance:
        return self.left

    def _call(self, name: str, *arguments: object) -> None:
        self.calls.append((name, *arguments))
        if self.failing.get(name, 0) > 0:
            self.failing[name] -= 1
            raise TransientError(f"{name} is refused")

    def named(self, name: str) -> list[tuple[object, ...]]:
        """The arguments of each call of this name."""
        return [call[1:] for call in self.calls if call[0] == name]

    async def refresh_uplinks(self) -> bool:
        self._call("refresh_uplinks")
        if self.next_uplinks is None:
            return False
        self._uplinks, self.next_uplinks = self.next_uplinks, None
        return True

    async def attach_uplinks(self) -> None:
        self._call("attach_uplinks")

    async def attach_pod_devices(self) -> None:
        self._call("attach_pod_devices")

    async def pod_devices(self, pod_ips: Iterable[IPv4Address]) -> dict[IPv4Address, int]:
        wanted = tuple(pod_ips)
        self._call("pod_devices", *wanted)
        return {pod_ip: device for pod_ip, device in self.devices.items() if pod_ip in wanted}

    def write(self, content: Mapping[str, Rows]) -> None:
        self._call("write")
        self.content = dict(content)

    async def clear_connections(self, pod_ips: Sequence[IPv4Address], cluster: Sequence[IPv4Network]) -> None:
        self._call("clear_connections", *pod_ips)

    def drops(self) -> dict[tuple[str, str], int]:
        return {}

    def counters(self) -> dict[str, int]:
        return {}

    async def repair(self) -> bool:
        self._call("repair")
        if not self.repairs:
            return False
        self._egw_ifindex = self.repairs.pop(0)
        return True

    async def drained(self) -> None:
        self._call("drained")

    def link_monitor(self) -> LinkMonitor:
        return FakeLinks(self.link_reports)

    async def set_netfilter(
        self,
        pods: Sequence[IPv4Network],
        cluster: Sequence[IPv4Network],
        uplinks: Sequence[str],
        *,
        steer: Sequence[tuple[IPv4Address, IPv4Network]],
    ) -> None:
        self._call("set_netfilter", tuple(uplinks), tuple(steer))

    async def update_steer(self, added: Sequence[SteerElement], removed: Sequence[SteerElement]) -> None:
        self._call("update_steer", tuple(added), tuple(removed))
