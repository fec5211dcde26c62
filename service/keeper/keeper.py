"""The lease keeper: elector and holder of one node, in a small process of its own (docs/leases.md, "The keeper").

It writes the deadline of each lease straight into the datapath's map and waits for nobody: not for the agent, not for a
disk, not for a compile. A stuck agent costs no address before its grace is over (S6); a stuck keeper costs it when the
deadline passes, because the kernel compares it on every packet.

This module only wires; what is decided stands in the modules beside it.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from service.audit.promise_log import PromiseLog
from service.electorate.book import ElectorateBook
from service.host import clock, identity
from service.host.loop_lag import LoopLag
from service.host.memory import freeze_heap
from service.host.supervisor import Run, Supervisor
from service.keeper.agent_watch import AgentWatch
from service.keeper.beginning import begin, until_begun
from service.keeper.claims import HolderClaims, new_holder
from service.keeper.dispatch import Dispatch, Lines
from service.keeper.duty import AgentDuty
from service.keeper.electorate_file import ElectorateFile
from service.keeper.ending import Endings
from service.keeper.farewell import Farewell
from service.keeper.fence import Fence, PinnedFence
from service.keeper.fenced_leases import FencedLeases, FirstAnnouncement
from service.keeper.handover import Handovers
from service.keeper.lease_socket import lease_socket
from service.keeper.majority import MajorityWatch
from service.keeper.other_elector import OtherElector
from service.keeper.promise_file import PromiseFile
from service.keeper.proposal import ConfiguredElectorate
from service.keeper.punctuality import become_punctual
from service.keeper.report import KeeperState, compose
from service.keeper.transition import Transition, trouble
from service.keeper.vote import ElectorVote
from service.keeper.written_electorate import WrittenElectorate
from service.lease.electorate import size_hint
from service.lease.message import MessageKind
from service.model.errors import OperatorError
from service.model.lease import Electorate
from service.model.machine import Address
from service.network.arp import ArpSender
from service.settings import Settings
from service.wire.agent_link import AgentLink

_log = logging.getLogger(__name__)
_RETRY_S = 0.01
"""Between two attempts of a task that fails. Its timers stand meanwhile: a longer pause would cost a short lease."""


async def run(settings: Settings) -> None:
    """Run the keeper until cancelled.

    Raises OperatorError where it cannot start; for a disk, or the node's own address, it waits instead.
    """
    if settings.electors != "auto" and not settings.electors.members:
        raise OperatorError("electors.members: name the 1, 3, 5 or 7 agents that grant leases, or write `auto`")
    if settings.lease.max_lease_ms * 1_000_000 < settings.lease_profile.lease_ns:
        raise OperatorError(f"lease.max_lease_ms: shorter than the lease of profile `{settings.lease.profile}`")
    if hint := size_hint(settings.electorate):
        _log.warning("electors.members: %s", hint)
    run_dir = Path(settings.run_dir)
    async with AsyncExitStack() as stack:
        # S8: the lock first. Nothing may be read that another keeper still writes.
        promises = await begin(lambda: stack.enter_context(PromiseFile(run_dir)), run_dir=run_dir)
        scheduling = become_punctual(settings.lease.profile)
        fence = PinnedFence(settings.datapath.bpf_dir)
        stack.callback(fence.close)
        keeper = await begin(lambda: Keeper(settings, promises, fence=fence, scheduling=scheduling), run_dir=run_dir)
        await keeper.enter(stack)
        await keeper.serve()


class Keeper:
    """One node's keeper: make it under the lock of `promises`, `enter` it, then `serve`."""

    def __init__(
        self,
        settings: Settings,
        promises: PromiseFile,
        *,
        fence: Fence,
        scheduling: str,
        boot_clock: Callable[[], int] = clock.boot_ns,
        raw_clock: Callable[[], int] = clock.raw_ns,
    ) -> None:
        """Read what is on disk, or begin it; nothing runs and nothing is sent yet.

        Raises TransientError where the disk does not let it now, OperatorError where it never will.
        """
        self._settings, self._scheduling, self._boot_clock = settings, scheduling, boot_clock
        self._tasks = Supervisor(clock=boot_clock, retry_first_s=_RETRY_S, retry_last_s=_RETRY_S)
        self._lag = LoopLag()
        start_id, port = identity.start_id(), settings.ports.lease
        file = ElectorateFile(Path(settings.state_dir))
        stored = file.open_or_configure(settings.electorate, memory=identity.start_id() >> 1)
        # The electorate that is known, and the elector, whose hand writes it down.
        self._promise_log = PromiseLog(settings, self._known)
        self._dispatch = Dispatch(settings, start_id=start_id, known=self._known)
        send, promised = self._dispatch.send, self._promise_log.note
        self._vote = ElectorVote(
            settings, promises, stored, send=send, promised=promised, boot_clock=boot_clock, raw_clock=raw_clock
        )
        self._book = ElectorateBook(stored.electorate, adopted=self._vote.store, is_configured=not self._is_auto)
        self._make_claims(fence, stored.electorate, start_id=start_id, send=send)
        # Who else decides, and how the electorate changes.
        self._majority = MajorityWatch(stored.electorate, lease_port=port, send=send, clock=boot_clock)
        self._other = OtherElector(
            settings, self._vote, self._duty, known=self._known, ask=self._try_to_report, send=send, clock=boot_clock
        )
        self._proposal = ConfiguredElectorate(
            settings.electorate, self._book, lease_port=port, send=send, clock=boot_clock
        )
        self._transition = Transition(
            self._book, followers=(self._vote, self._claims, self._majority), entered=self._attend, clock=boot_clock
        )
        # The agent, and the end.
        self._farewell = Farewell(self._claims, settings.lease, report=self._try_to_report, clock=boot_clock)
        written = WrittenElectorate(self._book, self._vote, self._majority, lease_port=port, send=send)
        self._watch = AgentWatch(written, self._claims, self._farewell, attend=self._attend, report=self._report)
        self._agent = AgentLink(Path(settings.run_dir), on_heartbeat=self._watch.take)
        self._socket = lease_socket(
            settings, start_id=start_id, on_datagram=self._dispatch.take, clock=self._boot_clock
        )

    def _make_claims(
        self, fence: Fence, electorate: Electorate, *, start_id: int, send: Callable[[Address, bytes], None]
    ) -> None:
        """The holder, between what its agent asks for and the fence."""
        settings, now_ns = self._settings, self._boot_clock()
        self._arp = ArpSender()
        self._duty = AgentDuty(grace_ns=settings.lease.agent_grace_ms * 1_000_000, now_ns=now_ns)
        uplink, send_frame = self._duty.uplink, self._arp.send
        handovers = Handovers(settings.datapath.bpf_dir, uplink=uplink, send_frame=send_frame, clock=self._boot_clock)
        announcement = FirstAnnouncement(
            uplink=uplink, send_frame=send_frame, is_awaited=handovers.is_awaited, later=self._later
        )
        self._fenced = FencedLeases(
            fence,
            # Neither may keep the holder from what it wants next: the fence of another key, or a release.
            opened=lambda *lease: self._tasks.attempt("announce", partial(announcement.announce, *lease)),
            changed=self._try_to_report,
            refused=lambda key, reason: self._claims.refuse(key, reason),
        )
        self._endings = Endings(
            fence,
            self._fenced.handle,
            deadline_of=self._fenced.deadline_of,
            ended=self._promise_log.note_end,
            clock=self._boot_clock,
        )
        holder = new_holder(settings, electorate, start_id=start_id, now_ns=now_ns)
        self._claims = HolderClaims(
            holder,
            duty=self._duty,
            fence=fence,
            send=send,
            handle=self._endings.handle,
            clock=self._boot_clock,
            tell=handovers.tell,
        )

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(delay_s, partial(self._tasks.attempt, "announce", call))

    async def enter(self, stack: AsyncExitStack) -> None:
        """Go on with what is held, then open what others send to. Left in reverse: farewell first, sockets after."""
        self._lag.start()
        stack.callback(self._lag.stop)
        stack.callback(self._arp.close)
        await stack.enter_async_context(self._promise_log)
        self._endings.adopt()
        self._claims.adopt()
        self._connect()
        await until_begun(lambda: stack.enter_async_context(self._socket), run_dir=Path(self._settings.run_dir))
        await stack.enter_async_context(self._agent)
        stack.push_async_callback(self._farewell.say)

    async def serve(self) -> None:
        """Run every task until cancelled; one that fails is tried again (`host.supervisor`)."""
        freeze_heap()
        tasks: dict[str, Run] = {
            "holder": self._claims.pump.run,
            "observer": self._majority.pump.run,
            "elector": self._vote.pump.run,
            "records": partial(self._vote.write_records, stored=self._transition.prepare),
            "longest lease": self._vote.forget_longer_leases,
            "promises": self._promise_log.run,
            "agent": self._watch.run,
            "report": self._watch.report,
        }
        if self._is_auto:
            tasks["tiebreaker"] = self._other.pump.run
        else:
            tasks["electorate"] = self._proposal.propose
        await self._tasks.run(tasks)

    def _connect(self) -> None:
        """Close the one circle: every machine sends by the dispatch, and hears by it."""
        standings = self._other.pump if self._is_auto else self._proposal.pump
        lines = Lines(
            transmit=self._socket.send,
            hear_epoch=self._transition.hear_epoch,
            routes={
                MessageKind.ACK: self._claims.pump.on_datagram,
                MessageKind.REPORT: self._majority.pump.on_datagram,
                MessageKind.ELECTORATE: partial(self._book.receive, send=self._dispatch.send),
                MessageKind.STANDING: standings.on_datagram,
            },
            questions=self._vote.pump.on_datagram,
        )
        self._dispatch.connect(lines)
        self._agent.tell_keys(lambda: self._socket.key_ids)

    @property
    def _is_auto(self) -> bool:
        return self._settings.electors == "auto"

    def _known(self) -> Electorate:
        return self._book.known

    def _attend(self) -> None:
        # A configured electorate is its operator's: nobody goes on alone.
        if self._is_auto:
            self._other.attend()

    def _try_to_report(self) -> None:
        self._tasks.attempt("report", self._report)

    def _report(self) -> None:
        now_ns, elector, held = self._boot_clock(), self._vote.machine, self._claims.held()
        state = KeeperState(
            now_ns=now_ns,
            held=held,
            released=self._fenced.released(held, now_ns=now_ns),
            is_leaving=self._farewell.is_leaving,
            known=self._book.known,
            is_elector=elector.is_elector,
            is_voting=self._vote.is_voting,
            is_settled=elector.is_settled,
            swap=self._other.wanted,
            trouble=trouble(self._settings.node, self._book, elector),
            sees_majority=self._majority.is_seen(now_ns=now_ns),
            silent=self._majority.silent(now_ns=now_ns),
            scheduling=self._scheduling,
            troubles=self._troubles(),
            errors=self._tasks.errors(),
            refused=self._socket.refusals.by_reason,
            lags=self._lag.lags,
        )
        self._agent.report(compose(state))

    def _troubles(self) -> list[str]:
        refused = self._socket.refusals.trouble()
        return [
            *self._claims.troubles(),
            *self._vote.troubles(),
            *self._tasks.troubles(),
            *([refused] if refused else []),
        ]
