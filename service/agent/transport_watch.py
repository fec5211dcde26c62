"""Asks members over the data path what the segments let pass, and answers them (rule X1): the machine's hands."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import IPv4Address
from types import TracebackType
from typing import Self

from service.datapath.reconciler import Reconciler
from service.gateway.probe_message import QuestionMessage, ReplyMessage, decode_message, encode_message
from service.gateway.transport import Pair, Question, Reply, Transports
from service.model.assignment import Location
from service.model.errors import PeerError, TransientError
from service.model.keeper_message import HeldLease
from service.model.lease import Token
from service.model.machine import Address, Source
from service.network.announcer import FrameSender
from service.network.arp import ArpSender
from service.network.path_probe import PROBE_OUTSIDE, probe_frame
from service.settings import Settings
from service.wire.envelope import Envelope
from service.wire.sealed_socket import SealedSocket

_log = logging.getLogger(__name__)

_IDLE_S = 60.0


class TransportWatch:
    """`update` in each turn, `run` as a task; `changed` is called when a transport is another. The socket is opened by
    the caller. With `l2` it is asked only who has announced an address; with `vxlan` nothing, and nothing answered."""

    def __init__(
        self,
        settings: Settings,
        reconciler: Reconciler,
        *,
        start_id: int,
        clock: Callable[[], int],
        answering: Callable[[], frozenset[str]],
        held: Callable[[], Mapping[IPv4Address, HeldLease]],
        heard: Callable[[Location], None],
        changed: Callable[[], None],
        sender: FrameSender | None = None,
    ) -> None:
        """`answering`: which members are there by gossip, beyond suspicion. `held`: what this node holds now.
        `heard` is told where an address is, by the word of its holder (R2). `clock`: CLOCK_BOOTTIME in ns."""
        self._reconciler = reconciler
        self._clock = clock
        self._answering = answering
        self._held = held
        self._heard = heard
        self._changed = changed
        self._port = settings.ports.probe
        self.is_asking = settings.datapath.transport != "vxlan"
        self._chooses = settings.datapath.transport == "auto"
        self._machine = Transports(start_id, is_steady=self._chooses)
        self._envelope = Envelope(
            settings.keys, cluster=settings.cluster, node=settings.node, start_id=start_id, purpose="probe"
        )
        self.socket = SealedSocket(
            Address(settings.bind_address, settings.ports.probe), self._envelope, on_datagram=self._take
        )
        self._sender = sender or ArpSender(mark=settings.datapath.mark)
        self._sent = 0
        self._wake = asyncio.Event()
        self._told: tuple[tuple[Pair, ...], frozenset[str]] | None = None
        """Whom the machine was told to ask last, and who was there."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sender.close()

    @property
    def sockets(self) -> tuple[SealedSocket, ...]:
        """What is to be opened."""
        return (self.socket,) if self.is_asking else ()

    def adopt(self, floating_ips: tuple[IPv4Address, ...]) -> None:
        """The segment is used for these by what a former agent has left in the kernel."""
        self._machine.adopt(floating_ips)

    def update(self) -> None:
        """Take whom to ask, and who is there."""
        if not self.is_asking:
            return
        pairs, living = self._reconciler.probed(), self._answering()
        if self._told is not None and pairs is self._told[0] and living == self._told[1]:
            return
        self._told = pairs, living
        self._machine.update(pairs, living, now_ns=self._clock())
        if self._chooses:
            self._reconciler.learn_proven(self._machine.proven())
        self._wake.set()

    def hear_announcement(self, floating_ip: IPv4Address, mac: bytes) -> None:
        """Gratuitous ARP of that MAC, which anybody can forge: the member whose it is, is asked at once (rule R2)."""
        for name, segments in self._reconciler.segments().items():
            if any(segment.mac == mac for segment in segments):
                self._machine.ask_now((name, floating_ip), now_ns=self._clock())
        self._wake.set()

    async def run(self) -> None:
        """Ask when it is due, until cancelled."""
        while True:
            self._machine.advance(now_ns=self._clock())
            self._send_all()
            deadline_ns = self._machine.deadline_ns()
            wait_s = _IDLE_S if deadline_ns is None else max(0.0, (deadline_ns - self._clock()) / 1e9)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            self._wake.clear()

    def status(self) -> dict[str, dict[str, str]]:
        """By floating IP and member: over which transport, of those that are asked about to choose one."""
        found: dict[str, dict[str, str]] = {}
        if not self._chooses:
            return found
        for (name, floating_ip), is_proven in sorted(self._machine.asked().items()):
            found.setdefault(str(floating_ip), {})[name] = "l2" if is_proven else "vxlan"
        return found

    def _take(self, source: Source, payload: bytes) -> None:
        """Raises PeerError where it did not come over the data path, whence it has the floating IP as its source."""
        message = decode_message(payload)
        floating_ip = IPv4Address(message.floating_ip)
        if not self.is_asking or source.address.host != str(floating_ip):
            raise PeerError("not-by-the-data-path")
        now_ns = self._clock()
        if isinstance(message, QuestionMessage):
            self._machine.hear_question(
                source.node,
                floating_ip,
                nonce=message.nonce,
                sequence=message.sequence,
                is_content=message.is_content,
                now_ns=now_ns,
            )
        elif self._machine.hear_reply(
            source.node, floating_ip, nonce=message.nonce, sequence=message.sequence, now_ns=now_ns
        ):
            self._learn_holder(source.node, floating_ip, message.token)
        self._send_all()
        self._wake.set()

    def _learn_holder(self, name: str, floating_ip: IPv4Address, token: tuple[int, int, int] | None) -> None:
        if token is None:
            return
        try:
            self._heard(Location(floating_ip, name, Token.checked(*token)))
        except ValueError as error:
            raise PeerError("malformed-probe") from error

    def _send_all(self) -> None:
        for output in self._machine.drain():
            self._send(output)
        if self._chooses and self._reconciler.learn_proven(self._machine.proven()):
            _log.info("transports: %s", self.status())
            self._changed()

    def _send(self, output: Question | Reply) -> None:
        path = self._reconciler.topology().shared(output.to, output.floating_ip)
        if path is None:
            return
        ends, message = self._composed(output)
        self._sent += 1
        macs = path.uplink.mac, path.mac
        frame = probe_frame(macs, ends, self._port, self._sent, self._envelope.seal(encode_message(message)))
        try:
            self._sender.send(path.uplink.name, frame)
        except TransientError as error:
            _log.debug("probe: %s", error)

    def _composed(
        self, output: Question | Reply
    ) -> tuple[tuple[IPv4Address, IPv4Address], QuestionMessage | ReplyMessage]:
        number = int(output.floating_ip)
        if isinstance(output, Question):
            question = QuestionMessage(number, self._machine.nonce, output.sequence, output.is_content)
            return (output.floating_ip, PROBE_OUTSIDE), question
        lease = self._held().get(output.floating_ip)
        token = lease.token if lease is not None and lease.deadline_ns > self._clock() else None
        return (PROBE_OUTSIDE, output.floating_ip), ReplyMessage(number, output.nonce, output.sequence, token)
