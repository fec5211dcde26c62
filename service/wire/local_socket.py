"""A unix datagram socket between two processes of one node that tell each other the whole truth again and again.

Either may be absent: what is lost is said anew in the next period, so sending never fails and never waits. What is too
long for a datagram goes in pieces (`pieces`); what cannot be said at all is told in the log and in status.
"""

import asyncio
import errno
import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from service.host.disk import RETRY_FIRST_S, RETRY_LAST_S, disk_fault
from service.model.errors import OperatorError, PeerError, TransientError
from service.model.keeper_message import KeeperMessage
from service.wire.pieces import Joiner, Splitter

_log = logging.getLogger(__name__)

_DATAGRAM_BYTES_MAX = 212_992
"""The kernel's default bound of a socket's buffer (net.core.wmem_default): nothing larger can be sent."""
_BUFFER_BYTES = 2 << 20
"""Of what the other end has not read yet: some messages in pieces."""
_ABSENT = (errno.ENOENT, errno.ECONNREFUSED)
"""The other process is not there: it makes its socket when it comes, and removes it when it goes."""
LOG_EVERY_NS = 60_000_000_000
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
        self._unbound = ""
        """Why there is no socket though there should be one; it is tried again when something is to be sent."""
        self._retry_s, self._retry_ns = RETRY_FIRST_S, 0
        self._splitter, self._joiner = Splitter(), Joiner()
        self._said: tuple[KeeperMessage, list[bytes]] | None = None
        """The last message and its datagrams: most are said again and again."""
        self._heard: tuple[bytes, KeeperMessage] | None = None
        """The last message that was read, and what it means: the same bytes need not be decoded again."""
        self._unsaid = ""
        """Why the last message was not sent; empty where it was, or where nobody is there to hear it."""
        self._logged_ns: int | None = None

    async def __aenter__(self) -> Self:
        """Bind, in place of a socket that a dead process left; later, where the disk does not let it now.

        Raises OperatorError naming the path where it can never be bound.
        """
        self._try_to_bind()
        return self

    def _try_to_bind(self) -> None:
        try:
            self._bind()
        except (OperatorError, TransientError) as error:
            if isinstance(error, OperatorError) and not self._unbound:
                raise
            if str(error) != self._unbound:
                _log.error("%s; it is tried again until the disk lets it", error)
            self._unbound = str(error)
            self._retry_ns = time.monotonic_ns() + round(self._retry_s * 1e9)
            self._retry_s = min(2 * self._retry_s, RETRY_LAST_S)
        else:
            self._unbound, self._retry_s = "", RETRY_FIRST_S

    def _bind(self) -> None:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
            opened.bind(str(self._path))
            os.chmod(self._path, 0o600)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        except OSError as error:
            opened.close()
            raise disk_fault("run_dir", "bind", self._path, error) from error
        self._socket = opened
        asyncio.get_running_loop().add_reader(opened.fileno(), self._read)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        opened, self._socket, self._unbound = self._socket, None, ""
        if opened is not None:
            asyncio.get_running_loop().remove_reader(opened.fileno())
            opened.close()
            self._path.unlink(missing_ok=True)

    def send(self, message: KeeperMessage) -> None:
        """Send one message; lost where the other end is absent or its buffer full."""
        if self._unbound and time.monotonic_ns() >= self._retry_ns:
            self._try_to_bind()
        if self._socket is None:
            return
        if self._said is None or self._said[0] is not message:
            self._said = message, self._splitter.split(self._encoder.encode(message))
        datagrams = self._said[1]
        self._note("" if datagrams else "it is too long to be sent")
        try:
            for datagram in datagrams:
                self._socket.sendto(datagram, self._other)
        except OSError as error:
            # The rest of it would be of no use: without one piece there is no message.
            if error.errno not in _ABSENT:
                self._note(error.strerror or str(error))

    def trouble(self) -> str:
        """Why the other end does not hear us though it is there, in one line for status; empty where it may."""
        if self._unbound:
            return f"{self._unbound}; agent and keeper of this node do not hear each other"
        if not self._unsaid:
            return ""
        return f"{self._path.name}: what this process says does not reach {Path(self._other).name}: {self._unsaid}"

    def _note(self, reason: str) -> None:
        self._unsaid = reason
        now_ns = time.monotonic_ns()
        if reason and (self._logged_ns is None or now_ns - self._logged_ns >= LOG_EVERY_NS):
            self._logged_ns = now_ns
            _log.error("%s", self.trouble())

    def _read(self) -> None:
        assert self._socket is not None
        messages: list[KeeperMessage] = []
        for _ in range(_BATCH_MAX):
            try:
                data = self._socket.recv(_DATAGRAM_BYTES_MAX)
            except (BlockingIOError, InterruptedError):
                break
            try:
                message = self._decode(data)
            except (PeerError, msgspec.MsgspecError, ValueError, RecursionError) as error:
                _log.warning("%s: malformed datagram: %s", self._path.name, error)
                continue
            if message is not None:
                messages.append(message)
        if messages:
            self._on_messages(messages)

    def _decode(self, datagram: bytes) -> KeeperMessage | None:
        """The message that this datagram completes; None while pieces of it are missing."""
        data = self._joiner.join(datagram)
        if data is None:
            return None
        if self._heard is None or self._heard[0] != data:
            self._heard = data, self._decoder.decode(data)
        return self._heard[1]
