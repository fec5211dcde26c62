"""An API server that has one object at most: the electorate."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from service.electorate.store import OBJECT_NAME
from service.sources.kubernetes.api_server import ApiError

UID = "uid-of-the-object"


class ObjectServer:
    """Stands in for ApiServer. `is_away`: requests are not answered."""

    def __init__(self) -> None:
        self.object: dict[str, Any] | None = None
        self.version = 100
        self.is_away = False
        self.attempts = 0
        """To make or change it."""
        self._events: list[bytes] = []
        self._changed = asyncio.Condition()

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> bytes:
        self._check()
        if path.endswith(OBJECT_NAME):
            return json.dumps(self._found()).encode()
        items = [self.object] if self.object is not None else []
        return json.dumps({"metadata": {"resourceVersion": str(self.version)}, "items": items}).encode()

    async def create(self, path: str, body: Mapping[str, Any]) -> bytes:
        self.attempts += 1
        self._check()
        if self.object is not None:
            raise ApiError(409, "AlreadyExists", "it exists")
        return await self.put(body["data"])

    async def patch(self, path: str, body: Any, content_type: str, query: Mapping[str, str] | None = None) -> bytes:
        self.attempts += 1
        self._check()
        if self._found()["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "it has been changed")
        return await self.put(body["data"])

    async def stream(self, path: str, query: Mapping[str, str], *, idle_s: float) -> AsyncGenerator[bytes, None]:
        sent = 0
        yield b""
        while True:
            async with self._changed:
                while len(self._events) <= sent:
                    await self._changed.wait()
            fresh, sent = self._events[sent:], len(self._events)
            yield b"".join(event + b"\n" for event in fresh)

    async def put(self, data: dict[str, str]) -> bytes:
        """Somebody has written the object."""
        kind = "ADDED" if self.object is None else "MODIFIED"
        self.version += 1
        metadata = {"name": OBJECT_NAME, "resourceVersion": str(self.version), "uid": UID}
        self.object = {"metadata": metadata, "data": data}
        await self._tell(kind, self.object)
        return json.dumps(self.object).encode()

    async def remove(self) -> None:
        """Somebody has deleted it."""
        found, self.object = self._found(), None
        await self._tell("DELETED", found)

    async def _tell(self, kind: str, found: dict[str, Any]) -> None:
        async with self._changed:
            self._events.append(json.dumps({"type": kind, "object": found}).encode())
            self._changed.notify_all()

    def _found(self) -> dict[str, Any]:
        if self.object is None:
            raise ApiError(404, "NotFound", "there is no such object")
        return self.object

    def _check(self) -> None:
        if self.is_away:
            raise ApiError(0, "Unreachable", "no answer")
