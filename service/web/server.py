"""The read-only HTTP server of a process: health, readiness, status and metrics.

Bounded against whoever connects: a limit of connections, one request on each, and a whole-life limit that also ends a
client which sends or reads too slowly; see `connections`. A page is made on the loop in one go, so a slow client costs
memory only.
"""

import asyncio
import errno
import logging
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, cast

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import choose_encoder

from service.audit.excerpt import newest_records
from service.host.loop_lag import LoopLag
from service.model.errors import OperatorError, TransientError
from service.web.client import WHOLE
from service.web.connections import CONNECTIONS_MAX, Connections

log = logging.getLogger(__name__)

_TICK_S = 0.5
_REQUEST_BYTES_MAX = 4096
_SHUTDOWN_S = 1.0


class StatusProvider(Protocol):
    """What the server shows. All are called on the loop and must not block."""

    def status(self) -> dict[str, Any]:
        """The status document: JSON-able; addresses and other plain values are shown by `str`."""

    def record_folders(self) -> list[Path]:
        """The audit outboxes of this node, of which the newest records are shown."""

    def not_ready_reasons(self) -> list[str]:
        """Why this process should get no work now; empty where it is ready."""


class WebServer:
    """Listens between enter and exit. `port` 0 takes a free one, which the attribute `port` then tells."""

    def __init__(self, address: str, port: int, provider: StatusProvider, registry: CollectorRegistry) -> None:
        self.address = address
        self.port = port
        self._provider = provider
        self._registry = registry
        self._runner: web.AppRunner | None = None
        self._listeners: list[asyncio.Server] = []
        self.connections = Connections()
        """Those that are open."""
        self._reading = asyncio.Lock()
        self.lag = LoopLag()
        """Of the loop that it is entered on, meanwhile."""
        self._tick: asyncio.TimerHandle | None = None
        self._lag_gauge: Gauge | None = None

    @property
    def loop_lag_s(self) -> float:
        """The latest that the loop came to a timer in the last five seconds."""
        return self.lag.recent_s

    async def __aenter__(self) -> Self:
        """Start to listen. Raises OperatorError naming `ports.http` or `http.address` where that is not possible.

        TransientError, with nothing opened, where no interface has the address now.
        """
        application = web.Application(middlewares=[_answer], client_max_size=_REQUEST_BYTES_MAX)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/v1/status", self._status)
        application.router.add_get("/v1/records", self._records)
        application.router.add_get("/metrics", self._metrics)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=_SHUTDOWN_S)
        await runner.setup()
        self._runner = runner
        try:
            await self._listen()
        except BaseException:
            await self._close()
            raise
        self._lag_gauge = Gauge(
            "egressgw_loop_lag_seconds", "Latest that the event loop came to a timer, last 5 s", registry=self._registry
        )
        self._lag_gauge.set_function(lambda: self.loop_lag_s)
        self.lag.start()
        self._schedule_tick()
        return self

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for address in _addresses(self.address):
            try:
                listener = await loop.create_server(self._accept, address, self.port, backlog=CONNECTIONS_MAX)
            except OSError as error:
                raise _listen_error(error, address, self.port) from error
            self._listeners.append(listener)
            self.port = listener.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        for listener in self._listeners:
            listener.close()
        if self._runner is not None:
            await self._runner.cleanup()
        self.connections.end_all()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lag.stop()
        if self._tick is not None:
            self._tick.cancel()
        if self._lag_gauge is not None:
            self._registry.unregister(self._lag_gauge)
        await self._close()

    def _accept(self) -> asyncio.Protocol:
        assert self._runner is not None
        server = self._runner.server
        if server is None:
            return _Refusal()
        return _Admitted(server(), self.connections)

    def _schedule_tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._tick = loop.call_later(_TICK_S, self._on_tick)

    def _on_tick(self) -> None:
        self.connections.expire(now_s=asyncio.get_running_loop().time())
        self._schedule_tick()

    async def _healthz(self, request: web.Request) -> web.Response:
        return _json({"status": "ok", "loopLagMs": round(self.loop_lag_s * 1000, 3)})

    async def _readyz(self, request: web.Request) -> web.Response:
        reasons = self._provider.not_ready_reasons()
        return _json({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def _status(self, request: web.Request) -> web.Response:
        return _json(self._provider.status())

    async def _records(self, request: web.Request) -> web.Response:
        # One at a time, in a thread: whoever asks often waits, and nobody else does.
        async with self._reading:
            found = await asyncio.to_thread(newest_records, self._provider.record_folders())
        body = b"".join(payload + b"\n" for payload in found.payloads)
        headers = {WHOLE: str(found.is_whole).lower()}
        return web.Response(body=body, content_type="application/x-ndjson", headers=headers)

    async def _metrics(self, request: web.Request) -> web.Response:
        render, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=render(self._registry), headers={"Content-Type": content_type})


class _Admitted(asyncio.Protocol):
    """One connection, counted among the others from its beginning to its end."""

    def __init__(self, handler: web.RequestHandler, connections: Connections) -> None:
        self._handler = handler
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not all loops have theirs inherit from asyncio's, but it is one.
        stream = cast(asyncio.Transport, transport)
        self._handler.connection_made(stream)
        self._connections.admit(self, stream, now_s=asyncio.get_running_loop().time())

    def data_received(self, data: bytes) -> None:
        self._handler.data_received(data)

    def eof_received(self) -> None:
        self._handler.eof_received()

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.forget(self)
        self._handler.connection_lost(exc)


class _Refusal(asyncio.Protocol):
    """Ends a connection that comes while the server stops."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


@web.middleware
async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors in JSON, and each connection once."""
    try:
        response = await handler(request)
    except web.HTTPException as error:
        response = _json({"error": error.reason}, status=error.status)
        response.headers.update({"Allow": error.headers["Allow"]} if "Allow" in error.headers else {})
    except Exception:
        log.exception("%r failed", request.path)
        response = _json({"error": "internal error; the log of the process says more"}, status=500)
    response.force_close()
    response.headers["Cache-Control"] = "no-store"
    return response


def _json(document: dict[str, Any], *, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(document, enc_hook=str), status=status, content_type="application/json"
    )


def _addresses(address: str) -> tuple[str, ...]:
    """Where to listen: whoever is on this machine also finds it at 127.0.0.1."""
    alone = IPv4Address(address).is_loopback or IPv4Address(address).is_unspecified
    return (address,) if alone else (address, "127.0.0.1")


def _listen_error(error: OSError, address: str, port: int) -> OperatorError | TransientError:
    if error.errno == errno.EADDRNOTAVAIL:
        return TransientError(f"http.address: cannot listen on {address}:{port}: {error.strerror}")
    if error.errno == errno.EADDRINUSE:
        return OperatorError(f"ports.http: {address}:{port} is in use by another process; choose a free port")
    if error.errno in (errno.EACCES, errno.EPERM):
        return OperatorError(f"ports.http: no permission to listen on {address}:{port}; choose a port above 1023")
    return OperatorError(f"http.address: cannot listen on {address}:{port}: {error.strerror or error}")
