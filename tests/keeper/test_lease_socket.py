"""The socket by which electors and holders speak: one purpose, and for one process at a time."""

import asyncio
import time
from pathlib import Path

from service.keeper.lease_socket import lease_socket
from service.model.machine import Address
from tests.keeper.node import free_port, settings_of


async def test_what_one_says_the_other_hears_by_name_and_start_id(tmp_path: Path) -> None:
    port, heard = free_port(), asyncio.Queue[tuple[str, int, bytes]]()
    first, second = (settings_of(tmp_path, index, port) for index in range(2))

    async with (
        lease_socket(first, start_id=7, on_datagram=lambda *_: None, clock=time.monotonic_ns) as sender,
        lease_socket(
            second,
            start_id=8,
            on_datagram=lambda source, said: heard.put_nowait((source.node, source.start_id, said)),
            clock=time.monotonic_ns,
        ),
    ):
        sender.send(Address("127.0.0.2", port), b"renew")
        assert await asyncio.wait_for(heard.get(), 5) == ("node0", 7, b"renew")
