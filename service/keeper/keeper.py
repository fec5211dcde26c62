"""The lease keeper: elector and holder of one node, in a small process of its own (leases.md, Process).

It writes the deadline of each lease straight into the datapath's map and waits for nobody: not for the agent, not for a
disk, not for a compile. A stuck agent costs no address before its grace is over (S6); a stuck keeper costs it when the
deadline passes, because the kernel compares it on every packet.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from service.audit.promise_log import PromiseLog
from service.electorate.book import ElectorateBook
from service.host import clock, identity
from service.host.memory import lock_memory, settle_heap
from service.host.priority import raise_priority
from service.keeper.duty import AgentDuty
from service.keeper.electorate_file import ElectorateFile, StoredElectorate
from service.keeper.fence import Fence, PinnedFence
from service.keeper.promise_file import PromiseFile
from service.keeper.vote import ElectorVote
from service.lease.electorate import check_successor
from service.lease.holder import CloseFence, Holder, OpenFence
from service.lease.message import MessageKind, epoch_of, kind_of
from service.lease.observer import Observed, Observer
from service.lease.registrar import Registrar
from service.lease.tiebreaker import Swap, Tiebreaker
from service.model.errors import OperatorError, PeerError, TransientError
from service.model.keeper_message import ElectorateRecord, Heartbeat, HeldLease, LeaseReport
from service.model.lease import Electorate, ProfileName
from service.model.machine import Address, Source
from service.network.arp import ArpSender, gratuitous_arp_frames
from service.settings import Settings
from service.wire.agent_link import AgentLink
from service.wire.envelope import Envelope
from service.wire.pump import MachinePump
from service.wire.sealed_socket import SealedSocket

_log = logging.getLogger(__name__)

_CHECK_PERIOD_S = 0.1
_CHECKS_PER_REPORT = 2
_FAREWELL_S = 0.5
_PREPARATION_S = 1.0
"""Between the writing of a new electorate and going over to it: time for the others to write it, too."""
_OBSERVE_NS = 500_000_000
_MAJORITY_AGE_NS_MAX = 2_000_000_000
"""A majority that has not answered for so long is out of sight."""


async def run(settings: Settings) -> None:
    """Run the keeper until cancelled. Raises OperatorError where it cannot start."""
    if settings.electors != "auto" and not settings.electors.members:
        raise OperatorError("electors.members: name the 1, 3, 5 or 7 agents that grant leases, or write `auto`")
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
        self._started_ns = clock.boot_ns()
        self._is_leaving = False
        self._deadlines: dict[str, int] = {}
        """Of every fence that is open."""
        self._agent = AgentLink(Path(settings.run_dir), on_heartbeat=self._take_heartbeat)
        self._duty = AgentDuty(grace_ns=settings.lease.agent_grace_ms * 1_000_000, now_ns=self._started_ns)
        start_id = identity.start_id()
        stored = self._stored_electorate()
        self._book = ElectorateBook(stored.electorate, adopted=lambda electorate: self._vote.store(electorate))
        self._start_id = start_id
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
            boot_id=identity.boot_id(),
            start_id=start_id,
            electorate=stored.electorate,
            profile=settings.lease_profile,
            lease_port=settings.ports.lease,
            random=random.Random(start_id),
            now_ns=self._started_ns,
        )
        self._holder_pump = MachinePump(self._holder, clock=clock.boot_ns, send=self._send, handle=self._handle_fence)
        # Whether a majority votes, also while there is nothing to renew: the next node is not restarted before.
        self._observer = Observer(
            electorate=stored.electorate,
            lease_port=settings.ports.lease,
            interval_ns=_OBSERVE_NS,
            now_ns=self._started_ns,
        )
        self._observer_pump = MachinePump(
            self._observer, clock=clock.boot_ns, send=self._send, handle=self._note_majority
        )
        self._majority_ns: int | None = None
        self._vote = ElectorVote(settings, promises, stored)
        self._promise_log = PromiseLog(settings, lambda: self._book.known)
        self._vote.send = self._send
        self._vote.promised = self._promise_log.note
        self._vote_pump = MachinePump(self._vote, clock=clock.boot_ns, send=self._send, handle=self._vote.execute)
        self._vote.stored = self._prepare_epoch
        self._going_over: asyncio.TimerHandle | None = None
        self._registrar = Registrar(lease_port=settings.ports.lease, now_ns=self._started_ns)
        self._registrar_pump = MachinePump(
            self._registrar, clock=clock.boot_ns, send=self._send, handle=self._take_newer
        )
        self._tiebreaker = Tiebreaker(
            node=settings.node,
            lease_port=settings.ports.lease,
            profile=settings.lease_profile,
            now_ns=self._started_ns,
        )
        self._tiebreaker_pump = MachinePump(
            self._tiebreaker, clock=clock.boot_ns, send=self._send, handle=self._ask_to_go_on_alone
        )

    async def enter(self, stack: AsyncExitStack) -> None:
        stack.callback(self._arp.close)
        await stack.enter_async_context(self._promise_log)
        self._adopt()
        await stack.enter_async_context(self._socket)
        await stack.enter_async_context(self._agent)
        stack.push_async_callback(self._farewell)

    async def serve(self) -> None:
        """Run until cancelled."""
        settle_heap()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._holder_pump.run(), name="holder")
            group.create_task(self._observer_pump.run(), name="observer")
            group.create_task(self._vote_pump.run(), name="elector")
            group.create_task(self._vote.write_tokens(), name="tokens")
            group.create_task(self._promise_log.run(), name="promises")
            if self._settings.electors == "auto":
                group.create_task(self._tiebreaker_pump.run(), name="tiebreaker")
            else:
                group.create_task(self._propose_configured(), name="electorate")
            group.create_task(self._watch_agent(), name="agent")

    def _adopt(self) -> None:
        """S8: what an earlier keeper of this boot opened and is not over goes on; everything else is closed first."""
        self._fence.refresh()
        now_ns = clock.boot_ns()
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
        self._holder.set_claims({}, now_ns=clock.boot_ns())
        self._holder_pump.wake()
        self._report()
        await self._resend_until(lambda: self._holder.is_released)

    async def _prolong(self) -> None:
        """One lease long enough for a restart. What no majority confirms in time just ends, and moves."""
        self._holder.prolong(self._settings.lease.max_lease_ms * 1_000_000, now_ns=clock.boot_ns())
        self._holder_pump.wake()
        await self._resend_until(lambda: self._holder.is_prolonged)
        for key, lease in sorted(self._holder.held().items()):
            left_s = (lease.deadline_ns - clock.boot_ns()) / 1e9
            _log.info("leaving %s to the next keeper of this node for %.1f s", key, left_s)

    async def _resend_until(self, is_done: Callable[[], bool]) -> None:
        # The pump runs no more: its timers are ours now.
        while not is_done():
            await asyncio.sleep(0.005)
            self._holder.advance(now_ns=clock.boot_ns())
            self._holder_pump.wake()

    # -- datagrams --

    def _take_datagram(self, source: Source, payload: bytes) -> None:
        """Answers go to whoever asked, questions to the elector; the pumps read the clock after this (T1)."""
        kind = kind_of(payload)
        if self._holder.epoch < epoch_of(payload) == self._book.known.epoch:
            self._enter_epoch()
        if kind is MessageKind.ACK:
            self._holder_pump.on_datagram(source, payload)
        elif kind is MessageKind.REPORT:
            self._observer_pump.on_datagram(source, payload)
        elif kind is MessageKind.ELECTORATE:
            self._book.receive(source, payload, send=self._send)
        elif kind is MessageKind.STANDING and self._settings.electors == "auto":
            self._tiebreaker_pump.on_datagram(source, payload)
        elif kind is MessageKind.STANDING:
            self._registrar_pump.on_datagram(source, payload)
        else:
            self._vote_pump.on_datagram(source, payload)

    def _send(self, to: Address, payload: bytes) -> None:
        if to == self._own_address:
            # Its own vote: by the loop and not by the network, but not from within the machine that asks.
            asyncio.get_running_loop().call_soon(self._take_own, payload)
        else:
            self._socket.send(to, payload)

    def _take_own(self, payload: bytes) -> None:
        with suppress(PeerError):
            self._take_datagram(Source(self._own_address, self._settings.node, self._start_id), payload)

    @property
    def _own_address(self) -> Address:
        # An elector's address is the electorate's word; the bind address may be the wildcard.
        own = next((one for one in self._book.known.contacts if one.name == self._settings.node), None)
        return Address(own.host if own else self._settings.bind_address, self._settings.ports.lease)

    # -- the electorate --

    def _stored_electorate(self) -> StoredElectorate:
        """What this node went by before; where it never knew one, the configured."""
        file = ElectorateFile(Path(self._settings.state_dir))
        stored = file.open(memory=identity.start_id() >> 1)
        if stored.electorate.epoch == 0 and self._settings.electorate.epoch:
            stored = stored._replace(electorate=self._settings.electorate)
            file.write(stored)
        return stored

    def _prepare_epoch(self) -> None:
        """The newer electorate is on disk here. Others may still be writing: whoever goes over alone is not answered.

        So every keeper waits a moment, or until the first one that has gone over is heard; then all go at once. Where
        one elector decides alone, the leases of both nodes wait for it: nobody is to be waited for.
        """
        if self._going_over is not None:
            self._going_over.cancel()
        has_company = self._holder.epoch > 0 and len(self._book.known.members) > 1
        delay_s = _PREPARATION_S if has_company else 0.0
        self._going_over = asyncio.get_running_loop().call_later(delay_s, self._enter_epoch)

    def _enter_epoch(self) -> None:
        """Go over to the electorate that is known; the elector only if it is on disk (M1)."""
        now_ns = clock.boot_ns()
        self._holder.set_electorate(self._book.known, now_ns=now_ns)
        self._observer.set_electorate(self._book.known, now_ns=now_ns)
        self._vote.enter_epoch()
        for pump in (self._vote_pump, self._holder_pump, self._observer_pump):
            pump.wake()
        self._listen_to_other()

    def _listen_to_other(self) -> None:
        """Two nodes: tell the tiebreaker where this one stands, and whoever asks whether the other is heard."""
        if self._settings.electors != "auto":
            return
        now_ns, elector = clock.boot_ns(), self._vote.machine
        is_sure = elector.is_elector and elector.is_settled and self._vote.is_voting
        self._tiebreaker.set_standing(
            elector.electorate,
            # Where a newer one is known already, that one is gone over to.
            ready=is_sure and elector.epoch == self._book.known.epoch,
            fit=self._duty.may_claim(now_ns=now_ns),
            now_ns=now_ns,
        )
        elector.misses_other = self._tiebreaker.is_missing_other
        self._tiebreaker_pump.wake()

    def _ask_to_go_on_alone(self, output: object) -> None:
        """The agent has the API server, and tries as long as reports ask for it."""
        if isinstance(output, Swap):
            _log.warning("the other of two electors is lost: asking for epoch %d", output.following.epoch)
            self._report()

    def _take_newer(self, output: object) -> None:
        if isinstance(output, Electorate):
            self._book.offer(output, origin="another keeper")

    async def _propose_configured(self) -> None:
        """Go over to the electorate that an operator has configured, once the present one is in force (M2)."""
        configured, known = self._settings.electorate, self._book.known
        try:
            check_successor(known, configured)
        except OperatorError as error:
            self._book.refuse(str(error))
            return
        if configured.epoch == known.epoch:
            return
        self._registrar.set_electorate(known, in_force=False, now_ns=clock.boot_ns())
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(self._registrar_pump.run(), name="registrar")
            while not self._registrar.is_in_force and self._book.known == known:  # noqa: ASYNC110 - a machine's state
                await asyncio.sleep(_CHECK_PERIOD_S)
            asking.cancel()
        if self._book.known == known:
            self._book.offer(replace(configured, previous=known.members), origin="the configuration")

    def _trouble(self) -> str:
        known = self._book.known
        elector = self._vote.machine
        is_named = known.member(self._settings.node) is not None
        if is_named and not elector.is_elector and elector.epoch == known.epoch:
            return "this node is named as an elector, but has not the disk that was meant: it is a newcomer"
        return self._book.trouble

    def _note_majority(self, output: object) -> None:
        if isinstance(output, Observed):
            self._majority_ns = clock.boot_ns()

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
        if heartbeat.electorate is not None:
            self._book.offer(heartbeat.electorate.electorate, origin="the electorate object")
        self._duty.hear(heartbeat, now_ns=clock.boot_ns())
        self._apply_duty()

    def _apply_duty(self) -> None:
        now_ns = clock.boot_ns()
        has_fence = self._fence.refresh()
        held = {key: lease.token.stamp for key, lease in self._holder.held().items()}
        claims = self._duty.claims(held, now_ns=now_ns)
        self._holder.set_claiming(has_fence and self._duty.may_claim(now_ns=now_ns), now_ns=now_ns)
        if claims is not None:
            self._holder.set_claims(claims, now_ns=now_ns)
        self._holder_pump.wake()
        self._listen_to_other()

    async def _watch_agent(self) -> None:
        """S3 and S6 when nothing is heard, and a report each period."""
        while True:
            for _ in range(_CHECKS_PER_REPORT):
                self._apply_duty()
                await asyncio.sleep(_CHECK_PERIOD_S)
            self._report()

    def _report(self) -> None:
        now_ns = clock.boot_ns()
        # Several leases given up at once leave the machine together, and their fences close one after the other.
        open_before = self._deadlines.items()
        still_held = self._holder.held()
        released = tuple(key for key, deadline in open_before if key not in still_held and deadline > now_ns)
        held = tuple(
            HeldLease(key, *lease.token, lease.deadline_ns) for key, lease in sorted(self._holder.held().items())
        )
        swap = self._tiebreaker.swap
        is_asked = swap is not None and swap.before.epoch == self._book.known.epoch and not self._is_leaving
        self._agent.report(
            LeaseReport(
                held=held,
                elector=self._vote.machine.is_elector,
                voting=self._vote.machine.is_elector and self._vote.is_voting,
                electorate=ElectorateRecord.of(self._book.known),
                settled=self._vote.machine.is_settled,
                trouble=self._trouble(),
                wanted=ElectorateRecord.of(swap.following) if swap is not None and is_asked else None,
                majority=self._majority_ns is not None and now_ns - self._majority_ns < _MAJORITY_AGE_NS_MAX,
                scheduling=self._scheduling,
                at_ns=now_ns,
                released=released,
            )
        )
