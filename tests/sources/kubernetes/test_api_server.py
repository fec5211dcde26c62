"""Raw requests: every refusal is raised, every patch names its type, no answer is waited for without end."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from service.model.errors import TransientError
from service.sources.kubernetes.api_server import APPLY, ApiError, ApiServer, connect
from tests.sources.kubernetes.fake_api_server import FakeApiServer, refusal

Handler = Callable[[web.Request], Any]


@dataclass
class Server:
    """Answers every request by `handler`, and remembers what came."""

    handler: Handler = lambda request: web.json_response({})
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    port: int = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs, dict(request.headers), await request.read()))
        answer = self.handler(request)
        return await answer if asyncio.iscoroutine(answer) else answer


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    found = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "kubeconfig", found.port, "first")))
    yield found
    await runner.cleanup()


def write_kubeconfig(path: Path, port: int, token: str) -> Path:
    like = FakeApiServer()
    like.port = port
    document = yaml.safe_load(like.write_kubeconfig(path).read_text(encoding="utf-8"))
    document["users"][0]["user"]["token"] = token
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


@pytest.fixture
async def api(server: Server) -> AsyncIterator[ApiServer]:
    async with connect() as client:
        yield client


async def test_requests_are_sent_as_the_api_server_wants_them(server: Server, api: ApiServer) -> None:
    server.handler = lambda request: web.json_response({"kind": "Anything"})
    assert await api.get("/api/v1/pods", {"limit": "5"}) == b'{"kind": "Anything"}'
    await api.patch("/x/status", {"a": 1}, APPLY, {"force": "true"})
    await api.create("/y", {"b": 2})
    await api.delete("/z")
    await api.delete("/z", uid="u1")
    sent = [(method, path) for method, path, _, _ in server.requests]
    assert sent == [
        ("GET", "/api/v1/pods?limit=5"),
        ("PATCH", "/x/status?force=true"),
        ("POST", "/y"),
        ("DELETE", "/z"),
        ("DELETE", "/z"),
    ]
    headers = server.requests[1][2]
    assert headers["Content-Type"] == APPLY
    assert headers["Authorization"] == "Bearer first"
    assert headers["User-Agent"].startswith("egressgw/")
    assert b"u1" not in server.requests[3][3]
    assert b'"preconditions": {"uid": "u1"}' in server.requests[4][3]


@pytest.mark.parametrize("code", [400, 403, 409, 410, 422, 429, 500, 503])
async def test_every_refusal_is_raised_with_what_the_server_says(server: Server, api: ApiServer, code: int) -> None:
    server.handler = lambda request: refusal(code, "Because", **{"Retry-After": "7"})
    with pytest.raises(ApiError) as told:
        await api.get("/x")
    error = told.value
    assert (error.status, error.reason, error.message, error.retry_after_s) == (code, "Because", "Because", 7.0)
    # Whoever only knows that it may be tried again is served, too.
    assert isinstance(error, TransientError)


async def test_a_refusal_that_is_no_status_is_told_by_its_text(server: Server, api: ApiServer) -> None:
    server.handler = lambda request: web.Response(status=502, text="<html>bad gateway " + "x" * 500)
    with pytest.raises(ApiError, match="<html>bad gateway") as told:
        await api.get("/x")
    assert len(told.value.message) <= 200
    assert told.value.retry_after_s == 0.0


async def test_what_is_gone_already_is_deleted(server: Server, api: ApiServer) -> None:
    server.handler = lambda request: refusal(404, "NotFound")
    await api.delete("/x")
    server.handler = lambda request: refusal(409, "Conflict")
    with pytest.raises(ApiError):
        await api.delete("/x", uid="another")


async def test_nobody_there_is_no_status_and_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "none", 1, "t")))
    async with connect() as api:
        with pytest.raises(ApiError, match="cannot be reached") as told:
            await api.get("/x")
    assert told.value.status == 0


async def test_credentials_that_were_replaced_are_read_again_after_a_refusal(
    server: Server, api: ApiServer, tmp_path: Path
) -> None:
    def handler(request: web.Request) -> web.Response:
        is_good = request.headers["Authorization"] == "Bearer second"
        return web.json_response({}) if is_good else refusal(401, "Unauthorized")

    server.handler = handler
    write_kubeconfig(tmp_path / "kubeconfig", server.port, "second")
    with pytest.raises(ApiError):
        await api.get("/x")
    assert await api.get("/x") == b"{}"


async def test_a_stream_gives_an_empty_piece_first_and_ends_with_the_servers(server: Server, api: ApiServer) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one\n")
        return response

    server.handler = handler
    pieces = [piece async for piece in api.stream("/x", {"watch": "true"}, idle_s=5)]
    assert pieces[0] == b""
    assert b"".join(pieces) == b"one\n"


async def test_a_stream_that_falls_silent_is_given_up(server: Server, api: ApiServer) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one\n")
        await asyncio.sleep(30)
        return response

    server.handler = handler
    pieces: list[bytes] = []

    async def follow() -> None:
        async for piece in api.stream("/x", {}, idle_s=0.1):
            pieces.append(piece)

    with pytest.raises(ApiError, match="cannot be reached"):
        await asyncio.wait_for(follow(), 5)
    assert b"".join(pieces) == b"one\n"


async def test_a_stream_that_is_refused_says_nothing_first(server: Server, api: ApiServer) -> None:
    server.handler = lambda request: refusal(410, "Expired")
    with pytest.raises(ApiError) as told:
        await anext(api.stream("/x", {}, idle_s=5))
    assert told.value.status == 410


async def test_the_servers_address_is_known_where_it_is_configured_by_one(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connect() as client:
        assert client.address == IPv4Address("127.0.0.1")
    named = yaml.safe_load((tmp_path / "kubeconfig").read_text())
    named["clusters"][0]["cluster"]["server"] = "https://api.example:6443"
    (tmp_path / "named").write_text(yaml.safe_dump(named))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "named"))
    async with connect() as client:
        assert client.address is None
