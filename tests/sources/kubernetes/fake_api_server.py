"""An API server of pods with faults at will: versions, pages, watches, bookmarks, 410, cuts, silence."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import yaml
from aiohttp import web


def pod(name: str, ip: str = "10.0.0.1", **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "shop", "name": name, "uid": f"uid-{name}", "labels": labels},
        "spec": {"nodeName": "worker1"},
        "status": {"phase": "Running", "podIP": ip},
    }


class FakeApiServer:
    """Serves /api/v1/pods over plain HTTP. Everything happens on the test's loop."""

    def __init__(self) -> None:
        self.version = 100
        self.pods: dict[str, dict[str, Any]] = {}
        self.requests: list[dict[str, str]] = []
        self.refusals: list[web.Response] = []
        """Answers to the next requests, in place of the right ones."""
        self.oldest = 0
        """Watches from an older version are told that it is gone."""
        self.is_silent = False
        """Watches are accepted, and then nothing is said."""
        self.watch_limit: float | None = None
        """Watches end by themselves after so many seconds."""
        self.token_is_gone = False
        self._history: list[tuple[int, dict[str, Any]]] = []
        self._changed = asyncio.Condition()
        self._transports: list[asyncio.Transport] = []
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/api/v1/pods", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def stop(self) -> None:
        self.cut()
        assert self._runner is not None
        await self._runner.cleanup()

    def write_kubeconfig(self, path: Path) -> Path:
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
            "users": [{"name": "fake", "user": {"token": "t"}}],
            "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
        }
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        return path

    @property
    def lists(self) -> list[dict[str, str]]:
        return [query for query in self.requests if "watch" not in query]

    @property
    def watches(self) -> list[dict[str, str]]:
        return [query for query in self.requests if "watch" in query]

    async def put(self, document: dict[str, Any]) -> None:
        name = document["metadata"]["name"]
        kind = "MODIFIED" if name in self.pods else "ADDED"
        self.pods[name] = document
        await self._tell(kind, document)

    async def delete(self, name: str) -> None:
        await self._tell("DELETED", self.pods.pop(name))

    async def tell_raw(self, event: dict[str, Any]) -> None:
        """Send an event of any kind to the watches."""
        async with self._changed:
            self._history.append((self.version, event))
            self._changed.notify_all()

    def cut(self) -> None:
        """Every watch loses its connection without a goodbye."""
        for transport in self._transports:
            transport.abort()
        self._transports.clear()

    async def _tell(self, kind: str, document: dict[str, Any]) -> None:
        self.version += 1
        document["metadata"]["resourceVersion"] = str(self.version)
        await self.tell_raw({"type": kind, "object": json.loads(json.dumps(document))})

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        self.requests.append(query)
        if self.refusals:
            return self.refusals.pop(0)
        return await self._watch(request) if "watch" in query else self._list(query)

    def _list(self, query: dict[str, str]) -> web.Response:
        start, limit = int(query.get("continue", 0)), int(query.get("limit", 10**9))
        if start and self.token_is_gone:
            return refusal(410, "Expired")
        items = list(self.pods.values())
        metadata = {"resourceVersion": str(self.version)}
        if start + limit < len(items):
            metadata["continue"] = str(start + limit)
        return web.json_response({"kind": "PodList", "metadata": metadata, "items": items[start : start + limit]})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        since = int(request.query["resourceVersion"])
        if since < self.oldest:
            return refusal(410, "Expired")
        response = web.StreamResponse()
        await response.prepare(request)
        assert request.transport is not None
        self._transports.append(request.transport)
        sent = len(self._history) - sum(version > since for version, _ in self._history)
        try:
            async with asyncio.timeout(self.watch_limit):
                while True:
                    async with self._changed:
                        while self.is_silent or len(self._history) <= sent:
                            await self._changed.wait()
                        fresh, sent = self._history[sent:], len(self._history)
                    await response.write(b"".join(json.dumps(event).encode() + b"\n" for _, event in fresh))
        except TimeoutError:
            return response


def refusal(code: int, reason: str, **headers: str) -> web.Response:
    body = {"kind": "Status", "code": code, "reason": reason, "message": reason}
    return web.json_response(body, status=code, headers=headers)


async def until(condition: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
    """Wait for what other tasks bring about."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
