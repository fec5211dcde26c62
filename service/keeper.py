"""The lease keeper: elector and holder of one node, in a small process of its own (leases.md, Process).

It writes the deadline of each lease straight into the datapath's map and waits for nobody: not for the agent, not for a
disk, not for a compile. A stuck agent costs no address before its grace is over (S6); a stuck keeper costs it when the
deadline passes, because the kernel compares it on every packet.
"""

import asyncio
import ctypes
import gc
import logging
import os
import random
import socket
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from ipaddress import IPv4Address
from pathlib import Path

import msgspec

from service import process
from service.datapath.bpf_map import BpfMap, open_pinned
from service.datapath.layout import MapName, lease_value
from service.datapath.pin import pin_folder
from service.lease.elector import ElectorMachine, Persist, Remember
from service.lease.holder import CloseFence, DesiredClaim, Holder, OpenFence, boot_id_bytes
from service.lease.message import Ack, decode
from service.lease.promise import Instant
from service.model.errors import OperatorError, PeerError, TransientError
from service.model.keeper_message import (
    AGENT_SOCKET,
    KEEPER_SOCKET,
    Heartbeat,
    HeldLease,
    KeeperMessage,
    LeaseReport,
    Uplink,
)
from service.model.lease import Stamp, Token
from service.model.machine import Address, Send, Source
from service.network.arp import ArpSender, gratuitous_arp_frames
from service.network.envelope import Envelope
from service.network.pump import MachinePump
from service.network.sealed_socket import SealedSocket
from service.promise_file import PromiseFile, TokenFile
from service.settings import Settings

_log = logging.getLogger(__name__)

HEARTBEAT_AGE_NS_MAX = 1_000_000_000
"""S3: nothing new is claimed for an agent that has not been heard for so long."""
_REPORT_PERIOD_S = 0.2
_FAREWELL_S = 0.3
_DATAGRAM_BYTES_MAX = 212_992
_MCL_CURRENT_AND_FUTURE = 3


async def run(settings: Settings) -> None:
    """Run the keeper until cancelled. Raises OperatorError where it cannot start."""
    if not settings.electors.members:
        raise OperatorError("electors.members: name the 1, 3, 5 or 7 agents that grant leases")
    async with AsyncExitStack() as stack:
        promises = stack.enter_context(PromiseFile(Path(settings.run_dir)))
        keeper = Keeper(settings, promises, scheduling=_become_punctual())
        await keeper.enter(stack)
        await keeper.serve()


class Keeper:
    """One node's keeper."""

    def __init__(self, settings: Settings, promises: PromiseFile, *, scheduling: str) -> None:
        self._settings = settings
        self._scheduling = scheduling
        self._start_id = process.start_id()
        self._own = Source(Address(settings.bind_address, settings.ports.lease), settings.node, self._start_id)
        self._promises = promises
        self._tokens = TokenFile(Path(settings.state_dir))
        self._fence = Fence(str(pin_folder(settings.datapath.bpf_dir) / MapName.LEASE_DEADLINES))
        self._arp = ArpSender()
        self._uplinks: dict[str, Uplink] = {}
        self._heard_ns: int | None = None
        self._agent = AgentLink(Path(settings.run_dir), on_heartbeat=self._take_heartbeat)
        envelope = Envelope(
            settings.keys(), cluster=settings.cluster, node=settings.node, start_id=self._start_id, purpose="lease"
        )
        self._socket = SealedSocket(self._own.address, envelope, bind_receiver=True, on_datagram=self._take_datagram)
        self._holder = Holder(
            node=settings.node,
            boot_id=process.boot_id(),
            start_id=self._start_id,
            electorate=settings.electorate,
            profile=settings.lease_profile,
            lease_port=settings.ports.lease,
            random=random.Random(self._start_id),
            now_ns=process.boot_ns(),
        )
        self._holder_pump = MachinePump(self._holder, clock=process.boot_ns, send=self._send, handle=self._handle_fence)
        self._elector = self._make_elector()
        self._elector_timer: asyncio.TimerHandle | None = None
        self._elector_queue: deque[Send | Persist | Remember] = deque()
        self._elector_due = asyncio.Event()

    def _make_elector(self) -> ElectorMachine | None:
        settings = self._settings
        if all(elector.name != settings.node for elector in settings.electorate.members):
            return None
        return ElectorMachine(
            boot_id=boot_id_bytes(process.boot_id()),
            electorate=settings.electorate,
            lease_ns_max=settings.lease.max_lease_ms * 1_000_000,
            promises=self._promises.read(),
            tokens=self._tokens.read(),
            now=_instant(),
        )

    async def enter(self, stack: AsyncExitStack) -> None:
        stack.callback(self._arp.close)
        stack.callback(self._fence.close)
        await stack.enter_async_context(self._socket)
        stack.callback(self._agent.close)
        self._agent.open()
        stack.push_async_callback(self._farewell)
        self._adopt()

    async def serve(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._holder_pump.run(), name="holder")
            group.create_task(self._watch_agent(), name="agent")
            group.create_task(self._persist(), name="promises")
            self._arm_elector()

    def _adopt(self) -> None:
        """S8: what an earlier keeper of this boot opened and is not over goes on; everything else is closed first."""
        now_ns = process.boot_ns()
        for address, (deadline_ns, token) in self._fence.read().items():
            if deadline_ns > now_ns:
                self._holder.adopt(address, token, deadline_ns, now_ns=now_ns)
            elif deadline_ns:
                self._fence.close_lease(address, token)

    async def _farewell(self) -> None:
        """A clean stop: fences first, then releases, so that successors need not wait for the leases to end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                self._holder.set_claims({}, now_ns=process.boot_ns())
                self._holder_pump.wake()
                while not self._holder.is_released:
                    await asyncio.sleep(0.005)
                    self._holder.advance(now_ns=process.boot_ns())
                    self._holder_pump.wake()

    # -- datagrams --

    def _take_datagram(self, source: Source, payload: bytes) -> None:
        """Answers go to the holder, questions to the elector."""
        if isinstance(decode(payload), Ack):
            self._holder_pump.on_datagram(source, payload)
        elif self._elector is not None:
            # T1: the clock is read after the datagram was received.
            self._elector.receive(source, payload, now=_instant())
            self._drain_elector()
            self._arm_elector()
        else:
            raise PeerError("not an elector")

    def _send(self, to: Address, payload: bytes) -> None:
        if to == self._own.address:
            # Its own vote: by the loop and not by the network, but not from within the machine that asks.
            asyncio.get_running_loop().call_soon(self._take_own, payload)
        else:
            self._socket.send(to, payload)

    def _take_own(self, payload: bytes) -> None:
        with suppress(PeerError):
            self._take_datagram(self._own, payload)

    # -- the elector --

    def _arm_elector(self) -> None:
        if self._elector is None:
            return
        if self._elector_timer is not None:
            self._elector_timer.cancel()
            self._elector_timer = None
        deadline_ns = self._elector.deadline_ns()
        if deadline_ns is not None:
            delay_s = max(0.0, (deadline_ns - process.boot_ns()) / 1e9)
            self._elector_timer = asyncio.get_running_loop().call_later(delay_s + 0.0005, self._advance_elector)

    def _advance_elector(self) -> None:
        assert self._elector is not None
        self._elector.advance(now=_instant())
        self._drain_elector()
        self._arm_elector()

    def _drain_elector(self) -> None:
        """Promises go to shared memory at once; what waits for a disk waits in the queue, and all that follows it."""
        assert self._elector is not None
        for output in self._elector.drain():
            if self._elector_queue or isinstance(output, Remember) or (isinstance(output, Persist) and output.durable):
                self._elector_queue.append(output)
                self._elector_due.set()
            elif isinstance(output, Persist):
                self._promises.write(output.data)
            else:
                self._send(output.to, output.payload)

    async def _persist(self) -> None:
        while True:
            await self._elector_due.wait()
            self._elector_due.clear()
            while self._elector_queue:
                output = self._elector_queue[0]
                if isinstance(output, Send):
                    self._send(output.to, output.payload)
                elif isinstance(output, Persist) and not output.durable:
                    self._promises.write(output.data)
                else:
                    await asyncio.to_thread(self._tokens.write, output.data)
                self._elector_queue.popleft()

    # -- the fence --

    def _handle_fence(self, output: object) -> None:
        if isinstance(output, OpenFence):
            self._fence.open_lease(output.key, output.token, output.deadline_ns)
            if output.first:
                self._announce(output.key)
                _log.info("holding %s with token %s", output.key, ".".join(map(str, output.token)))
                self._report()
        elif isinstance(output, CloseFence):
            self._fence.close_lease(output.key, output.token)
            _log.info("no longer holding %s: %s", output.key, output.reason)
            self._report()

    def _announce(self, key: str) -> None:
        """S4: the first gratuitous ARP, by the keeper itself; the agent repeats it."""
        uplink = self._uplinks.get(key)
        if uplink is None:
            return
        try:
            for frame in gratuitous_arp_frames(bytes.fromhex(uplink.mac), IPv4Address(key)):
                self._arp.send(uplink.ifname, frame)
        except TransientError as error:
            _log.warning("gratuitous ARP for %s: %s", key, error)

    # -- the agent --

    def _take_heartbeat(self, heartbeat: Heartbeat) -> None:
        now_ns = process.boot_ns()
        self._heard_ns = now_ns
        self._uplinks = {uplink.floating_ip: uplink for uplink in heartbeat.uplinks}
        is_able = self._fence.is_open or self._fence.try_open()
        # S5: an address whose segment cannot be reached is of no use here.
        claims = {
            claim.floating_ip: DesiredClaim(
                "holder" if claim.role == "holder" else "successor", Stamp(claim.term, claim.version)
            )
            for claim in heartbeat.claims
            if (uplink := self._uplinks.get(claim.floating_ip)) is not None and uplink.carrier
        }
        self._holder.set_claiming(is_able and heartbeat.ready, now_ns=now_ns)
        self._holder.set_claims(claims, now_ns=now_ns)
        self._holder_pump.wake()

    async def _watch_agent(self) -> None:
        """S3 and S6 when nothing is heard, and a report each period."""
        while True:
            now_ns = process.boot_ns()
            age_ns = now_ns - self._heard_ns if self._heard_ns is not None else None
            if age_ns is not None and age_ns > HEARTBEAT_AGE_NS_MAX:
                self._holder.set_claiming(False, now_ns=now_ns)
            if age_ns is not None and age_ns > self._settings.lease.agent_grace_ms * 1_000_000:
                self._holder.set_claims({}, now_ns=now_ns)
            self._holder_pump.wake()
            self._report()
            await asyncio.sleep(_REPORT_PERIOD_S)

    def _report(self) -> None:
        held = tuple(
            HeldLease(key, *lease.token, lease.deadline_ns) for key, lease in sorted(self._holder.held().items())
        )
        elector = self._elector
        self._agent.report(
            LeaseReport(
                held=held,
                elector=elector is not None,
                voting=elector is not None and elector.is_voting,
                scheduling=self._scheduling,
            )
        )


class Fence:
    """The map of deadlines, as the agent pinned it; absent until the first agent has loaded the datapath."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._map: BpfMap | None = None
        self.try_open()

    @property
    def is_open(self) -> bool:
        return self._map is not None

    def try_open(self) -> bool:
        try:
            self._map = open_pinned(self._path)
        except OSError as error:
            _log.debug("the fence at %s cannot be opened yet: %s", self._path, error)
        return self._map is not None

    def read(self) -> dict[str, tuple[int, Token]]:
        """(deadline, token) by floating IP, as the kernel has them."""
        if self._map is None:
            return {}
        rows = {}
        for key, value in self._map.items().items():
            deadline_ns, packed = int.from_bytes(value[:8], "little"), int.from_bytes(value[8:], "little")
            token = Token(packed >> 40, packed >> 16 & 0xFFFFFF, packed & 0xFFFF)
            rows[str(IPv4Address(key))] = (deadline_ns, token)
        return rows

    def open_lease(self, address: str, token: Token, deadline_ns: int) -> None:
        """From now until the deadline this node may use the address."""
        assert self._map is not None, "nothing is claimed before the fence can be opened"
        self._map.update(IPv4Address(address).packed, lease_value(deadline_ns, token.packed()))

    def close_lease(self, address: str, token: Token) -> None:
        """From now on it may not."""
        if self._map is not None:
            self._map.update(IPv4Address(address).packed, lease_value(0, token.packed()))

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None


class AgentLink:
    """The keeper's end of its talk with the agent: heartbeats in, reports out. An absent agent is no error."""

    def __init__(self, run_dir: Path, *, on_heartbeat: Callable[[Heartbeat], None]) -> None:
        self._path = run_dir / KEEPER_SOCKET
        self._agent = str(run_dir / AGENT_SOCKET)
        self._on_heartbeat = on_heartbeat
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(KeeperMessage)
        self._socket: socket.socket | None = None

    def open(self) -> None:
        self._path.unlink(missing_ok=True)
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            opened.bind(str(self._path))
            os.chmod(self._path, 0o600)
        except OSError as error:
            opened.close()
            raise OperatorError(f"run_dir: cannot bind {self._path}: {error.strerror}") from error
        self._socket = opened
        asyncio.get_running_loop().add_reader(opened.fileno(), self._read)

    def close(self) -> None:
        opened, self._socket = self._socket, None
        if opened is not None:
            asyncio.get_running_loop().remove_reader(opened.fileno())
            opened.close()
            self._path.unlink(missing_ok=True)

    def report(self, report: LeaseReport) -> None:
        if self._socket is None:
            return
        with suppress(OSError):
            self._socket.sendto(self._encoder.encode(report), self._agent)

    def _read(self) -> None:
        """Only the newest heartbeat counts; each is the whole truth."""
        assert self._socket is not None
        newest: Heartbeat | None = None
        for _ in range(64):
            try:
                data = self._socket.recv(_DATAGRAM_BYTES_MAX)
            except (BlockingIOError, InterruptedError):
                break
            try:
                message = self._decoder.decode(data)
            except msgspec.MsgspecError as error:
                _log.warning("agent: malformed heartbeat: %s", error)
                continue
            if isinstance(message, Heartbeat):
                newest = message
        if newest is not None:
            self._on_heartbeat(newest)


def _instant() -> Instant:
    return Instant(process.boot_ns(), process.raw_ns())


def _become_punctual() -> str:
    """Real-time priority, locked memory and no collector pauses, as far as permitted; returns what it got."""
    gc.collect()
    gc.freeze()
    gc.disable()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).mlockall(_MCL_CURRENT_AND_FUTURE)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, -20)
            return "nice"
        return "normal"
    return "fifo"
