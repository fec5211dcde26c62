"""An elector and nothing else: the third vote of two gateway nodes (docs/leases.md, Two nodes).

It promises what keepers ask for as every elector does (P1 to P4) and holds nothing itself: no datapath, no gossip, no
objects, no rights. So it may run anywhere that both nodes reach, and a cluster may have it as long as it has two nodes.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from service.electorate.book import ElectorateBook
from service.host import clock, identity
from service.host.memory import freeze_heap
from service.host.supervisor import Run, Supervisor
from service.keeper.beginning import begin, until_begun
from service.keeper.dispatch import Dispatch, Lines
from service.keeper.electorate_file import ElectorateFile
from service.keeper.lease_socket import lease_socket
from service.keeper.promise_file import PromiseFile
from service.keeper.proposal import ConfiguredElectorate
from service.keeper.punctuality import become_punctual
from service.keeper.transition import Transition, trouble
from service.keeper.vote import ElectorVote
from service.lease.message import MessageKind
from service.model.errors import OperatorError, PeerError
from service.model.lease import Electorate
from service.model.machine import Source
from service.settings import Settings
from service.version import VERSION
from service.web.server import WebServer

_RETRY_S = 0.01
"""As in a keeper."""
_CLOCK_S = 1.0


async def run(settings: Settings) -> None:
    """Vote until cancelled. Raises OperatorError where it cannot start; for a disk, or an address, it waits."""
    _check(settings)
    run_dir = Path(settings.run_dir)
    async with AsyncExitStack() as stack:
        # S8: the lock first, as a keeper does. A node's keeper and a witness of its name cannot both run.
        promises = await begin(lambda: stack.enter_context(PromiseFile(run_dir)), run_dir=run_dir)
        become_punctual(settings.lease.profile)
        witness = await begin(lambda: Witness(settings, promises), run_dir=run_dir)
        await witness.enter(stack)
        await witness.serve()


def _check(settings: Settings) -> None:
    if settings.electors == "auto":
        raise OperatorError(
            "electors: a witness is one of `electors.members`, which every member has to name; `auto` chooses agents"
        )
    names = [member.name for member in settings.electors.members]
    if settings.node not in names:
        raise OperatorError(
            f"electors.members: {settings.node}, which is to be a witness, is not in {', '.join(names)}"
        )


class Witness:
    """Make it under the lock of `promises`, `enter` it, then `serve`."""

    def __init__(
        self,
        settings: Settings,
        promises: PromiseFile,
        *,
        boot_clock: Callable[[], int] = clock.boot_ns,
        raw_clock: Callable[[], int] = clock.raw_ns,
    ) -> None:
        """Read what is on disk, or begin it; nothing runs and nothing is sent yet.

        Raises TransientError where the disk does not let it now, OperatorError where it never will.
        """
        self._settings = settings
        self._boot_clock = boot_clock
        self._tasks = Supervisor(clock=boot_clock, retry_first_s=_RETRY_S, retry_last_s=_RETRY_S)
        start_id, port = identity.start_id(), settings.ports.lease
        file = ElectorateFile(Path(settings.state_dir))
        stored = file.open_or_configure(settings.electorate, memory=identity.start_id() >> 1)
        self._dispatch = Dispatch(settings, start_id=start_id, known=self._known)
        send = self._dispatch.send
        self._vote = ElectorVote(
            settings, promises, stored, send=send, promised=_ignore, boot_clock=boot_clock, raw_clock=raw_clock
        )
        self._book = ElectorateBook(stored.electorate, adopted=self._vote.store, is_configured=True)
        self._proposal = ConfiguredElectorate(
            settings.electorate, self._book, lease_port=port, send=send, clock=boot_clock
        )
        self._transition = Transition(self._book, followers=(self._vote,), entered=lambda: None, clock=boot_clock)
        self._socket = lease_socket(settings, start_id=start_id, on_datagram=self._dispatch.take, clock=boot_clock)
        self._web = WebServer(settings.http.address, settings.ports.http, self, CollectorRegistry())

    async def enter(self, stack: AsyncExitStack) -> None:
        """Open what others ask by."""
        self._dispatch.connect(
            Lines(
                transmit=self._socket.send,
                hear_epoch=self._transition.hear_epoch,
                routes={
                    # It asks for nothing, so nobody answers it.
                    MessageKind.ACK: _refuse,
                    MessageKind.REPORT: _refuse,
                    MessageKind.ELECTORATE: partial(self._book.receive, send=self._dispatch.send),
                    MessageKind.STANDING: self._proposal.pump.on_datagram,
                },
                questions=self._vote.pump.on_datagram,
            )
        )
        run_dir = Path(self._settings.run_dir)
        await until_begun(lambda: stack.enter_async_context(self._socket), run_dir=run_dir)
        await until_begun(lambda: stack.enter_async_context(self._web), run_dir=run_dir)

    async def serve(self) -> None:
        """Run every task until cancelled; one that fails is tried again (`host.supervisor`)."""
        freeze_heap()
        tasks: dict[str, Run] = {
            "elector": self._vote.pump.run,
            "records": partial(self._vote.write_records, stored=self._transition.prepare),
            "longest lease": self._vote.forget_longer_leases,
            "electorate": self._proposal.propose,
            "clock": self._pass,
        }
        await self._tasks.run(tasks)

    async def _pass(self) -> None:
        """While nobody asks it anything it would not know that its silence is over."""
        while True:
            self._vote.advance(now_ns=self._boot_clock())
            self._vote.pump.wake()
            await asyncio.sleep(_CLOCK_S)

    # -- what is shown --

    def status(self) -> dict[str, Any]:
        """For `egressgw status`."""
        elector = self._vote.machine
        return {
            "node": self._settings.node,
            "version": VERSION,
            "role": "witness",
            "electorate": {
                "epoch": self._book.known.epoch,
                "members": [one.name for one in self._book.known.members],
                "votes": self._vote.is_voting,
                "trouble": trouble(self._settings.node, self._book, elector),
            },
            "keys": list(self._socket.key_ids),
            "troubles": self._troubles(),
        }

    def not_ready_reasons(self) -> list[str]:
        """It is ready once it votes: after a reboot it is silent for the longest lease (P2)."""
        return [] if self._vote.is_voting else ["this elector does not vote: what it may have promised is not over yet"]

    def record_folders(self) -> list[Path]:
        """It writes no records: what it promises, those record who got it."""
        return []

    def _troubles(self) -> list[str]:
        refused = self._socket.refusals.trouble()
        return [
            *self.not_ready_reasons(),
            *self._vote.troubles(),
            *self._tasks.troubles(),
            *([refused] if refused else []),
        ]

    def _known(self) -> Electorate:
        return self._book.known


def _ignore(promised: object) -> None:
    pass


def _refuse(source: Source, payload: bytes) -> None:
    raise PeerError("not for a witness")
