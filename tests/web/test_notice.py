"""A process that cannot begin says why to whoever asks it, and nothing else."""

import asyncio
import socket
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import msgspec
from prometheus_client import CollectorRegistry

from service.settings import HttpSettings, PortSettings, Settings
from service.web.notice import Notice, until_listening
from service.web.server import WebServer
from service.web.verdict import troubles

HOST = "127.0.0.1"


def free_settings() -> Settings:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = int(probe.getsockname()[1])
    return Settings(node="worker1", http=HttpSettings(HOST), ports=PortSettings(http=port))


async def ask(settings: Settings, path: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{HOST}:{settings.ports.http}{path}") as found:
        return found.status, await found.json()


async def test_status_and_readiness_say_what_a_process_waits_for_and_its_port_is_free_afterwards() -> None:
    settings = free_settings()
    for _ in range(2):
        async with Notice(settings) as notice:
            await notice.say("run_dir: read-only")
            await notice.say("run_dir: full")
            status, document = await ask(settings, "/v1/status")
            assert (status, document["node"]) == (200, "worker1")
            # Only what is known: not that nobody leads, or that a keeper is silent.
            assert troubles(document) == ["this process has not begun: run_dir: full"]
            assert await ask(settings, "/readyz") == (503, {"ready": False, "reasons": ["run_dir: full"]})
            assert (await ask(settings, "/healthz"))[0] == 200


async def test_where_the_address_to_be_asked_at_is_what_is_missed_the_loopback_answers() -> None:
    settings = msgspec.structs.replace(free_settings(), http=HttpSettings("192.0.2.1"))
    async with Notice(settings) as notice:
        await notice.say("bind_address: gone")
        assert await ask(settings, "/readyz") == (503, {"ready": False, "reasons": ["bind_address: gone"]})


async def test_a_server_whose_address_comes_back_is_opened_then() -> None:
    """Seen in a review: a notice on the loopback had the port when the address was back, and the process ended."""
    settings = free_settings()
    server = WebServer("192.0.2.1", settings.ports.http, Notice(settings), CollectorRegistry())
    async with AsyncExitStack() as stack:
        opening = asyncio.create_task(until_listening(stack, server))
        await asyncio.sleep(0.05)
        assert not opening.done()
        server.address = HOST
        await asyncio.wait_for(opening, 5)
        assert (await ask(settings, "/healthz"))[0] == 200


async def test_a_process_that_begins_at_once_opens_nothing() -> None:
    settings = free_settings()
    async with Notice(settings):
        with socket.socket() as probe:
            assert probe.connect_ex((HOST, settings.ports.http)) != 0
