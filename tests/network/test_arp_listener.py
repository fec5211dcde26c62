"""What is heard of a segment's ARP: all that the programs at tc leave, and nothing else."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from service.network.arp import ETH_P_ARP, ArpPacket, gratuitous_arp_frames
from service.network.arp_listener import ArpListener
from tests.network.namespace import Namespace, namespaces
from tests.network.test_arp import ADDRESS, MAC
from tests.sources.kubernetes.fake_api_server import until

pytestmark = pytest.mark.root


def index_of(namespace: Namespace, device: str) -> int:
    with namespace.entered():
        return socket.if_nametoindex(device)


def send(namespace: Namespace, device: str, *frames: bytes) -> None:
    with namespace.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((device, ETH_P_ARP))
        for frame in frames:
            sender.send(frame)


async def heard_of(count: int, heard: list[tuple[str, ArpPacket]]) -> None:
    await until(lambda: len(heard) >= count)


async def test_arp_that_comes_in_is_heard_and_what_goes_out_or_is_something_else_is_not() -> None:
    heard: list[tuple[str, ArpPacket]] = []
    request, reply = gratuitous_arp_frames(MAC, ADDRESS)
    with (
        namespaces("near", "far") as (near, far),
        ArpListener(lambda name, packet: heard.append((name, packet))) as one,
    ):
        near.link("seg0", far, "peer0")
        near.ip("link set seg0 arp off")
        with near.entered():
            one.listen((("seg0", socket.if_nametoindex("seg0")),))
        send(near, "seg0", request)
        other = bytearray(request)
        other[12:14] = b"\x08\x00"
        send(far, "peer0", bytes(other), request, reply)
        await heard_of(2, heard)
    assert [(name, packet.operation, packet.sender) for name, packet in heard if packet.sender == ADDRESS] == [
        ("seg0", 1, ADDRESS),
        ("seg0", 2, ADDRESS),
    ]


async def test_packets_that_are_no_arp_pass_no_socket_of_the_listener() -> None:
    """One of all protocols was a tenth of what a steered packet costs. Source: net/packet/af_packet.c, column Proto."""
    with namespaces("near", "far") as (near, far), ArpListener(lambda *_: None) as one:
        near.link("seg0", far, "peer0")
        with near.entered():
            one.listen((("seg0", index_of(near, "seg0")),))
            rows = near.run("cat /proc/net/packet").splitlines()[1:]
    assert [int(row.split()[3], 16) for row in rows] == [ETH_P_ARP]


async def test_arp_of_another_vlan_of_a_trunk_is_not_heard() -> None:
    """The same addresses may be in use there."""
    heard: list[tuple[str, ArpPacket]] = []
    request, reply = gratuitous_arp_frames(MAC, ADDRESS)
    tagged = request[:12] + b"\x81\x00\x00\x07" + request[12:]
    with (
        namespaces("near", "far") as (near, far),
        ArpListener(lambda name, packet: heard.append((name, packet))) as one,
    ):
        near.link("seg0", far, "peer0")
        with near.entered():
            one.listen((("seg0", index_of(near, "seg0")),))
        send(far, "peer0", tagged, reply)
        await heard_of(1, heard)
    assert [packet.operation for _, packet in heard if packet.sender == ADDRESS] == [2]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_an_interface_that_was_down_is_heard_again_on_every_loop(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    """Seen under chaos: a node stayed deaf whose uplink had an address while it was down. A loop may watch a socket no
    more that has told of an error."""
    run(hear_what_was_down())


async def hear_what_was_down() -> None:
    heard: list[tuple[str, ArpPacket]] = []
    request, _ = gratuitous_arp_frames(MAC, ADDRESS)
    with (
        namespaces("near", "far") as (near, far),
        ArpListener(lambda name, packet: heard.append((name, packet))) as one,
    ):
        near.link("seg0", far, "peer0")

        def listen() -> None:
            """As each turn does."""
            with near.entered():
                one.listen((("seg0", index_of(near, "seg0")),))

        for is_open_before in (False, True):
            heard.clear()
            if is_open_before:
                listen()
            near.ip("link set seg0 down")
            listen()
            await asyncio.sleep(0.05)
            near.ip("link set seg0 up")
            listen()
            send(far, "peer0", request)
            await heard_of(1, heard)


async def test_an_interface_that_was_made_anew_is_heard_again() -> None:
    heard: list[tuple[str, ArpPacket]] = []
    request, _ = gratuitous_arp_frames(MAC, ADDRESS)
    with (
        namespaces("near", "far") as (near, far),
        ArpListener(lambda name, packet: heard.append((name, packet))) as one,
    ):
        near.link("seg0", far, "peer0")
        with near.entered():
            one.listen((("seg0", index_of(near, "seg0")), ("absent0", 77)))
        near.ip("link del seg0")
        near.link("seg0", far, "peer0")
        with near.entered():
            one.listen((("seg0", index_of(near, "seg0")),))
        heard.clear()
        send(far, "peer0", request)
        await heard_of(1, heard)
