"""What a process answers over HTTP while it cannot begin: why, in place of a status. It opens nothing before it must.

Somebody who asks a process that waits, `egressgw status` or a probe, else hears what an absent one says: nothing.
"""

from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from prometheus_client import CollectorRegistry

from service.host.disk import until_usable
from service.model.errors import TransientError
from service.settings import Settings
from service.web.server import WebServer

_LOOPBACK = "127.0.0.1"

T = TypeVar("T")


async def until_begun(settings: Settings, step: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Take one step of a beginning, again with back-off while it raises TransientError; who asks hears why."""
    async with Notice(settings) as notice:
        return await until_usable(step, told=notice.say)


async def until_listening(stack: AsyncExitStack, server: WebServer) -> None:
    """Open a process's own server, again with back-off while its address is gone. The log alone says so meanwhile.

    A notice would have the port that is waited for.
    """

    async def told(trouble: str) -> None:
        """Nobody."""

    await until_usable(lambda: stack.enter_async_context(server), told=told)


class Notice:
    """Async context manager: leave it before the process opens the server of its own, which has the same port."""

    def __init__(self, settings: Settings) -> None:
        self._node = settings.node
        self._port = settings.ports.http
        self._server = self._server_at(settings.http.address)
        self._trouble = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._trouble:
            await self._server.__aexit__(kind, error, trace)

    def _server_at(self, address: str) -> WebServer:
        return WebServer(address, self._port, self, CollectorRegistry())

    async def say(self, trouble: str) -> None:
        """Answer with this from now on. Raises OperatorError where the port cannot be had."""
        if not self._trouble:
            try:
                await self._server.__aenter__()
            except TransientError:
                # The address that is missed may be the very one to be asked at.
                self._server = self._server_at(_LOOPBACK)
                await self._server.__aenter__()
        self._trouble = trouble

    def status(self) -> dict[str, Any]:
        """No more than is known. `begun` tells a reader that what is missing is not known here."""
        return {"node": self._node, "begun": False, "troubles": [f"this process has not begun: {self._trouble}"]}

    def record_folders(self) -> list[Path]:
        """None is read: the disk is what does not answer."""
        return []

    def not_ready_reasons(self) -> list[str]:
        """Never ready."""
        return [self._trouble]
