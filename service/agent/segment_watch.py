"""Hears what is said on this node's segments, speaks there for what it holds (A2), and asks who hears it (S5)."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address
from types import TracebackType
from typing import Self

from service.datapath.desired import LocalUplink
from service.datapath.reconciler import Reconciler
from service.gateway.defence import Ask, Defence, Defend
from service.gateway.hearing import SegmentHearing, Target
from service.model.errors import TransientError
from service.model.gateway_node import GatewayNode, Hearing, NodeState, Segment
from service.model.kept import Kept
from service.network.announcer import FrameSender
from service.network.arp import (
    BROADCAST_MAC,
    REPLY,
    ArpPacket,
    ArpSender,
    arp_probe_frame,
    arp_request_frame,
    gratuitous_arp_frames,
)
from service.network.arp_listener import ArpListener
from service.settings import Settings

_log = logging.getLogger(__name__)

_IDLE_S = 60.0
_MS = 1_000_000
_MAC_BYTES = 6


class SegmentWatch:
    """`update` in each turn, `run` as a task; `changed` is called when a conflict begins."""

    def __init__(
        self,
        settings: Settings,
        reconciler: Reconciler,
        *,
        clock: Callable[[], int],
        held: Callable[[], Iterable[IPv4Address]],
        gateways: Callable[[], Sequence[IPv4Address]],
        is_answering: Callable[[str], bool],
        changed: Callable[[], None],
        announced: Callable[[IPv4Address, bytes], None] = lambda floating_ip, mac: None,
        sender: FrameSender | None = None,
    ) -> None:
        """`held`: which floating IPs this node holds now. `gateways`: its default gateways. `is_answering`: whether a
        member is there by gossip, beyond suspicion. `announced` is told of gratuitous ARP. `clock`: CLOCK_BOOTTIME in
        ns."""
        self._settings = settings
        self._gateways = gateways
        self._is_answering = is_answering
        self._reconciler = reconciler
        self._clock = clock
        self._held = held
        self._changed = changed
        self._announced = announced
        self._defence = Defence()
        self._hearing: dict[str, SegmentHearing] = {}
        """By uplink."""
        self._peers = Kept[tuple[GatewayNode, ...]]()
        self._gateway_macs: dict[IPv4Address, bytes] = {}
        """Of default gateways, as they answered last."""
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
        self._update_hearing()
        self._wake.set()

    def _update_hearing(self) -> None:
        lease, now_ns = self._settings.lease, self._clock()
        uplinks = {uplink.name: uplink for uplink in self._speaking() if uplink.carrier}
        self._hearing = {name: known for name, known in self._hearing.items() if name in uplinks}
        self._gateway_macs = {one: mac for one, mac in self._gateway_macs.items() if one in self._gateways()}
        for name, uplink in uplinks.items():
            if name not in self._hearing:
                self._hearing[name] = SegmentHearing(lease.probe_gap_ms * _MS, lease.deaf_after_ms * _MS)
            hearing = self._hearing[name]
            is_in_doubt = hearing.state in (Hearing.SILENT, Hearing.DEAF)
            do_others_hear = is_in_doubt and self._do_others_hear(uplink)
            hearing.update(self._targets(uplink), do_others_hear=do_others_hear, now_ns=now_ns)

    def _targets(self, uplink: LocalUplink) -> Iterator[Target]:
        """The default gateway, then the peers in the order of their names from this node's on, so that each is asked by
        others."""
        for gateway in self._gateways():
            if gateway in uplink.address.network:
                # Where it does not answer, it may have another MAC now: everybody is asked.
                is_heard = self._hearing[uplink.name].state is Hearing.HEARS
                yield Target(gateway, self._gateway_macs.get(gateway, b"") if is_heard else b"")
        own, nodes = self._settings.node, self._reconciler.nodes
        peers = self._peers.of(lambda: tuple(sorted(nodes, key=lambda peer: (peer.name < own, peer.name))), nodes)
        for node in peers:
            if node.name != own and node.state is NodeState.UP:
                for segment in node.segments:
                    if segment.network == uplink.address.network:
                        yield Target(segment.address, segment.mac)

    def _do_others_hear(self, uplink: LocalUplink) -> bool:
        return any(
            segment.network == uplink.address.network and segment.hearing is Hearing.HEARS
            for node in self._reconciler.nodes
            if node.name != self._settings.node and node.state is NodeState.UP and self._is_answering(node.name)
            for segment in node.segments
        )

    def segments(self) -> tuple[Segment, ...]:
        """What the members are told of this node's segments."""
        return tuple(
            replace(uplink.segment, hearing=self._hearing_of(uplink.name)) for uplink in self._reconciler.uplinks
        )

    def useful_uplinks(self) -> tuple[LocalUplink, ...]:
        """The uplinks as the keeper is told of them: one by which nobody is reached counts as one without carrier."""
        return tuple(
            replace(uplink, carrier=uplink.carrier and self._hearing_of(uplink.name) is not Hearing.DEAF)
            for uplink in self._reconciler.uplinks
        )

    def deaf_uplinks(self) -> tuple[str, ...]:
        """Interfaces by which nobody is reached, though others on their segments are."""
        return tuple(sorted(name for name, hearing in self._hearing.items() if hearing.state is Hearing.DEAF))

    def _hearing_of(self, name: str) -> Hearing:
        known = self._hearing.get(name)
        return known.state if known is not None else Hearing.UNKNOWN

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
        own_macs = {uplink.mac for uplink in self._reconciler.uplinks}
        if packet.operation == REPLY and packet.target_mac in own_macs:
            self._hear_answer(ifname, packet)
        floating_ip, mac = packet.sender, packet.sender_mac
        if packet.sender == packet.target and mac not in own_macs:
            self._announced(floating_ip, mac)
        if not self._defence.holds(floating_ip) or mac in own_macs:
            return
        is_member = any(segment.mac == mac for node in self._reconciler.nodes for segment in node.segments)
        if self._defence.hear(floating_ip, mac, is_member=is_member, now_ns=self._clock()):
            _log.error("%s is also used by %s on %s; this node holds and defends it", floating_ip, mac.hex(":"), ifname)
            self._changed()
        self._wake.set()

    def _hear_answer(self, ifname: str, packet: ArpPacket) -> None:
        if packet.sender in self._gateways():
            self._gateway_macs[packet.sender] = packet.sender_mac
        hearing = self._hearing.get(ifname)
        if hearing is not None:
            before = hearing.state
            hearing.answer(now_ns=self._clock())
            self._tell(ifname, before, hearing.state)

    async def run(self) -> None:
        """Defend and ask when it is due, until cancelled."""
        while True:
            self._defence.advance(now_ns=self._clock())
            for output in self._defence.drain():
                self._execute(output)
            for uplink in tuple(self._speaking()):
                self._listen_on(uplink)
            deadlines = (self._defence.deadline_ns(), *(hearing.deadline_ns() for hearing in self._hearing.values()))
            deadline_ns = min((due for due in deadlines if due is not None), default=None)
            wait_s = _IDLE_S if deadline_ns is None else max(0.0, (deadline_ns - self._clock()) / 1e9)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            self._wake.clear()

    def _listen_on(self, uplink: LocalUplink) -> None:
        hearing = self._hearing.get(uplink.name)
        if hearing is None:
            return
        before = hearing.state
        hearing.advance(now_ns=self._clock())
        for target in hearing.drain():
            to = target.mac or BROADCAST_MAC
            self._send(uplink.name, arp_request_frame(uplink.mac, uplink.address.ip, target.address, to=to))
        self._tell(uplink.name, before, hearing.state)

    def _tell(self, ifname: str, before: Hearing, now: Hearing) -> None:
        if now is before:
            return
        if now is Hearing.DEAF:
            _log.error("%s: nobody answers, though others on its segment are answered; its addresses go", ifname)
        elif before is Hearing.DEAF and now is Hearing.HEARS:
            _log.warning("%s: answered again", ifname)
        self._changed()

    def _execute(self, output: Defend | Ask) -> None:
        for uplink in self._speaking(output.floating_ip):
            if isinstance(output, Ask):
                frame = arp_probe_frame(uplink.mac, output.floating_ip)
            else:
                frame = gratuitous_arp_frames(uplink.mac, output.floating_ip)[output.is_reply]
            self._send(uplink.name, frame)

    def _send(self, ifname: str, frame: bytes) -> None:
        try:
            self._sender.send(ifname, frame)
        except TransientError as error:
            _log.debug("ARP: %s", error)

    def _speaking(self, floating_ip: IPv4Address | None = None) -> Iterator[LocalUplink]:
        """Uplinks with a MAC, on the segment of the address where one is given."""
        for uplink in self._reconciler.uplinks:
            is_near = floating_ip is None or floating_ip in uplink.address.network
            if len(uplink.mac) == _MAC_BYTES and is_near:
                yield uplink
