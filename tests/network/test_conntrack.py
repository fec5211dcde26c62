"""Rule W10: connections of a pod whose selection changes are forgotten, all others stay."""

import socket
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from service.network import conntrack as conntrack_module
from service.network.conntrack import Conntrack, Flow, Networks, endpoints
from service.network.planting import Planted
from tests.network.namespace import Namespace, namespaces

CLUSTER = [IPv4Network("127.10.0.0/16"), IPv4Network("127.96.0.0/16")]
POD, NEIGHBOUR = "127.0.0.5", "127.0.0.6"


@pytest.fixture
def node() -> Iterator[Namespace]:
    with namespaces("c") as (node,):
        node.run(
            "nft -f -",
            """table ip test {
              chain out { type filter hook output priority 0; ct state new accept; }
              chain services { type nat hook output priority -100;
                ip daddr 127.96.0.1 dnat to 127.20.0.1
                ip daddr 127.96.0.2 dnat to 127.10.0.1
              }
            }""",
        )
        with node.entered():
            yield node


def open_flows(node: Namespace, source: str, destinations: list[tuple[str, int]]) -> None:
    with node.udp(source) as opened:
        for destination in destinations:
            try:
                opened.sendto(b"x", destination)
            except ConnectionRefusedError:
                opened.sendto(b"x", destination)


async def forget(conntrack: Conntrack, *pods: str) -> int:
    """Find and delete; how many."""
    found = await conntrack.find({IPv4Address(pod): Networks(()) for pod in pods}, Networks(CLUSTER))
    assert await conntrack.delete(found) == len(found)
    return len(found)


def tracked(node: Namespace) -> list[tuple[str, str]]:
    lines = [line.split() for line in node.run("conntrack -L -o extended").splitlines()]
    fields = [[word.removeprefix("src=").removeprefix("dst=") for word in line if "=" in word] for line in lines]
    return sorted((field[0], field[1]) for field in fields)


@pytest.mark.root
async def test_only_flows_of_the_pod_to_the_outside_are_forgotten(node: Namespace) -> None:
    open_flows(node, POD, [("127.20.0.9", 53), ("127.10.0.9", 53), ("127.96.0.1", 53), ("127.96.0.2", 53)])
    open_flows(node, NEIGHBOUR, [("127.20.0.9", 53)])
    async with Conntrack() as conntrack:
        assert await forget(conntrack, POD) == 2
    # The service with an endpoint outside went too: its destination after DNAT counts.
    assert tracked(node) == [(POD, "127.10.0.9"), (POD, "127.96.0.2"), (NEIGHBOUR, "127.20.0.9")]


@pytest.mark.root
async def test_tcp_and_icmp_are_forgotten_too(node: Namespace) -> None:
    node.run(f"ping -c1 -W1 -I {POD} 127.20.0.3")
    node.run("conntrack -I -p tcp --src 127.0.0.5 --dst 127.20.0.4 --sport 40000 --dport 9 --state ESTABLISHED -t 60")
    async with Conntrack() as conntrack:
        assert await forget(conntrack, POD) == 2
        assert await forget(conntrack, POD) == 0


@pytest.mark.root
async def test_both_ends_of_a_connection_are_known_as_its_packets_are_after_dnat(node: Namespace) -> None:
    node.run(f"ping -c1 -W1 -I {POD} 127.20.0.3")
    open_flows(node, POD, [("127.96.0.1", 53)])
    node.run("conntrack -I -p tcp --src 127.0.0.5 --dst 127.20.0.4 --sport 40000 --dport 9 --state ESTABLISHED -t 60")
    async with Conntrack() as conntrack:
        found = await conntrack.find({IPv4Address(POD): Networks(())}, Networks(CLUSTER))
    ends = {str(IPv4Address(flow.destination)): endpoints(flow) for flow in found}
    assert ends["127.20.0.4"] == (6, 40000, 9)
    service, echo = ends["127.20.0.1"], ends["127.20.0.3"]
    assert service is not None
    assert (service.protocol, service.remote_port) == (17, 53), "the endpoint, not the service"
    assert echo is not None
    assert (echo.protocol, echo.remote_port, echo.port > 0) == (1, 0, True), "its port is the id"


@pytest.mark.root
@pytest.mark.parametrize("entries_max", [0, 16_384], ids=["whole dump", "filtered by the kernel"])
async def test_d2_what_a_reply_to_the_pod_has_begun_is_the_pods_connection(
    node: Namespace, monkeypatch: pytest.MonkeyPatch, entries_max: int
) -> None:
    monkeypatch.setattr(conntrack_module, "_FILTERED_ENTRIES_MAX", entries_max)
    monkeypatch.setattr(conntrack_module, "_BUCKETS", "/nowhere")
    for destination, port, mark in ((POD, 53, 0x2000), (POD, 54, 0), (NEIGHBOUR, 53, 0x2000)):
        node.run(
            f"conntrack -I -p udp --src 127.20.0.9 --dst {destination} --sport {port} --dport 40000 -t 60 --mark {mark}"
        )
    async with Conntrack(connection_mark=0x2000) as conntrack:
        (found,) = await conntrack.find({IPv4Address(POD): Networks(())}, Networks(CLUSTER))
        assert (found.source, found.destination) == (int(IPv4Address(POD)), int(IPv4Address("127.20.0.9")))
        assert endpoints(found) == (17, 40000, 53)
        assert await conntrack.delete([found]) == 1
    assert len(tracked(node)) == 2


@pytest.mark.root
@pytest.mark.parametrize("protocol", [socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMP])
async def test_b3_a_connection_is_planted_as_the_pods_and_answered(node: Namespace, protocol: int) -> None:
    remote = "127.20.0.9"
    ports = (40000, 0 if protocol == socket.IPPROTO_ICMP else 443)
    planted = Planted(protocol, IPv4Address(POD).packed, IPv4Address(remote).packed, *ports)
    async with Conntrack() as conntrack:
        assert await conntrack.plant([planted]) == 1
        assert await conntrack.plant([planted]) == 0, "it is there"
        (found,) = await conntrack.find({IPv4Address(POD): Networks(())}, Networks(CLUSTER))
    assert endpoints(found) == (protocol, *ports)
    (line,) = node.run("conntrack -L -o extended").splitlines()
    assert f"src={POD} dst={remote}" in line
    assert "UNREPLIED" not in line
    assert ("ESTABLISHED" in line) == (protocol == socket.IPPROTO_TCP)


@pytest.mark.root
async def test_what_one_pod_keeps_is_not_kept_of_another(node: Namespace) -> None:
    for source in (POD, NEIGHBOUR):
        open_flows(node, source, [("127.20.0.9", 53), ("127.30.0.9", 53)])
    keep = Networks([IPv4Network("127.20.0.0/16")])
    async with Conntrack() as conntrack:
        found = await conntrack.find({IPv4Address(POD): keep, IPv4Address(NEIGHBOUR): Networks(())}, Networks(CLUSTER))
    assert sorted(str(IPv4Address(flow.source)) for flow in found) == [POD, NEIGHBOUR, NEIGHBOUR]


@pytest.mark.root
async def test_nothing_to_forget_is_no_error(node: Namespace) -> None:
    async with Conntrack() as conntrack:
        assert await forget(conntrack) == 0
        assert await forget(conntrack, "10.9.9.9") == 0


@pytest.mark.root
@pytest.mark.parametrize("pods", [1, 100])
async def test_ten_thousand_flows_are_forgotten_in_one_call(node: Namespace, pods: int) -> None:
    open_flows(node, POD, [(f"127.20.{high}.1", 1000 + low) for high in range(100) for low in range(100)])
    open_flows(node, NEIGHBOUR, [("127.20.0.9", 53)])
    others = [str(IPv4Address("127.200.0.0") + number) for number in range(pods - 1)]
    async with Conntrack() as conntrack:
        start = time.monotonic()
        assert await forget(conntrack, POD, *others) == 10_000
        took = time.monotonic() - start
    print(f"\n10,000 entries, {pods} pods: {took * 1000:.0f} ms")
    assert tracked(node) == [(NEIGHBOUR, "127.20.0.9")]


@pytest.mark.root
async def test_i3_a_large_table_is_not_searched_by_the_kernel_in_one_piece(
    node: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pod: IPv4Address, side: int, flag: int) -> bytes:
        raise AssertionError("the kernel is asked to filter")

    monkeypatch.setattr(conntrack_module, "_filter", refuse)
    monkeypatch.setattr(conntrack_module, "_BUCKETS", "/nowhere")
    open_flows(node, POD, [("127.20.0.9", 53), ("127.10.0.9", 53)])
    open_flows(node, NEIGHBOUR, [("127.20.0.9", 53)])
    async with Conntrack() as conntrack:
        with pytest.raises(AssertionError):
            await forget(conntrack, POD)
        monkeypatch.setattr(conntrack_module, "_FILTERED_ENTRIES_MAX", 2)
        assert await forget(conntrack, POD) == 1
        monkeypatch.setattr(conntrack_module, "_COUNT", "/nowhere")
        assert await forget(conntrack, NEIGHBOUR) == 1


@pytest.mark.root
async def test_a_small_table_is_walked_through_once_however_many_pods(
    node: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each walk is one through all buckets of the machine: a pod that comes waits for it."""
    walks: list[bytes] = []
    dump = conntrack_module._dump

    def note(connection: socket.socket, body: bytes, *rest: Any) -> Iterator[Flow]:
        walks.append(body)
        return dump(connection, body, *rest)

    monkeypatch.setattr(conntrack_module, "_dump", note)
    open_flows(node, POD, [("127.20.0.9", 53)])
    open_flows(node, NEIGHBOUR, [("127.20.0.9", 53)])
    async with Conntrack() as conntrack:
        pods = dict.fromkeys(map(IPv4Address, (POD, NEIGHBOUR)), Networks(()))
        assert len(await conntrack.find(pods, Networks(CLUSTER))) == 2
        assert walks == [b""]
        monkeypatch.setattr(conntrack_module, "_BUCKETS", "/nowhere")
        assert len(await conntrack.find(pods, Networks(CLUSTER))) == 2
    assert len(walks) == 5, "filtered: by source and by destination of each"


def test_membership_agrees_with_the_address_library() -> None:
    networks = [IPv4Network("10.0.0.0/8"), IPv4Network("10.1.0.0/16"), IPv4Network("192.168.1.128/25")]
    member = Networks(networks)
    for text in ("9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0", "192.168.1.127", "192.168.1.128"):
        address = IPv4Address(text)
        assert (int(address) in member) == any(address in network for network in networks)
    assert 5 not in Networks([])
