"""Claims of the ARP frames (RFC 826, RFC 5227), and of their sockets in a network namespace."""

import asyncio
import ctypes
import os
import resource
import socket
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from typing import TypeVar

import pytest
import uvloop

from service.model.errors import TransientError
from service.network.arp import (
    BROADCAST_MAC,
    ETH_P_ARP,
    REPLY,
    REQUEST,
    ArpPacket,
    ArpSender,
    arp_probe_frame,
    gratuitous_arp_frames,
    parse_arp,
    probe,
)

MAC = bytes.fromhex("02000000000a")
PEER_MAC = bytes.fromhex("02000000000b")
ADDRESS = IPv4Address("192.0.2.100")
T = TypeVar("T")


def test_the_announcement_names_the_address_as_sender_and_target_in_both_forms() -> None:
    request, reply = gratuitous_arp_frames(MAC, ADDRESS)
    assert parse_arp(request) == ArpPacket(REQUEST, MAC, ADDRESS, bytes(6), ADDRESS)
    assert parse_arp(reply) == ArpPacket(REPLY, MAC, ADDRESS, BROADCAST_MAC, ADDRESS)
    for frame in (request, reply):
        assert frame[:14] == BROADCAST_MAC + MAC + ETH_P_ARP.to_bytes(2, "big")


def test_the_probe_teaches_no_neighbour() -> None:
    packet = parse_arp(arp_probe_frame(MAC, ADDRESS))
    assert packet == ArpPacket(REQUEST, MAC, IPv4Address("0.0.0.0"), bytes(6), ADDRESS)


def test_padding_is_ignored_and_anything_else_is_no_arp() -> None:
    frame = arp_probe_frame(MAC, ADDRESS)
    assert parse_arp(frame + bytes(18)) == parse_arp(frame)
    assert all(parse_arp(frame[:length]) is None for length in range(len(frame)))
    assert parse_arp(frame[:12] + b"\x08\x00" + frame[14:]) is None
    assert parse_arp(frame[:18] + b"\x08" + frame[19:]) is None


def test_an_absent_interface_is_transient() -> None:
    with ArpSender() as sender, pytest.raises(TransientError, match="egwt-none"):
        sender.send("egwt-none", b"")


@pytest.fixture
def segment() -> Iterator[str]:
    """A namespace with the two ends of a veth: `near` without the address, `far` (PEER_MAC) with it."""
    name = f"egwt-{os.getpid()}-arp"
    ip = ["ip", "-n", name]
    commands = [
        ["ip", "netns", "add", name],
        [
            *ip,
            "link",
            "add",
            "near",
            "address",
            MAC.hex(":"),
            "type",
            "veth",
            "peer",
            "far",
            "address",
            PEER_MAC.hex(":"),
        ],
        [*ip, "link", "set", "near", "up"],
        [*ip, "link", "set", "far", "up"],
        [*ip, "address", "add", f"{ADDRESS}/24", "dev", "far"],
    ]
    try:
        for command in commands:
            subprocess.run(command, check=True, capture_output=True, timeout=10)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True, timeout=10)


def inside(namespace: str, work: Callable[[], T]) -> T:
    """Run `work` in a thread of its own that has entered the namespace."""
    results: list[T | BaseException] = []

    def enter() -> None:
        try:
            with open(f"/run/netns/{namespace}") as handle:
                if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), 0x40000000):
                    raise OSError(ctypes.get_errno(), "setns")
            results.append(work())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(30)
    (result,) = results
    if isinstance(result, BaseException):
        raise result
    return result


def runner(loop: str) -> Callable[[Awaitable[T]], T]:
    def run(awaitable: Awaitable[T]) -> T:
        factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as loop_runner:

            async def scenario() -> T:
                return await awaitable

            return loop_runner.run(scenario())

    return run


@pytest.mark.root
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_probe_finds_who_has_the_address_and_nobody_for_a_free_one(segment: str, loop: str) -> None:
    run = runner(loop)
    assert inside(segment, lambda: run(probe("near", MAC, ADDRESS, timeout=5))) == PEER_MAC
    assert inside(segment, lambda: run(probe("near", MAC, ADDRESS + 1, timeout=0.1))) is None


@pytest.mark.root
def test_sent_frames_reach_the_segment_and_come_by_name_or_index(segment: str) -> None:
    def work() -> list[bytes]:
        with (
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP)) as listener,
            ArpSender() as sender,
        ):
            listener.bind(("far", ETH_P_ARP))
            listener.settimeout(5)
            request, reply = gratuitous_arp_frames(MAC, ADDRESS + 7)
            sender.send("near", request)
            sender.send(socket.if_nametoindex("near"), reply)
            heard: list[bytes] = []
            while len(heard) < 2:
                frame = listener.recv(128)
                if frame[:42] in (request, reply):
                    heard.append(frame[:42])
            assert heard == [request, reply]
            return heard

    assert len(inside(segment, work)) == 2


@pytest.mark.root
def test_an_interface_that_goes_down_or_away_is_transient_and_comes_back(segment: str) -> None:
    frame = arp_probe_frame(MAC, ADDRESS)

    def link(*arguments: str) -> None:
        subprocess.run(["ip", "link", *arguments], check=True, capture_output=True, timeout=10)

    def work() -> None:
        with ArpSender() as sender:
            sender.send("near", frame)
            link("set", "near", "down")
            with pytest.raises(TransientError, match="near"):
                sender.send("near", frame)
            link("set", "near", "up")
            sender.send("near", frame)
            index = socket.if_nametoindex("near")
            link("delete", "near")
            with pytest.raises(TransientError):
                sender.send("near", frame)
            with pytest.raises(TransientError):
                sender.send(index, frame)
            link("add", "near", "type", "veth", "peer", "name", "far")
            link("set", "near", "up")
            sender.send("near", frame)

    inside(segment, work)


@pytest.mark.root
def test_a_probe_on_a_dead_interface_is_transient(segment: str) -> None:
    def work() -> None:
        subprocess.run(["ip", "link", "set", "near", "down"], check=True, capture_output=True, timeout=10)
        with pytest.raises(TransientError):
            runner("uvloop")(probe("near", MAC, ADDRESS, timeout=1))

    inside(segment, work)


@contextmanager
def no_file_left() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.root
def test_a_probe_without_a_file_left_is_transient(segment: str) -> None:
    """A thousand at once used to take them all, and ended the task that asks."""

    async def ask() -> None:
        with no_file_left(), pytest.raises(TransientError, match="no file is left"):
            await probe("near", MAC, ADDRESS, timeout=1)

    inside(segment, lambda: runner("uvloop")(ask()))


@pytest.mark.root
def test_an_announcement_without_a_file_left_is_transient_and_the_next_is_sent(segment: str) -> None:
    def work() -> None:
        index = socket.if_nametoindex("near")
        request, _ = gratuitous_arp_frames(MAC, ADDRESS)
        with ArpSender() as sender:
            with no_file_left(), pytest.raises(TransientError, match="Too many open files"):
                sender.send(index, request)
            sender.send(index, request)

    inside(segment, work)
