"""A unix datagram socket between two processes of one node that tell each other the whole truth again and again.

Either may be absent: what is lost is said anew in the next period, so sending never fails and never waits.
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
from service.model.keeper_message import KeeperMessage

_log = logging.getLogger(__name__)

_DATAGRAM_BYTES_MAX = 212_992
"""The kernel's default bound of a socket's buffer (net.core.wmem_default): nothing larger can be sent."""
_BATCH_MAX = 64
"""Datagrams read per wake-up; more come with the next, after timers had their turn."""


class LocalSocket:
    """Async context manager. `on_messages` gets what came in one go, oldest first, malformed datagrams left out."""

    def __init__(self, own: Path, other: Path, *, on_messages: Callable[[list[KeeperMessage]], None]) -> None:
        self._path = own
        self._other = str(other)
        """Looked up at each send: the other process may have made its socket anew meanwhile."""
        self._on_messages = on_messages
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(KeeperMessage)
        self._socket: socket.socket | None = None

    async def __aenter__(self) -> Self:
        """Bind, in place of a socket that a dead process left. Raises OperatorError naming the path."""
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
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

    def send(self, message: KeeperMessage) -> None:
        """Send one message; lost where the other end is absent or its buffer full."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.sendto(self._encoder.encode(message), self._other)

    def _read(self) -> None:
        assert self._socket is not None
        messages: list[KeeperMessage] = []
        for _ in range(_BATCH_MAX):
            try:
                data = self._socket.recv(_DATAGRAM_BYTES_MAX)
            except (BlockingIOError, InterruptedError):
                break
            try:
                messages.append(self._decoder.decode(data))
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                _log.warning("%s: malformed datagram: %s", self._path.name, error)
        if messages:
            self._on_messages(messages)
