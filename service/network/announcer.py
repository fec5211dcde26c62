"""Gratuitous ARP for the floating IPs a node holds, on the schedule of the design (section 6)."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import IPv4Address
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from service.gateway.announcement import AnnouncementSchedule
from service.model.errors import TransientError
from service.network.arp import ArpSender, gratuitous_arp_frames

_log = logging.getLogger(__name__)

_IDLE_S = 60.0


class Outlet(NamedTuple):
    """An interface an address is announced on."""

    ifname: str
    mac: bytes


class FrameSender(Protocol):
    """Where frames leave the node: `ArpSender`, but for tests."""

    def send(self, interface: str | int, frame: bytes) -> None:
        """Never block. Raise TransientError where the interface is absent, down or its queue full."""

    def close(self) -> None:
        """Called once, after the last `send`."""


class Announcer:
    """Sends when due. What comes after the lease is dropped by the fence, not by this."""

    def __init__(
        self,
        *,
        clock: Callable[[], int],
        outlets: Callable[[IPv4Address], Iterable[Outlet]],
        sender: FrameSender | None = None,
    ) -> None:
        """`outlets` says where an address is to be announced now; `clock` must not go backwards (ns)."""
        self._clock = clock
        self._outlets = outlets
        self._schedule = AnnouncementSchedule()
        self._sender = sender or ArpSender()
        self._wake = asyncio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sender.close()

    def start(self, floating_ip: IPv4Address) -> None:
        """The node has acquired it: announce at once, then on schedule. Repeating it changes nothing."""
        self._schedule.start(floating_ip, now_ns=self._clock())
        self._wake.set()

    def restart(self, floating_ips: Iterable[IPv4Address]) -> None:
        """Announce again as if just acquired: a link came up, or a partition healed. Only what was started is."""
        for floating_ip in floating_ips:
            self._schedule.restart(floating_ip, now_ns=self._clock())
        self._wake.set()

    def stop(self, floating_ip: IPv4Address) -> None:
        """The lease is lost: not one frame more, also of what is due already."""
        self._schedule.stop(floating_ip)

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            self._schedule.advance(now_ns=self._clock())
            for due in self._schedule.drain():
                self._send(due.floating_ip)
            deadline_ns = self._schedule.deadline_ns()
            wait_s = _IDLE_S if deadline_ns is None else max(0.0, (deadline_ns - self._clock()) / 1e9)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            self._wake.clear()

    def _send(self, floating_ip: IPv4Address) -> None:
        for outlet in self._outlets(floating_ip):
            try:
                for frame in gratuitous_arp_frames(outlet.mac, floating_ip):
                    self._sender.send(outlet.ifname, frame)
            except TransientError as error:
                _log.warning("gratuitous ARP for %s: %s", floating_ip, error)
