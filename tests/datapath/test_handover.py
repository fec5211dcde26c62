"""R4: an address that moves on purpose loses no packet, either way, and nobody but its holder speaks for it."""

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from service.datapath.handover import HandoverDevice
from service.datapath.handover_row import handover_device_value, parse_handover
from service.datapath.hook_book import HookBook
from service.datapath.layout import BlockKind, MapName, WayKind
from service.datapath.loader import LoadedDatapath
from service.keeper.handover import HANDOVER_NS, handover_frame
from service.model.drop import DropReason
from service.model.errors import OperatorError
from service.model.lease import Token
from service.network.arp import gratuitous_arp_frames
from service.network.handover_device import HANDOVER_DEVICE
from service.network.hook import HookKind
from service.network.netlink import Netlink
from tests.datapath import packet
from tests.datapath.conversation import exchange, put, talking
from tests.datapath.node import (
    FLOATING_IP,
    HOLDER_MAC,
    NODE_A_MAC,
    SERVER,
    TCP_FLOW,
    TOKEN,
    UDP_FLOW,
    Node,
)
from tests.datapath.program import REDIRECT, SHOT, UNSPEC, UPLINK, UPLINK_2
from tests.datapath.segment import BLOCKS, Segment, build, uplink
from tests.datapath.test_uplink_arp import who_has

pytestmark = [pytest.mark.bpf, pytest.mark.root]

LONG_S = 5.0
"""How long a handover lasts in a test that is about what waits: the product gives it a tenth of a second."""
NEXT = TOKEN + 1
"""The tenure of the successor."""


# ---- who hears of it ----


def notice(sender_mac: bytes = HOLDER_MAC, token: int = TOKEN) -> bytes:
    return handover_frame(sender_mac, FLOATING_IP, Token.unpacked(token))


def heard(node: Node) -> int | None:
    value = node.map(MapName.HANDOVERS).lookup(FLOATING_IP.packed)
    return parse_handover(value)[0] if value is not None else None


def test_r4_a_node_hears_from_the_holder_that_it_lets_go(pod_node: Node) -> None:
    assert pod_node.uplink_ingress(notice()).verdict == SHOT
    assert heard(pod_node) == TOKEN


@pytest.mark.parametrize(
    "frame", [notice(NODE_A_MAC), notice(token=TOKEN + 1)], ids=["another member", "another token"]
)
def test_nobody_else_is_believed_and_no_other_tenure(pod_node: Node, frame: bytes) -> None:
    assert pod_node.uplink_ingress(frame).verdict == SHOT
    assert heard(pod_node) is None


def test_what_is_no_notice_is_left_to_others(pod_node: Node) -> None:
    frame = notice().replace(bytes.fromhex("45474831"), bytes(4))
    assert pod_node.uplink_ingress(frame).verdict == UNSPEC


def test_a_tenure_ends_once(pod_node: Node) -> None:
    """Whoever repeats the frame makes nothing wait for longer."""
    pod_node.hand_over(age_s=60)
    before = pod_node.map(MapName.HANDOVERS).lookup(FLOATING_IP.packed)
    pod_node.uplink_ingress(notice())
    assert pod_node.map(MapName.HANDOVERS).lookup(FLOATING_IP.packed) == before


def test_the_holder_itself_heeds_no_such_frame(own_holder: Node) -> None:
    own_holder.uplink_ingress(notice())
    assert heard(own_holder) is None


# ---- what a pod sends ----


def give_device(node: Node) -> None:
    """One at which packets can wait."""
    node.map(MapName.HANDOVER_DEVICE).update(bytes(4), handover_device_value(UPLINK_2.ifindex, UPLINK_2.mac))


def test_r4_packets_wait_while_the_address_is_handed_over_and_no_longer(pod_node: Node) -> None:
    give_device(pod_node)
    pod_node.hand_over()
    assert pod_node.send(UDP_FLOW).verdict == REDIRECT
    assert pod_node.counters().get("waited") == 1
    assert "steered" not in pod_node.counters()
    pod_node.hand_over(age_s=HANDOVER_NS / 1e9 + 0.001)
    pod_node.send(UDP_FLOW)
    assert (pod_node.counters()["waited"], pod_node.counters()["steered"]) == (1, 1)


def test_nothing_waits_for_an_address_whose_way_is_a_newer_one(pod_node: Node) -> None:
    give_device(pod_node)
    pod_node.hand_over(token=TOKEN - 1)
    pod_node.send(UDP_FLOW)
    assert pod_node.counters()["steered"] == 1


def test_without_a_device_packets_go_to_the_former_holder_as_before(pod_node: Node) -> None:
    pod_node.hand_over()
    assert pod_node.send(UDP_FLOW).verdict == REDIRECT
    assert pod_node.counters()["steered"] == 1


def test_w2_the_pods_of_a_holder_go_by_itself_before_its_agent_has_said_so(pod_node: Node) -> None:
    """What the fence knows needs no word: the way in the map is the former holder's yet."""
    pod_node.hold(token=NEXT)
    assert packet.read(pod_node.send(UDP_FLOW).frame).destination == UPLINK.mac


def test_l1_the_pods_of_a_holder_send_nothing_from_an_address_that_is_listed_no_more(pod_node: Node) -> None:
    pod_node.hold(token=NEXT)
    pod_node.map(MapName.WAYS).delete(FLOATING_IP.packed)
    assert pod_node.send(UDP_FLOW).verdict == SHOT
    assert pod_node.drops() == {(FLOATING_IP, DropReason.NO_GATEWAY): 1}


# ---- what comes from outside ----


@pytest.fixture
def former_holder(holder: Node) -> Node:
    holder.release()
    holder.hand_over()
    return holder


@pytest.mark.parametrize("flow", [TCP_FLOW, UDP_FLOW], ids=["TCP", "UDP"])
def test_r4_what_still_comes_to_the_former_holder_goes_on_to_the_node_of_its_block(holder: Node, flow: Any) -> None:
    holder.release()
    holder.hand_over()
    outcome = holder.come_back(flow, flags=packet.ACK)
    assert outcome.verdict == REDIRECT
    assert packet.read(outcome.frame).destination == NODE_A_MAC


@pytest.mark.parametrize("flow", [TCP_FLOW, UDP_FLOW], ids=["TCP", "UDP"])
def test_r4_it_reaches_the_pods_of_the_successor_before_its_agent_has_vouched(pod_node: Node, flow: Any) -> None:
    port = pod_node.sent_port(flow)
    pod_node.hold(token=NEXT)
    pod_node.trust()
    assert pod_node.answer(flow, port).verdict == REDIRECT
    assert pod_node.come_back(flow, port).verdict == SHOT, "from outside only once it has"


def test_it_is_handed_on_for_a_while_and_under_the_tenure_that_ended_alone(former_holder: Node) -> None:
    for change in (
        lambda: former_holder.hand_over(age_s=1.6),
        lambda: (former_holder.hand_over(), former_holder.trust(token=TOKEN + 1)),
    ):
        change()
        assert former_holder.come_back(UDP_FLOW).verdict == SHOT
    assert former_holder.drops() == {(FLOATING_IP, DropReason.LEASE_EXPIRED_INGRESS): 2}


def test_a_lease_that_was_lost_hands_nothing_on(holder: Node) -> None:
    holder.release()
    assert holder.come_back(UDP_FLOW).verdict == SHOT


def test_the_former_holder_says_nothing_in_its_name(former_holder: Node) -> None:
    """Neither ARP, nor ping, nor what members send."""
    assert former_holder.uplink_ingress(who_has()).verdict == SHOT
    echo = packet.ipv4(SERVER, FLOATING_IP, packet.ICMP, packet.echo(packet.ECHO_REQUEST, 1))
    asked = packet.ethernet(packet.read(who_has()).destination, HOLDER_MAC, packet.IPV4, echo)
    assert former_holder.uplink_ingress(asked).verdict != REDIRECT
    assert former_holder.forward(UDP_FLOW).verdict == SHOT


def test_a_new_tenure_here_does_not_count_the_rows_of_the_one_before(former_holder: Node) -> None:
    """R3."""
    former_holder.hold()
    former_holder.trust(token=TOKEN - 1)
    former_holder.hand_over(token=TOKEN - 1)
    assert former_holder.come_back(UDP_FLOW).verdict == SHOT


# ---- between real stacks ----


@pytest.fixture(scope="module")
def segment(bpffs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segment]:
    with build(bpffs, tmp_path_factory.mktemp("handover")) as built:
        built.places["a"].command(f"sysctl -q -w net.ipv4.neigh.{HANDOVER_DEVICE}.mcast_solicit=200")
        yield built


@pytest.fixture(params=["policy path", "direct path"])
def held(segment: Segment, request: pytest.FixtureRequest) -> Iterator[Segment]:
    segment.allow_direct(request.param == "direct path")
    for node in segment.nodes.values():
        for name in (MapName.HANDOVERS, MapName.WAY_HINTS):
            node.map(name).delete(FLOATING_IP.packed)
    # Each tenure has a neighbour of its own, and all of these are the same one.
    segment.places["a"].command(f"ip link set {HANDOVER_DEVICE} down")
    segment.places["a"].command(f"ip link set {HANDOVER_DEVICE} up")
    segment.hold("b")
    yield segment
    segment.nodes["a"].map(MapName.HANDOVERS).delete(FLOATING_IP.packed)
    assert segment.leaks() == {}


def silent(server: socket.socket) -> bool:
    server.settimeout(0.05)
    try:
        server.recv(100)
    except TimeoutError:
        return True
    return False


def announce(segment: Segment, name: str) -> None:
    for frame in gratuitous_arp_frames(uplink(name).mac, FLOATING_IP):
        put(segment, name, "eth0", frame)


def let_go(segment: Segment) -> None:
    """B has said so to A, and closes its fence."""
    segment.nodes["a"].hand_over(age_s=-LONG_S)
    # As where A hears it: no verdict of before is in force.
    segment.lead("b")
    segment.nodes["b"].release()


def taken(server: socket.socket, count: int) -> list[bytes]:
    server.settimeout(2)
    return [server.recv(100) for _ in range(count)]


SAID = [b"%d" % number for number in range(40)]


def test_what_a_pod_sends_meanwhile_comes_by_the_successor_whole_and_in_order(held: Segment) -> None:
    with talking(held) as (client, server):
        assert exchange(client, server, 3) == 3
        let_go(held)
        for said in SAID:
            client.send(said)
        assert silent(server)
        held.move_lease("c", NEXT)
        announce(held, "c")
        assert taken(server, len(SAID)) == SAID
        held.lead("c")
        assert exchange(client, server, 3) == 3


def test_it_goes_on_where_the_word_of_the_successor_comes_by_gossip(held: Segment) -> None:
    """Its gratuitous ARP was lost: the kernel asks again within ten milliseconds."""
    with talking(held) as (client, server):
        assert exchange(client, server, 3) == 3
        let_go(held)
        for said in SAID:
            client.send(said)
        held.move_lease("c", NEXT)
        held.nodes["a"].way(WayKind.L2, gateway_mac=uplink("c").mac, token=NEXT, device=uplink("a"))
        assert taken(server, len(SAID)) == SAID


def test_the_pods_of_the_successor_wait_for_it_too(held: Segment) -> None:
    """Also before its agent has written where the address is."""
    with talking(held) as (client, server):
        assert exchange(client, server, 3) == 3
        let_go(held)
        for said in SAID:
            client.send(said)
        held.nodes["a"].assign(BLOCKS, kind=BlockKind.LOCAL, member=0)
        held.move_lease("a", NEXT)
        assert taken(server, len(SAID)) == SAID


def test_the_pods_of_the_successor_wait_until_its_agent_has_vouched_for_whose_ports_are_whose(
    held: Segment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3: it would drop what it takes before."""
    a = held.nodes["a"]
    with talking(held) as (client, server):
        assert exchange(client, server, 3) == 3
        let_go(held)
        for said in SAID:
            client.send(said)
        a.assign(BLOCKS, kind=BlockKind.LOCAL, member=0)
        with monkeypatch.context() as patch:
            patch.setattr(Node, "trust", lambda *_, **__: None)
            held.move_lease("a", NEXT)
        assert silent(server)
        a.trust(token=NEXT)
        assert taken(server, len(SAID)) == SAID


def test_the_pods_of_the_former_holder_wait_too(held: Segment) -> None:
    with talking(held) as (client, server):
        held.hold("a")
        assert exchange(client, server, 3) == 3
        held.nodes["a"].hand_over(age_s=-LONG_S)
        # Until the fence is closed it speaks, and what its pods send by then must not let through what they send after.
        assert exchange(client, server, 3) == 3
        held.nodes["a"].release()
        for said in SAID:
            client.send(said)
        assert silent(server)
        held.move_lease("c", NEXT)
        held.nodes["a"].release()
        announce(held, "c")
        assert taken(server, len(SAID)) == SAID


def test_where_nobody_succeeds_what_waits_ends_and_leaks_nowhere(held: Segment) -> None:
    a = held.places["a"]
    a.command(f"sysctl -q -w net.ipv4.neigh.{HANDOVER_DEVICE}.mcast_solicit=3")
    try:
        with talking(held) as (client, server):
            assert exchange(client, server, 3) == 3
            let_go(held)
            client.send(b"lost")
            time.sleep(0.2)
            held.move_lease("c", NEXT)
            announce(held, "c")
            assert silent(server)
    finally:
        a.command(f"sysctl -q -w net.ipv4.neigh.{HANDOVER_DEVICE}.mcast_solicit=200")


def test_the_frame_of_the_holder_makes_pods_of_other_nodes_wait(held: Segment) -> None:
    put(held, "b", "eth0", handover_frame(uplink("b").mac, FLOATING_IP, Token.unpacked(TOKEN)))
    time.sleep(0.05)
    row = held.nodes["a"].map(MapName.HANDOVERS).lookup(FLOATING_IP.packed)
    assert row is not None
    assert parse_handover(row)[0] == TOKEN


# ---- the device ----


class Kernel:
    """A device that is made anew each time that it was lost."""

    def __init__(self) -> None:
        self.index, self.programs, self.refuses = 5, 0, ""

    async def ensure_handover_device(self) -> SimpleNamespace:
        if self.refuses:
            raise OperatorError(self.refuses)
        return SimpleNamespace(index=self.index, mac=b"\2\0\0\0\0\5")

    async def attached(self, index: int) -> tuple[str, ...]:
        return ("egress",) * self.programs

    async def attach(self, *arguments: object) -> HookKind:
        self.programs = 1
        return HookKind.TCX


def test_the_map_names_the_device_once_its_program_is_there_and_again_when_it_is_another() -> None:
    kernel, rows = Kernel(), []
    written = SimpleNamespace(update=lambda key, value: rows.append((kernel.programs, value[0])))
    loaded = cast(LoadedDatapath, SimpleNamespace(programs={"handover_egress": 3}, map=lambda name: written))
    device = HandoverDevice(HookBook())
    for _ in range(2):
        asyncio.run(device.ensure(cast(Netlink, kernel), loaded))
    kernel.index, kernel.programs = 6, 0
    asyncio.run(device.ensure(cast(Netlink, kernel), loaded))
    assert rows == [(1, 5), (1, 6)]


def test_where_there_is_no_device_the_trouble_is_told_and_is_over_with_it() -> None:
    kernel = Kernel()
    kernel.refuses = "interface egw1 exists and is not ours (dummy); rename it"
    written = SimpleNamespace(update=lambda key, value: None)
    loaded = cast(LoadedDatapath, SimpleNamespace(programs={"handover_egress": 3}, map=lambda name: written))
    device = HandoverDevice(HookBook())
    asyncio.run(device.ensure(cast(Netlink, kernel), loaded))
    assert "egw1" in device.trouble
    kernel.refuses = ""
    asyncio.run(device.ensure(cast(Netlink, kernel), loaded))
    assert device.trouble == ""
