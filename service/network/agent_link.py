"""The keeper's end of its talk with the agent of the same node: heartbeats in, lease reports out.

An absent agent is no error: what it should know it is told again in the next period.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from service.model.errors import OperatorError
from service.model.keeper_message import AGENT_SOCKET, KEEPER_SOCKET, Heartbeat, KeeperMessage, LeaseReport

_log = logging.getLogger(__name__)

_DATAGRAM_BYTES_MAX = 212_992
_BATCH_MAX = 64


class AgentLink:
    """Async context manager over the keeper's unix datagram socket."""

    def __init__(self, run_dir: Path, *, on_heartbeat: Callable[[Heartbeat], None]) -> None:
        self._path = run_dir / KEEPER_SOCKET
        self._agent = str(run_dir / AGENT_SOCKET)
        self._on_heartbeat = on_heartbeat
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(KeeperMessage)
        self._socket: socket.socket | None = None

    async def __aenter__(self) -> Self:
        """Bind. Raises OperatorError naming the path. The keeper's lock says that nobody else uses it."""
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
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        opened, self._socket = self._socket, None
        if opened is not None:
            asyncio.get_running_loop().remove_reader(opened.fileno())
            opened.close()
            self._path.unlink(missing_ok=True)

    def report(self, report: LeaseReport) -> None:
        """Send one report; lost where the agent is absent or its buffer full."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.sendto(self._encoder.encode(report), self._agent)

    def _read(self) -> None:
        assert self._socket is not None
        # Each heartbeat is the whole truth of its time: of several that wait, the newest counts.
        newest: Heartbeat | None = None
        for _ in range(_BATCH_MAX):
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
