"""Hears what is said on this node's segments, and speaks there for what it holds (rule A2)."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import IPv4Address
from types import TracebackType
from typing import Self

from service.datapath.desired import LocalUplink
from service.datapath.reconciler import Reconciler
from service.gateway.defence import Ask, Defence, Defend
from service.model.errors import TransientError
from service.network.announcer import FrameSender
from service.network.arp import ArpPacket, ArpSender, arp_probe_frame, gratuitous_arp_frames
from service.network.arp_listener import ArpListener

_log = logging.getLogger(__name__)

_IDLE_S = 60.0
_MAC_BYTES = 6


class SegmentWatch:
    """`update` in each turn, `run` as a task; `changed` is called when a conflict begins."""

    def __init__(
        self,
        reconciler: Reconciler,
        *,
        clock: Callable[[], int],
        held: Callable[[], Iterable[IPv4Address]],
        changed: Callable[[], None],
        sender: FrameSender | None = None,
    ) -> None:
        """`held`: which floating IPs this node holds now. `clock`: CLOCK_BOOTTIME in ns."""
        self._reconciler = reconciler
        self._clock = clock
        self._held = held
        self._changed = changed
        self._defence = Defence()
        self._listener = ArpListener(self.hear)
        self._sender = sender or ArpSender()
        self._wake = asyncio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.listen(())
        self._sender.close()

    def update(self) -> None:
        """Take what is held and which uplinks there are."""
        self._listener.listen((uplink.name, uplink.ifindex) for uplink in self._speaking())
        self._defence.hold(self._held(), now_ns=self._clock())
        self._wake.set()

    @property
    def defences(self) -> int:
        """How often an address was defended since the start."""
        return self._defence.defences

    def conflicts(self) -> Mapping[IPv4Address, bytes]:
        """MAC of whoever else uses an address that is held here, while it does."""
        return self._defence.conflicts()

    def is_clear(self, floating_ip: IPv4Address) -> bool:
        """It is held here, it was asked for, and nobody else has it."""
        return self._defence.is_clear(floating_ip, now_ns=self._clock())

    def hear(self, ifname: str, packet: ArpPacket) -> None:
        """An ARP packet that came in by an uplink."""
        floating_ip, mac = packet.sender, packet.sender_mac
        if not self._defence.holds(floating_ip) or mac in {uplink.mac for uplink in self._reconciler.uplinks}:
            return
        is_member = any(segment.mac == mac for node in self._reconciler.nodes for segment in node.segments)
        if self._defence.hear(floating_ip, mac, is_member=is_member, now_ns=self._clock()):
            _log.error("%s is also used by %s on %s; this node holds and defends it", floating_ip, mac.hex(":"), ifname)
            self._changed()
        self._wake.set()

    async def run(self) -> None:
        """Defend and ask when it is due, until cancelled."""
        while True:
            self._defence.advance(now_ns=self._clock())
            for output in self._defence.drain():
                self._execute(output)
            deadline_ns = self._defence.deadline_ns()
            wait_s = _IDLE_S if deadline_ns is None else max(0.0, (deadline_ns - self._clock()) / 1e9)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            self._wake.clear()

    def _execute(self, output: Defend | Ask) -> None:
        for uplink in self._speaking(output.floating_ip):
            if isinstance(output, Ask):
                frame = arp_probe_frame(uplink.mac, output.floating_ip)
            else:
                frame = gratuitous_arp_frames(uplink.mac, output.floating_ip)[output.is_reply]
            try:
                self._sender.send(uplink.name, frame)
            except TransientError as error:
                _log.debug("ARP for %s: %s", output.floating_ip, error)

    def _speaking(self, floating_ip: IPv4Address | None = None) -> Iterator[LocalUplink]:
        """Uplinks with a MAC, on the segment of the address where one is given."""
        for uplink in self._reconciler.uplinks:
            is_near = floating_ip is None or floating_ip in uplink.address.network
            if len(uplink.mac) == _MAC_BYTES and is_near:
                yield uplink
