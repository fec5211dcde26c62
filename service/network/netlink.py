"""The kernel's interfaces, routes, rules and hooks for programs, from asyncio.

pyroute2's asyncio socket does not run on uvloop (an event loop of its own is started under the synchronous one), so one
synchronous socket lives in one thread of its own; calls are carried there one after the other, each with a time limit.
"""

import asyncio
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from pyroute2.netlink.exceptions import NetlinkError

from service.model.errors import InvariantError, OperatorError, TransientError
from service.network.attachment import Attachments
from service.network.handover_device import ensure_handover_device, remove_handover_device
from service.network.hook import Attachment, Direction, HookKind
from service.network.link import Interface, read_default_gateways, read_default_route_interfaces, read_interfaces
from service.network.pod_device import locate_pods
from service.network.route_socket import RouteSocket
from service.network.steering_device import (
    SteeringSpec,
    conflicting_rules,
    ensure_steering_device,
    remove_steering_device,
)
from service.network.sysctl import Sysctl
from service.network.traffic_control import read_plain_devices

P = ParamSpec("P")
T = TypeVar("T")

_EPERM = 1
_LOOK_INTERVAL_S = 0.02
Pause = Callable[[float], Awaitable[None]]
"""Waits for so many seconds, or less."""


class Netlink:
    """Async context manager. Every method raises TransientError where the kernel refuses or does not answer in time,
    OperatorError where the process lacks the right."""

    def __init__(
        self, *, timeout_s: float = 5.0, sysctl: Sysctl | None = None, attachments: Attachments | None = None
    ) -> None:
        """Without `attachments` programs are filters, on every kernel."""
        self._timeout_s = timeout_s
        self._attachments = attachments or Attachments(None)
        self._sysctl = sysctl or Sysctl()
        self._executor: ThreadPoolExecutor | None = None
        self._ipr: Any = None

    async def __aenter__(self) -> Self:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netlink")
        self._ipr = await self._in_thread(RouteSocket)
        await self._call(self._attachments.look_around)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        executor, ipr = self._executor, self._ipr
        self._executor = self._ipr = None
        if executor is not None:
            if ipr is not None:
                executor.submit(ipr.close)
            # Not waited for: a thread stuck in the kernel must not hold up the stop of the agent.
            executor.shutdown(wait=False)

    async def interfaces(self) -> tuple[Interface, ...]:
        """All interfaces, by index."""
        return await self._call(read_interfaces)

    async def default_route_interfaces(self) -> tuple[str, ...]:
        """Names of the devices that carry a default route of the main table, best metric first."""
        return await self._call(read_default_route_interfaces)

    async def default_gateways(self) -> tuple[IPv4Address, ...]:
        """Next hops of the default routes of the main table."""
        return await self._call(read_default_gateways)

    async def veth_devices(self, exclude: Iterable[str] = ()) -> tuple[Interface, ...]:
        """Candidates for the pod program: veths that are up, bridge ports among them, but those named in `exclude`."""
        foreign = frozenset(exclude)
        interfaces = await self.interfaces()
        return tuple(found for found in interfaces if found.kind == "veth" and found.up and found.name not in foreign)

    async def pod_devices(
        self,
        pod_ips: Iterable[IPv4Address],
        uplinks: Iterable[str],
        *,
        wait_s: float = 0.1,
        pause: Pause = asyncio.sleep,
    ) -> AsyncGenerator[dict[IPv4Address, int]]:
        """Index of the node's device each local pod is behind: of most at once, then of those that had to be asked by
        ARP. In none: not local, or silent for `wait_s`. `pause` is how it waits for answers; it may be shorter."""
        wanted, foreign = tuple(pod_ips), tuple(uplinks)
        deadline = asyncio.get_running_loop().time() + wait_s
        found = await self._call(locate_pods, wanted, foreign, provoke=True)
        yield found.devices
        while found.pending and asyncio.get_running_loop().time() < deadline:
            await pause(_LOOK_INTERVAL_S)
            found = await self._call(locate_pods, found.pending, foreign, provoke=False)
            yield found.devices

    async def ensure_steering_device(
        self,
        *,
        name: str = "egw0",
        vni_port: int,
        table: int,
        mark: int,
        vtep_address: IPv4Address | None = None,
        uplinks: Iterable[str] = (),
        mtu: int = 1500,
        are_samples: bool = False,
    ) -> Interface:
        """Device, sysctls, table and ip rules of the policy path (W3, G7). Idempotent; repairs what others removed.

        `are_samples`: connection tracking sees some packets of a flow only (rule F3)."""
        spec = SteeringSpec(name, vni_port, table, mark, vtep_address, tuple(uplinks), mtu, are_samples)
        return await self._call(ensure_steering_device, spec, self._sysctl)

    async def remove_steering_device(self, *, name: str = "egw0", table: int, mark: int) -> None:
        """Rules first, then the table, then the device (G8), then the sysctls as they were."""
        await self._call(remove_steering_device, name=name, table=table, mark=mark)
        await self._in_thread(self._sysctl.restore)

    async def ensure_handover_device(self) -> Interface:
        """The device at which packets wait for a successor (rule R4). Idempotent."""
        return await self._call(ensure_handover_device, self._sysctl)

    async def remove_handover_device(self) -> None:
        """Fine where there is none."""
        await self._call(remove_handover_device)

    async def check_mark(self, *, table: int, mark: int) -> None:
        """Raise OperatorError naming the ip rules of others that look at our mark bit (W6)."""
        conflicts = await self._call(conflicting_rules, table, mark)
        if conflicts:
            raise OperatorError(f"datapath.mark: {mark:#x} is in use, choose another bit ({'; '.join(conflicts)})")

    @property
    def has_tcx(self) -> bool:
        """Programs go to tcx, which is in nobody's way; else they are filters in a qdisc."""
        return self._attachments.has_tcx

    async def plain_devices(self, ifindexes: Iterable[int]) -> frozenset[int]:
        """Which of these devices nobody shapes or filters but netfilter: packets may go past the stack there (F2)."""
        return await self._call(read_plain_devices, tuple(ifindexes))

    async def attach(self, ifindex: int, direction: Direction, program_fd: int, name: str) -> HookKind:
        """Attach the program, or replace ours without a gap. It must return TC_ACT_UNSPEC to pass (W7)."""
        return await self._call(self._attachments.attach, ifindex, direction, program_fd, name)

    async def detach(self, ifindex: int, direction: Direction) -> bool:
        """Remove our program, of whatever kind, and nothing else; False where there was none or the device is gone."""
        return await self._call(self._attachments.detach, ifindex, direction)

    async def attached(self, ifindex: int) -> tuple[Attachment, ...]:
        """Our programs on the device, as far as they are on the hook that they get now."""
        return await self._call(self._attachments.read_attachments, ifindex)

    async def sweep_attachments(self) -> None:
        """Forget what devices that are gone have left."""
        await self._call(self._attachments.sweep_links)

    async def clear_attachments(self) -> None:
        """Take away what is left of programs that outlive the agent, wherever it is."""
        await self._call(self._attachments.clear_links)

    async def _call(self, function: Callable[Concatenate[Any, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await self._in_thread(functools.partial(function, self._ipr, *args, **kwargs))
        except NetlinkError as error:
            raise _translated(function, error, error.code) from error
        except OSError as error:
            raise _translated(function, error, error.errno) from error

    async def _in_thread(self, function: Callable[[], T]) -> T:
        if self._executor is None:
            raise InvariantError("Netlink is used outside its context")
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._executor, function)
        except TimeoutError as error:
            raise TransientError(f"netlink did not answer within {self._timeout_s:g} s") from error


def _translated(function: Callable[..., object], error: Exception, code: int | None) -> Exception:
    action = function.__name__.replace("_", " ")
    if code == _EPERM:
        return OperatorError(f"{action}: not permitted; the agent needs CAP_NET_ADMIN and CAP_BPF")
    return TransientError(f"{action}: {error}")
