"""What a process answers over HTTP while it cannot begin: why, in place of a status. It opens nothing before it must.

Somebody who asks a process that waits, `egressgw status` or a probe, else hears what an absent one says: nothing.
"""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prometheus_client import CollectorRegistry

from service.settings import Settings
from service.web.server import WebServer


class Notice:
    """Async context manager: leave it before the process opens the server of its own, which has the same port."""

    def __init__(self, settings: Settings) -> None:
        self._node = settings.node
        self._server = WebServer(settings.http.address, settings.ports.http, self, CollectorRegistry())
        self._trouble = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._trouble:
            await self._server.__aexit__(kind, error, trace)

    async def say(self, trouble: str) -> None:
        """Answer with this from now on. Raises OperatorError where the port cannot be had."""
        if not self._trouble:
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
