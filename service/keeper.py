"""The lease keeper: elector and holder of one node, in a small process of its own (leases.md, Process).

It writes the deadline of each lease straight into the datapath's map and waits for nobody: not for the agent, not for a
disk, not for a compile. A stuck agent costs no address before its grace is over (S6); a stuck keeper costs it when the
deadline passes, because the kernel compares it on every packet.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from ipaddress import IPv4Address
from pathlib import Path

from service import process
from service.audit.promise_log import PromiseLog
from service.fence import Fence, PinnedFence
from service.lease.elector import ElectorMachine, ElectorOutput, Persist, Promised, Remember, SendPersisted
from service.lease.holder import CloseFence, DesiredClaim, Holder, OpenFence, boot_id_bytes
from service.lease.message import MessageKind, kind_of
from service.lease.observer import Observed, Observer
from service.lease.promise import Instant
from service.model.errors import OperatorError, PeerError, TransientError
from service.model.keeper_message import Heartbeat, HeldLease, LeaseReport, Uplink
from service.model.lease import ProfileName, Stamp
from service.model.machine import Address, Source
from service.network.agent_link import AgentLink
from service.network.arp import ArpSender, gratuitous_arp_frames
from service.network.envelope import Envelope
from service.network.pump import MachinePump
from service.network.sealed_socket import SealedSocket
from service.promise_file import PromiseFile, TokenFile
from service.realtime import freeze_collector, lock_memory, raise_priority
from service.settings import Settings

_log = logging.getLogger(__name__)

HEARTBEAT_AGE_NS_MAX = 1_000_000_000
"""S3: nothing new is claimed for an agent that has not been heard for so long."""
_CHECK_PERIOD_S = 0.1
_CHECKS_PER_REPORT = 2
_FAREWELL_S = 0.5
_OBSERVE_NS = 500_000_000
_MAJORITY_AGE_NS_MAX = 2_000_000_000
"""A majority that has not answered for so long is out of sight."""
_DISK_RETRY_FIRST_S = 0.1
_DISK_RETRY_LAST_S = 5.0
_WAITING_MAX = 4096
"""Answers that wait for the disk; more are dropped, as claimants ask again."""


async def run(settings: Settings) -> None:
    """Run the keeper until cancelled. Raises OperatorError where it cannot start."""
    if not settings.electors.members:
        raise OperatorError("electors.members: name the 1, 3, 5 or 7 agents that grant leases")
    if settings.lease.max_lease_ms * 1_000_000 < settings.lease_profile.lease_ns:
        raise OperatorError(f"lease.max_lease_ms: shorter than the lease of profile `{settings.lease.profile}`")
    async with AsyncExitStack() as stack:
        # S8: the lock first. Nothing may be read that another keeper still writes.
        promises = stack.enter_context(PromiseFile(Path(settings.run_dir)))
        scheduling = _become_punctual(settings)
        fence = PinnedFence(settings.datapath.bpf_dir)
        stack.callback(fence.close)
        keeper = Keeper(settings, promises, fence=fence, scheduling=scheduling)
        await keeper.enter(stack)
        await keeper.serve()


def _become_punctual(settings: Settings) -> str:
    if not lock_memory():
        _log.warning("memory is not locked (CAP_IPC_LOCK): a page fault may cost a lease")
    scheduling = raise_priority()
    if scheduling != "fifo":
        if settings.lease.profile is ProfileName.FASTEST:
            raise OperatorError("lease.profile: `fastest` needs real-time priority (CAP_SYS_NICE); choose `fast`")
        _log.warning("real-time priority was not granted (CAP_SYS_NICE), priority is %s", scheduling)
    return scheduling


class Keeper:
    """One node's keeper."""

    def __init__(self, settings: Settings, promises: PromiseFile, *, fence: Fence, scheduling: str) -> None:
        self._settings = settings
        self._scheduling = scheduling
        self._fence = fence
        self._arp = ArpSender()
        self._started_ns = process.boot_ns()
        self._is_leaving = False
        self._deadlines: dict[str, int] = {}
        """Of every fence that is open."""
        self._agent = AgentLink(Path(settings.run_dir), on_heartbeat=self._take_heartbeat)
        self._duty = AgentDuty(grace_ns=settings.lease.agent_grace_ms * 1_000_000, now_ns=self._started_ns)
        start_id = process.start_id()
        # An elector's address is the electorate's word; the bind address may be the wildcard.
        self._own_hosts = {member.host for member in settings.electorate.members if member.name == settings.node}
        own_host = next(iter(self._own_hosts), settings.bind_address)
        self._own = Source(Address(own_host, settings.ports.lease), settings.node, start_id)
        envelope = Envelope(
            settings.keys(), cluster=settings.cluster, node=settings.node, start_id=start_id, purpose="lease"
        )
        self._socket = SealedSocket(
            Address(settings.bind_address, settings.ports.lease),
            envelope,
            bind_receiver=True,
            on_datagram=self._take_datagram,
        )
        self._holder = Holder(
            node=settings.node,
            boot_id=process.boot_id(),
            start_id=start_id,
            electorate=settings.electorate,
            profile=settings.lease_profile,
            lease_port=settings.ports.lease,
            random=random.Random(start_id),
            now_ns=self._started_ns,
        )
        self._holder_pump = MachinePump(self._holder, clock=process.boot_ns, send=self._send, handle=self._handle_fence)
        # Whether a majority votes, also while there is nothing to renew: the next node is not restarted before.
        self._observer = Observer(
            electorate=settings.electorate,
            lease_port=settings.ports.lease,
            interval_ns=_OBSERVE_NS,
            now_ns=self._started_ns,
        )
        self._observer_pump = MachinePump(
            self._observer, clock=process.boot_ns, send=self._send, handle=self._note_majority
        )
        self._majority_ns: int | None = None
        self._vote = ElectorVote(settings, promises) if self._own_hosts else None
        self._vote_pump: MachinePump | None = None
        self._promise_log: PromiseLog | None = None
        if self._vote is not None:
            self._promise_log = PromiseLog(settings)
            self._vote.send = self._send
            self._vote.promised = self._promise_log.note
            self._vote_pump = MachinePump(self._vote, clock=process.boot_ns, send=self._send, handle=self._vote.execute)

    async def enter(self, stack: AsyncExitStack) -> None:
        stack.callback(self._arp.close)
        if self._promise_log is not None:
            await stack.enter_async_context(self._promise_log)
        self._adopt()
        await stack.enter_async_context(self._socket)
        await stack.enter_async_context(self._agent)
        stack.push_async_callback(self._farewell)

    async def serve(self) -> None:
        """Run until cancelled."""
        freeze_collector()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._holder_pump.run(), name="holder")
            group.create_task(self._observer_pump.run(), name="observer")
            if self._vote is not None and self._vote_pump is not None:
                group.create_task(self._vote_pump.run(), name="elector")
                group.create_task(self._vote.write_tokens(), name="tokens")
            if self._promise_log is not None:
                group.create_task(self._promise_log.run(), name="promises")
            group.create_task(self._watch_agent(), name="agent")

    def _adopt(self) -> None:
        """S8: what an earlier keeper of this boot opened and is not over goes on; everything else is closed first."""
        self._fence.refresh()
        now_ns = process.boot_ns()
        for address, entry in self._fence.entries().items():
            if entry.deadline_ns > now_ns:
                self._holder.adopt(str(address), entry.token, entry.deadline_ns, now_ns=now_ns)
                _log.info("adopting %s with token %s", address, ".".join(map(str, entry.token)))
            elif entry.deadline_ns:
                self._fence.write(address, entry.token, 0)

    async def _farewell(self) -> None:
        """A clean stop: hand over, or keep what is held for the next keeper of this node, as the settings say."""
        self._is_leaving = True
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                if self._settings.lease.on_stop == "keep":
                    await self._prolong()
                else:
                    await self._hand_over()

    async def _hand_over(self) -> None:
        """Fences first, then releases, so that successors need not wait for the leases to end."""
        self._holder.set_claims({}, now_ns=process.boot_ns())
        self._holder_pump.wake()
        self._report()
        await self._resend_until(lambda: self._holder.is_released)

    async def _prolong(self) -> None:
        """One lease long enough for a restart. What no majority confirms in time just ends, and moves."""
        self._holder.prolong(self._settings.lease.max_lease_ms * 1_000_000, now_ns=process.boot_ns())
        self._holder_pump.wake()
        await self._resend_until(lambda: self._holder.is_prolonged)
        for key, lease in sorted(self._holder.held().items()):
            left_s = (lease.deadline_ns - process.boot_ns()) / 1e9
            _log.info("leaving %s to the next keeper of this node for %.1f s", key, left_s)

    async def _resend_until(self, is_done: Callable[[], bool]) -> None:
        # The pump runs no more: its timers are ours now.
        while not is_done():
            await asyncio.sleep(0.005)
            self._holder.advance(now_ns=process.boot_ns())
            self._holder_pump.wake()

    # -- datagrams --

    def _take_datagram(self, source: Source, payload: bytes) -> None:
        """Answers go to whoever asked, questions to the elector; the pumps read the clock after this (T1)."""
        kind = kind_of(payload)
        if kind is MessageKind.ACK:
            self._holder_pump.on_datagram(source, payload)
        elif kind is MessageKind.REPORT:
            self._observer_pump.on_datagram(source, payload)
        elif self._vote_pump is not None:
            self._vote_pump.on_datagram(source, payload)
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

    def _note_majority(self, output: object) -> None:
        if isinstance(output, Observed):
            self._majority_ns = process.boot_ns()

    # -- the fence --

    def _handle_fence(self, output: object) -> None:
        if isinstance(output, OpenFence):
            self._deadlines[output.key] = output.deadline_ns
            address = IPv4Address(output.key)
            self._fence.write(address, output.token, output.deadline_ns)
            if output.first:
                self._announce(address)
                _log.info("holding %s with token %s", address, ".".join(map(str, output.token)))
                self._report()
        elif isinstance(output, CloseFence):
            self._fence.write(IPv4Address(output.key), output.token, 0)
            _log.info("no longer holding %s: %s", output.key, output.reason)
            self._report()
            self._deadlines.pop(output.key, None)

    def _announce(self, address: IPv4Address) -> None:
        """S4: the first gratuitous ARP, by the keeper itself, the fence being open; the agent repeats it."""
        uplink = self._duty.uplink(str(address))
        if uplink is None:
            return
        try:
            for frame in gratuitous_arp_frames(bytes.fromhex(uplink.mac), address):
                self._arp.send(uplink.ifindex, frame)
        except (TransientError, OperatorError) as error:
            _log.warning("gratuitous ARP for %s: %s", address, error)

    # -- the agent --

    def _take_heartbeat(self, heartbeat: Heartbeat) -> None:
        if self._is_leaving:
            # Its claims are being handed over; to claim them again would keep them from the successor.
            return
        self._duty.hear(heartbeat, now_ns=process.boot_ns())
        self._apply_duty()

    def _apply_duty(self) -> None:
        now_ns = process.boot_ns()
        has_fence = self._fence.refresh()
        held = {key: lease.token.stamp for key, lease in self._holder.held().items()}
        claims = self._duty.claims(held, now_ns=now_ns)
        self._holder.set_claiming(has_fence and self._duty.may_claim(now_ns=now_ns), now_ns=now_ns)
        if claims is not None:
            self._holder.set_claims(claims, now_ns=now_ns)
        self._holder_pump.wake()

    async def _watch_agent(self) -> None:
        """S3 and S6 when nothing is heard, and a report each period."""
        while True:
            for _ in range(_CHECKS_PER_REPORT):
                self._apply_duty()
                await asyncio.sleep(_CHECK_PERIOD_S)
            self._report()

    def _report(self) -> None:
        now_ns = process.boot_ns()
        # Several leases given up at once leave the machine together, and their fences close one after the other.
        open_before = self._deadlines.items()
        still_held = self._holder.held()
        released = tuple(key for key, deadline in open_before if key not in still_held and deadline > now_ns)
        held = tuple(
            HeldLease(key, *lease.token, lease.deadline_ns) for key, lease in sorted(self._holder.held().items())
        )
        self._agent.report(
            LeaseReport(
                held=held,
                elector=self._vote is not None,
                voting=self._vote is not None and self._vote.is_voting,
                majority=self._majority_ns is not None and now_ns - self._majority_ns < _MAJORITY_AGE_NS_MAX,
                scheduling=self._scheduling,
                at_ns=now_ns,
                released=released,
            )
        )


class AgentDuty:
    """What the agent's heartbeats allow and ask for (rules S3, S5, S6). Time is CLOCK_BOOTTIME, passed in.

    An agent that has just started does not know the assignments yet. So an address is handed over when this run of the
    agent has listed it and lists it no more, or has not listed it within the grace; never because it is not listed yet.
    """

    def __init__(self, *, grace_ns: int, now_ns: int) -> None:
        self._grace_ns = grace_ns
        self._heartbeat: Heartbeat | None = None
        self._heard_ns: int | None = None
        self._useful_ns = now_ns
        """When the agent was last of use: ready, or not yet late since this keeper started."""
        self._ready_since_ns: int | None = None
        self._listed: set[str] = set()
        self._uplinks: dict[str, list[Uplink]] = {}

    def hear(self, heartbeat: Heartbeat, *, now_ns: int) -> None:
        self._heartbeat, self._heard_ns = heartbeat, now_ns
        self._uplinks = {}
        for uplink in heartbeat.uplinks:
            self._uplinks.setdefault(uplink.floating_ip, []).append(uplink)
        if not heartbeat.ready:
            # A new run of the agent, or one whose datapath is gone: what it listed before says nothing now.
            self._ready_since_ns = None
            self._listed.clear()
            return
        self._useful_ns = now_ns
        if self._ready_since_ns is None:
            self._ready_since_ns = now_ns
        self._listed.update(claim.floating_ip for claim in heartbeat.claims)

    def uplink(self, floating_ip: str) -> Uplink | None:
        """Where the address is announced: an interface with carrier."""
        return next((uplink for uplink in self._uplinks.get(floating_ip, ()) if uplink.carrier), None)

    def may_claim(self, *, now_ns: int) -> bool:
        """S3: a heartbeat younger than a second, of an agent whose datapath works."""
        if self._heartbeat is None or self._heard_ns is None:
            return False
        return self._heartbeat.ready and now_ns - self._heard_ns < HEARTBEAT_AGE_NS_MAX

    def claims(self, held: dict[str, Stamp], *, now_ns: int) -> dict[str, DesiredClaim] | None:
        """What to hold and to stand for; None where nothing is known and nothing need be given up yet."""
        if now_ns - self._useful_ns >= self._grace_ns:
            # S6: an agent that has been stuck, absent or without datapath for so long serves nobody.
            return {}
        heartbeat = self._heartbeat
        if heartbeat is None:
            return None
        claims = {}
        for claim in heartbeat.claims:
            # S5: an address whose segment cannot be reached is of no use here.
            if self.uplink(claim.floating_ip) is not None:
                stamp = Stamp(claim.term, claim.version)
                claims[claim.floating_ip] = DesiredClaim("holder" if claim.role == "holder" else "successor", stamp)
        for key, stamp in held.items():
            if key not in claims and self._is_kept(key, now_ns=now_ns):
                claims[key] = DesiredClaim("holder", stamp)
        return claims

    def _is_kept(self, key: str, *, now_ns: int) -> bool:
        """Whether an address that is held, but not claimed by this heartbeat, is kept for now."""
        uplinks = self._uplinks.get(key)
        if uplinks is not None and not any(uplink.carrier for uplink in uplinks):
            return False
        if key in self._listed:
            return False
        return self._ready_since_ns is None or now_ns - self._ready_since_ns < self._grace_ns


class ElectorVote:
    """The elector as the pump drives it: a machine on two clocks (T3), and the hand that writes its records."""

    def __init__(self, settings: Settings, promises: PromiseFile) -> None:
        self._promises = promises
        self._tokens = TokenFile(Path(settings.state_dir))
        self._elector = ElectorMachine(
            boot_id=boot_id_bytes(process.boot_id()),
            electorate=settings.electorate,
            lease_ns_max=settings.lease.max_lease_ms * 1_000_000,
            promises=promises.read(),
            tokens=self._tokens.read(),
            now=Instant(process.boot_ns(), process.raw_ns()),
        )
        self._waiting: deque[Persist | SendPersisted] = deque()
        self._remember: bytes | None = None
        self._due = asyncio.Event()
        self.send = _nowhere
        self.promised: Callable[[Promised], None] = _unrecorded

    @property
    def is_voting(self) -> bool:
        return self._elector.is_voting

    def receive(self, source: Source, payload: bytes, *, now_ns: int) -> None:
        self._elector.receive(source, payload, now=Instant(now_ns, process.raw_ns()))

    def advance(self, *, now_ns: int) -> None:
        self._elector.advance(now=Instant(now_ns, process.raw_ns()))

    def deadline_ns(self) -> int | None:
        return self._elector.deadline_ns()

    def drain(self) -> list[ElectorOutput]:
        return self._elector.drain()

    def execute(self, output: object) -> None:
        """Promises go to shared memory at once (P2). What waits for the disk does not keep the rest waiting."""
        if isinstance(output, Persist) and not output.durable:
            self._promises.write(output.data)
        elif isinstance(output, SendPersisted) and not self._waiting:
            self.send(output.to, output.payload)
        elif isinstance(output, Persist | SendPersisted):
            if isinstance(output, Persist) or len(self._waiting) < _WAITING_MAX:
                self._waiting.append(output)
            if isinstance(output, Persist):
                # Records only grow, and each is whole: what was to be remembered before is in this one.
                self._remember = None
            self._due.set()
        elif isinstance(output, Remember):
            self._remember = output.data
            self._due.set()
        elif isinstance(output, Promised):
            self.promised(output)

    async def write_tokens(self) -> None:
        """Write what is due in a thread, answers behind what they wait for (K1), until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            while self._waiting or self._remember is not None:
                await self._write_next_in_the_end()

    async def _write_next_in_the_end(self) -> None:
        """A full or failing disk keeps this elector from acknowledging a new leader (K1), and from nothing else."""
        retry_s = _DISK_RETRY_FIRST_S
        while True:
            try:
                return await self._write_next()
            except OSError as error:
                _log.error("state_dir: tokens cannot be written: %s; trying again in %.1f s", error.strerror, retry_s)
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, _DISK_RETRY_LAST_S)

    async def _write_next(self) -> None:
        """Raises OSError where the disk fails; what was to be written still is then."""
        if not self._waiting:
            data = self._remember
            if data is not None:
                await asyncio.to_thread(self._tokens.write, data)
                # A newer record may have come meanwhile.
                self._remember = None if self._remember is data else self._remember
            return
        output = self._waiting[0]
        if isinstance(output, Persist):
            await asyncio.to_thread(self._tokens.write, output.data)
        else:
            self.send(output.to, output.payload)
        self._waiting.popleft()


def _unrecorded(promised: Promised) -> None:
    """Stands in until the keeper has an outbox."""


def _nowhere(to: Address, payload: bytes) -> None:
    """Stands in until the keeper has wired its socket."""
