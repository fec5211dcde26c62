"""The keeper's end of its talk with the agent of the same node: heartbeats in, lease reports out."""

import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from service.model.keeper_message import AGENT_SOCKET, KEEPER_SOCKET, Heartbeat, KeeperMessage, LeaseReport, Waiting
from service.wire.local_socket import LocalSocket


def say_waiting(run_dir: Path, trouble: str) -> None:
    """Tell the agent, where it is there, what keeps its keeper from beginning. Needs no socket that is bound."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as voice, suppress(OSError):
        voice.sendto(msgspec.json.encode(Waiting(trouble)), str(run_dir / AGENT_SOCKET))


class AgentLink:
    """Async context manager. The keeper's lock says that nobody else uses its socket."""

    def __init__(self, run_dir: Path, *, on_heartbeat: Callable[[Heartbeat], None]) -> None:
        self._on_heartbeat = on_heartbeat
        self._key_ids: Callable[[], tuple[str, ...]] = tuple
        self._socket = LocalSocket(run_dir / KEEPER_SOCKET, run_dir / AGENT_SOCKET, on_messages=self._take)

    async def __aenter__(self) -> Self:
        """Raises OperatorError where the socket cannot be bound."""
        await self._socket.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._socket.__aexit__(kind, error, trace)

    def tell_keys(self, key_ids: Callable[[], tuple[str, ...]]) -> None:
        """Say in every report from now on which keys are in force here."""
        self._key_ids = key_ids

    def report(self, report: LeaseReport) -> None:
        """Send one report; lost where the agent is absent."""
        self._socket.send(msgspec.structs.replace(report, keys=self._key_ids()))

    def _take(self, messages: list[KeeperMessage]) -> None:
        # Each heartbeat is the whole truth of its time: of several that wait, the newest counts.
        newest = next((message for message in reversed(messages) if isinstance(message, Heartbeat)), None)
        if newest is not None:
            self._on_heartbeat(newest)
