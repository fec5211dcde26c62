"""The agent's end of its talk with the lease keeper of the same node: heartbeats out, lease reports in."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from service.model.keeper_message import (
    AGENT_SOCKET,
    KEEPER_SOCKET,
    ElectorateRecord,
    Heartbeat,
    KeeperMessage,
    LeaseReport,
    Waiting,
)
from service.wire.local_socket import LocalSocket

HEARTBEAT_PERIOD_S = 0.2
REPORT_AGE_NS_MAX = 3_000_000_000
"""Fifteen reports missed: the keeper is gone or stuck. Leases do not depend on it, only whether new ones come here;
a busy moment of the agent must not count as that."""
WAITING_AGE_NS_MAX = 10_000_000_000
"""How long a keeper's word counts that it waits for its disk: twice the longest pause between two attempts."""


class KeeperLink:
    """Sends the newest heartbeat each period and at once on a change; hands over every lease report, in order."""

    def __init__(self, run_dir: Path, *, clock: Callable[[], int], on_report: Callable[[LeaseReport], None]) -> None:
        self._clock = clock
        self._on_report = on_report
        self._heartbeat = Heartbeat(ready=False)
        self._heard_ns: int | None = None
        self._key_ids: tuple[str, ...] = ()
        self._waiting: tuple[str, int] | None = None
        """What the keeper waits for before it begins, and when it said so."""
        self._socket = LocalSocket(run_dir / AGENT_SOCKET, run_dir / KEEPER_SOCKET, on_messages=self._take)

    async def __aenter__(self) -> Self:
        """Raises OperatorError where the socket can never be bound."""
        await self._socket.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._socket.__aexit__(kind, error, trace)

    @property
    def is_keeper_alive(self) -> bool:
        """The keeper has reported lately."""
        return self._heard_ns is not None and self._clock() - self._heard_ns < REPORT_AGE_NS_MAX

    def key_ids(self) -> tuple[str, ...]:
        """Of the keys in force in the keeper, the first one seals; none where it does not say, or does not live."""
        return self._key_ids if self.is_keeper_alive else ()

    def troubles(self) -> list[str]:
        """Why the keeper cannot hear this agent though it is there, or what it waits for; for status."""
        found = [trouble] if (trouble := self._socket.trouble()) else []
        if self._waiting is not None and self._clock() - self._waiting[1] < WAITING_AGE_NS_MAX:
            found.append(f"the lease keeper waits for its disk, and holds and grants nothing: {self._waiting[0]}")
        return found

    def say(self, heartbeat: Heartbeat) -> None:
        """Make this the heartbeat; sent now if it differs from the last."""
        if heartbeat != self._heartbeat:
            self._heartbeat = heartbeat
            self._socket.send(heartbeat)

    def say_electorate(self, record: ElectorateRecord | None) -> None:
        """Put this electorate into the heartbeat, at once: a lease may wait for it."""
        self.say(msgspec.structs.replace(self._heartbeat, electorate=record))

    async def run(self) -> None:
        """Repeat the heartbeat until cancelled."""
        while True:
            self._socket.send(self._heartbeat)
            await asyncio.sleep(HEARTBEAT_PERIOD_S)

    def _take(self, messages: list[KeeperMessage]) -> None:
        for message in messages:
            if isinstance(message, Waiting):
                # One that has not begun is none for everybody else here: what is held ends with its leases.
                self._waiting, self._heard_ns = (message.trouble, self._clock()), None
            elif isinstance(message, LeaseReport):
                self._waiting, self._heard_ns = None, self._clock()
                self._key_ids = message.keys
                self._on_report(message)
