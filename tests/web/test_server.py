import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.audit.outbox import Outbox
from service.model.errors import OperatorError, TransientError
from service.web import connections
from service.web import server as web_server
from service.web.server import WebServer
from tests.audit.log import hold, payloads, write_outbox

ENDED = ConnectionError, RuntimeError
"""What writing to a connection raises that the other side has ended: asyncio's loop, and uvloop."""


class Provider:
    def __init__(self) -> None:
        self.document: dict[str, Any] = {
            "node": "n1",
            "floatingIPs": {"192.0.2.1": {"holder": IPv4Address("192.0.2.9")}},
        }
        self.reasons: list[str] = []
        self.broken = False
        self.folders: list[Path] = []

    def status(self) -> dict[str, Any]:
        if self.broken:
            raise RuntimeError("a bug")
        return self.document

    def record_folders(self) -> list[Path]:
        return self.folders

    def not_ready_reasons(self) -> list[str]:
        return self.reasons


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def server(provider: Provider, registry: CollectorRegistry) -> AsyncIterator[WebServer]:
    async with WebServer("127.0.0.1", 0, provider, registry) as running:
        yield running


@pytest.fixture
async def client(server: WebServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:
        yield session


async def get(client: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    async with client.get(path) as response:
        return response.status, await response.json()


async def test_a_living_process_is_healthy_and_tells_its_lag(client: aiohttp.ClientSession) -> None:
    status, body = await get(client, "/healthz")
    assert status == 200
    assert body["status"] == "ok"
    assert body["loopLagMs"] >= 0


async def test_readiness_says_why_not(client: aiohttp.ClientSession, provider: Provider) -> None:
    assert await get(client, "/readyz") == (200, {"ready": True, "reasons": []})
    provider.reasons = ["datapath: not loaded", "keeper: silent"]
    assert await get(client, "/readyz") == (503, {"ready": False, "reasons": provider.reasons})


async def test_the_status_document_is_shown_as_it_is(client: aiohttp.ClientSession) -> None:
    status, body = await get(client, "/v1/status")
    assert (status, body) == (200, {"node": "n1", "floatingIPs": {"192.0.2.1": {"holder": "192.0.2.9"}}})


async def test_the_newest_records_of_the_node_are_shown_as_they_were_written(
    client: aiohttp.ClientSession, provider: Provider, tmp_path: Path
) -> None:
    def act(outbox: Outbox) -> None:
        hold(outbox, 1, from_ms=1, until_ms=2)

    folder = await asyncio.to_thread(write_outbox, tmp_path / "outbox", act)
    provider.folders = [folder, tmp_path / "none"]
    async with client.get("/v1/records") as answer:
        assert (answer.status, answer.headers["X-Whole"]) == (200, "true")
        assert (await answer.read()).splitlines() == payloads(folder)


async def test_metrics_are_in_the_text_format_of_prometheus(
    client: aiohttp.ClientSession, registry: CollectorRegistry
) -> None:
    Counter("egressgw_drops", "d", ["reason"], registry=registry).labels("no_gateway").inc(3)
    async with client.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        families = {family.name: family for family in text_string_to_metric_families(await response.text())}
    assert families["egressgw_drops"].samples[0].value == 3
    assert "egressgw_loop_lag_seconds" in families


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/", 404), ("POST", "/v1/status", 405), ("GET", "/v1/../etc", 404)]
)
async def test_there_is_nothing_else(client: aiohttp.ClientSession, method: str, path: str, status: int) -> None:
    async with client.request(method, path) as response:
        assert response.status == status
        assert "error" in await response.json()


async def test_a_bug_in_the_provider_is_a_500_and_the_next_request_works(
    client: aiohttp.ClientSession, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    provider.broken = True
    status, body = await get(client, "/v1/status")
    assert status == 500
    assert "a bug" not in str(body)
    assert "a bug" in caplog.text
    provider.broken = False
    assert (await get(client, "/v1/status"))[0] == 200


async def test_requests_are_not_logged(client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await get(client, "/healthz")
    assert caplog.records == []


async def test_a_port_in_use_names_the_setting(server: WebServer, provider: Provider) -> None:
    with pytest.raises(OperatorError, match=r"ports\.http.*in use"):
        async with WebServer("127.0.0.1", server.port, provider, CollectorRegistry()):
            pass


async def test_an_address_of_another_host_names_the_setting(provider: Provider) -> None:
    # It may be this one's again in a moment.
    with pytest.raises(TransientError, match=r"http\.address"):
        async with WebServer("192.0.2.1", 0, provider, CollectorRegistry()):
            pass


async def connect(server: WebServer, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", server.port, local_addr=(source, 0))


async def is_open(reader: asyncio.StreamReader) -> bool:
    with contextlib.suppress(ConnectionResetError):
        try:
            return await asyncio.wait_for(reader.read(1), 0.05) != b""
        except TimeoutError:
            return True
    return False


async def test_however_many_idle_connections_a_stranger_opens_a_probe_is_answered(
    server: WebServer, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS_MAX", 4)
    idle = [await connect(server, "127.0.0.9") for _ in range(10)]
    assert (await get(client, "/healthz"))[0] == 200
    # The newest of the stranger's are still there: it lost those that had been idle for longest.
    open_ones = [await is_open(reader) for reader, _ in idle]
    assert open_ones == sorted(open_ones)
    assert 0 < sum(open_ones) <= 4
    for _, writer in idle:
        writer.close()


async def test_who_has_most_connections_gives_way_and_not_who_came_first(
    server: WebServer, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS_MAX", 3)
    first_reader, first = await connect(server, "127.0.0.7")
    many = [await connect(server, "127.0.0.9") for _ in range(6)]
    assert (await get(client, "/healthz"))[0] == 200
    first.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await asyncio.wait_for(first_reader.read(), 5)).startswith(b"HTTP/1.1 200")
    for _, writer in (*many, (first_reader, first)):
        writer.close()


async def test_64_idle_strangers_and_64_slow_ones_do_not_make_liveness_fail(
    server: WebServer, client: aiohttp.ClientSession
) -> None:
    """Each slow one goes on with a few letters now and then."""
    strangers = [await connect(server, f"127.0.{number}.9") for number in range(connections.CONNECTIONS_MAX)]
    slow = [await connect(server, "127.0.200.9") for _ in range(connections.CONNECTIONS_MAX)]
    for turn in range(5):
        for _, writer in slow:
            with contextlib.suppress(*ENDED):
                writer.write(b"GET /v1/status HTTP/1.1\r\nX-Slow: "[turn * 3 : turn * 3 + 3])
        for path in ("/healthz", "/readyz", "/metrics"):
            async with client.get(path) as answer:
                assert answer.status == 200
        assert len(server.connections) <= connections.CONNECTIONS_MAX
    for _, writer in (*strangers, *slow):
        writer.close()


async def test_strangers_from_as_many_hosts_as_there_are_places_do_not_take_those_of_this_machine(
    provider: Provider, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_is_of_this_machine", lambda host, _: host == "127.0.0.1")
    monkeypatch.setattr(connections, "CONNECTIONS_MAX", 4)
    async with WebServer("127.0.0.1", 0, provider, registry) as server:
        reader, writer = await connect(server, "127.0.0.1")
        strangers = [await connect(server, f"127.0.1.{number + 1}") for number in range(12)]
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 200")
        for _, stranger in (*strangers, (reader, writer)):
            stranger.close()


async def test_what_is_over_is_forgotten_at_once(server: WebServer, client: aiohttp.ClientSession) -> None:
    """Seen: a connection was remembered for its whole longest life; 10,000 a second were 150,000."""
    for _ in range(100):
        await get(client, "/healthz")
    await asyncio.sleep(0.05)
    assert len(server.connections) == 0


async def test_who_is_on_the_machine_asks_at_loopback_and_others_at_the_nodes_address(
    provider: Provider, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_server, "_addresses", lambda address: (address, "127.0.0.1"))
    async with WebServer("127.0.0.77", 0, provider, registry) as server:
        for host, is_there in (("127.0.0.77", True), ("127.0.0.1", True), ("127.0.0.78", False)):
            with socket.socket() as probe:
                assert (probe.connect_ex((host, server.port)) == 0) is is_there


@pytest.mark.parametrize(
    ("address", "listens"),
    [
        ("10.0.0.7", ("10.0.0.7", "127.0.0.1")),
        ("0.0.0.0", ("0.0.0.0",)),
        ("127.0.0.1", ("127.0.0.1",)),
    ],
)
def test_it_listens_at_the_nodes_address_and_at_loopback(address: str, listens: tuple[str, ...]) -> None:
    assert web_server._addresses(address) == listens


async def test_a_client_that_sends_nothing_is_let_go(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTION_S_MAX", 0.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


async def test_stopping_does_not_wait_for_idle_clients_and_frees_the_port(
    provider: Provider, registry: CollectorRegistry
) -> None:
    before = generate_latest(registry)
    async with WebServer("127.0.0.1", 0, provider, registry) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        _, talking = await asyncio.open_connection("127.0.0.1", server.port)
        talking.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        # So that both are being served when it stops: an answer comes after those before it were accepted.
        async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as client:
            await get(client, "/healthz")
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 0.5
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 1) == b""
    writer.close()
    talking.close()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", server.port))
    assert generate_latest(registry) == before
    async with WebServer("127.0.0.1", 0, provider, registry):
        pass  # the registry is as it was before the first


async def test_lag_of_the_loop_is_measured(server: WebServer, client: aiohttp.ClientSession) -> None:
    await asyncio.sleep(0)
    time.sleep(0.7)  # noqa: ASYNC251
    await asyncio.sleep(0)
    await get(client, "/healthz")
    assert server.loop_lag_s > 0.1
