"""The agent's end of its talk with the lease keeper of the same node: two unix datagram sockets in the run folder."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from service.model.errors import OperatorError
from service.model.keeper_message import AGENT_SOCKET, KEEPER_SOCKET, Heartbeat, KeeperMessage, LeaseReport

_log = logging.getLogger(__name__)

HEARTBEAT_PERIOD_S = 0.2
REPORT_AGE_NS_MAX = 1_000_000_000
"""A report older than this says nothing about now: the keeper is gone or stuck."""
_DATAGRAM_BYTES_MAX = 212_992


class KeeperLink:
    """Sends the newest heartbeat each period and at once on a change; hands over each lease report."""

    def __init__(self, run_dir: Path, *, clock: Callable[[], int], on_report: Callable[[LeaseReport], None]) -> None:
        self._path = run_dir / AGENT_SOCKET
        self._keeper = str(run_dir / KEEPER_SOCKET)
        self._clock = clock
        self._on_report = on_report
        self._heartbeat = Heartbeat(ready=False)
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(KeeperMessage)
        self._socket: socket.socket | None = None
        self._heard_ns: int | None = None

    async def __aenter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
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

    @property
    def is_keeper_alive(self) -> bool:
        """The keeper has reported within the last second."""
        return self._heard_ns is not None and self._clock() - self._heard_ns < REPORT_AGE_NS_MAX

    def say(self, heartbeat: Heartbeat) -> None:
        """Make this the heartbeat; sent now if it differs from the last."""
        if heartbeat != self._heartbeat:
            self._heartbeat = heartbeat
            self._send()

    async def run(self) -> None:
        """Repeat the heartbeat until cancelled."""
        while True:
            self._send()
            await asyncio.sleep(HEARTBEAT_PERIOD_S)

    def _send(self) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(self._encoder.encode(self._heartbeat), self._keeper)
        except OSError as error:
            # No keeper yet, or a full buffer: the next period sends again.
            _log.debug("keeper: %s", error)

    def _read(self) -> None:
        assert self._socket is not None
        for _ in range(64):
            try:
                data = self._socket.recv(_DATAGRAM_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError as error:
                _log.warning("keeper: %s", error)
                return
            try:
                message = self._decoder.decode(data)
            except msgspec.MsgspecError as error:
                _log.warning("keeper: malformed report: %s", error)
                continue
            if isinstance(message, LeaseReport):
                self._heard_ns = self._clock()
                self._on_report(message)
