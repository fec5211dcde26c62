"""Where operators order: HTTP on a unix socket that only the owner of the process may open.

The network's server is read-only, and stays so. Who may open this file is already whoever runs the process: root on the
node, or who may execute in its pod. Decision 0011 has what else was thought of.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from service.host.disk import until_usable
from service.model.errors import OperatorError, TransientError
from service.web.orders import Orders

_REQUEST_BYTES_MAX = 4096


class _Drain(msgspec.Struct, forbid_unknown_fields=True):
    node: str
    drained: bool


class _Move(msgspec.Struct, forbid_unknown_fields=True):
    floating_ip: str = msgspec.field(name="floatingIP")
    node: str = ""


class _Withdrawal(msgspec.Struct, forbid_unknown_fields=True):
    floating_ip: str = msgspec.field(name="floatingIP")
    id: tuple[int, int]


class OrderSocket:
    """Listens while `run` runs. A disk that does not let it is tried again."""

    def __init__(self, path: Path, orders: Orders) -> None:
        self._path = path
        self._orders = orders
        self.trouble = ""
        """Why nobody can order anything here; empty where it is open."""

    async def run(self) -> None:
        """Listen until cancelled."""
        application = web.Application(middlewares=[_answer], client_max_size=_REQUEST_BYTES_MAX)
        application.router.add_get("/v1/drain", self._emptying)
        application.router.add_post("/v1/drain", self._drain)
        application.router.add_get("/v1/move", self._moving)
        application.router.add_post("/v1/move", self._move)
        application.router.add_post("/v1/withdraw", self._withdraw)
        application.router.add_get("/v1/rebalance", self._plan)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await until_usable(lambda: self._listen(runner), told=self._tell)
            self.trouble = ""
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _listen(self, runner: web.AppRunner) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
            await web.UnixSite(runner, str(self._path)).start()
            os.chmod(self._path, 0o600)
        except OSError as error:
            # Never a reason to end: nothing else of this process needs it.
            raise TransientError(f"run_dir: cannot listen on {self._path}: {error.strerror or error}") from error

    async def _tell(self, trouble: str) -> None:
        self.trouble = trouble

    async def _emptying(self, request: web.Request) -> web.Response:
        return _json(self._orders.emptying(request.query.get("node", "")))

    async def _drain(self, request: web.Request) -> web.Response:
        order = msgspec.json.decode(await request.read(), type=_Drain)
        return _json(self._orders.drain(order.node, is_drained=order.drained))

    async def _moving(self, request: web.Request) -> web.Response:
        return _json(self._orders.moving(request.query.get("floatingIP", "")))

    async def _move(self, request: web.Request) -> web.Response:
        order = msgspec.json.decode(await request.read(), type=_Move)
        return _json(self._orders.move(order.floating_ip, order.node))

    async def _withdraw(self, request: web.Request) -> web.Response:
        order = msgspec.json.decode(await request.read(), type=_Withdrawal)
        return _json(self._orders.withdraw(order.floating_ip, *order.id))

    async def _plan(self, request: web.Request) -> web.Response:
        return _json(await self._orders.plan())


@web.middleware
async def _answer(request: web.Request, handler: Any) -> web.StreamResponse:
    """What is wrong with an order is answered as such, with 400."""
    try:
        response: web.StreamResponse = await handler(request)
    except (OperatorError, msgspec.MsgspecError) as error:
        response = _json({"error": str(error)}, status=400)
    response.force_close()
    return response


def _json(document: dict[str, Any], *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), status=status, content_type="application/json")
