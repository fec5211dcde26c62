"""Packets that a rule of netfilter logs are heard, and nobody else's."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from service.model.errors import TransientError
from service.network.packet_log import PacketLog, packets_of
from tests.network.namespace import Namespace, namespaces
from tests.sources.kubernetes.fake_api_server import until

GROUP = 9640
RULES = f"""table ip test {{
  chain in {{
    type filter hook input priority 0;
    udp dport 7000 log group {GROUP} snaplen 40
    udp dport 7001 log group {GROUP + 1}
  }}
}}
"""


@pytest.fixture
def node() -> Iterator[Namespace]:
    with namespaces("l") as (node,):
        node.run("nft -f -", RULES)
        with node.entered():
            yield node


def say(node: Namespace, port: int, *payloads: bytes) -> None:
    with node.udp("127.0.0.1", port), node.udp("127.0.0.1") as sender:
        for payload in payloads:
            sender.sendto(payload, ("127.0.0.1", port))


@pytest.mark.root
async def test_logged_packets_are_heard_at_once_and_as_far_as_was_asked_for(node: Namespace) -> None:
    heard: list[bytes] = []
    with PacketLog(GROUP, 32, heard.append):
        say(node, 7001, b"another group")
        say(node, 7000, b"one", b"two")
        await until(lambda: len(heard) == 2)
    assert [packet[28:] for packet in heard] == [b"one", b"two"]
    assert max(map(len, heard)) <= 32


@pytest.mark.root
async def test_a_group_has_one_reader_and_is_free_when_that_one_goes(node: Namespace) -> None:
    with (
        PacketLog(GROUP, 32, print),
        pytest.raises(TransientError, match=f"group {GROUP}"),
        PacketLog(GROUP, 32, print),
    ):
        pass
    heard: list[bytes] = []
    with PacketLog(GROUP, 32, heard.append):
        say(node, 7000, b"again")
        await until(lambda: len(heard) == 1)


@pytest.mark.root
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_after_a_flood_of_which_some_is_lost_packets_are_heard_on_every_loop(
    node: Namespace, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    """A loop may watch a socket no more that has told of an error."""
    run(hear_after_a_flood(node))


async def hear_after_a_flood(node: Namespace) -> None:
    heard: list[bytes] = []
    with PacketLog(GROUP, 32, heard.append):
        # Nobody reads meanwhile.
        say(node, 7000, *(b"flood" for _ in range(5000)))
        await until(lambda: len(heard) > 100)
        await asyncio.sleep(0.5)
        assert len(heard) < 5000, "some were lost"
        heard.clear()
        say(node, 7000, b"last")
        await until(lambda: [packet[28:] for packet in heard] == [b"last"])


def test_nonsense_is_no_packet() -> None:
    for data in (b"", bytes(15), bytes(64), b"\xff" * 64):
        assert packets_of(data) == []
