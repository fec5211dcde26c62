"""Questions over the data path go up to the agent, and leave to members alone (rules X1, H3)."""

from ipaddress import IPv4Address

import pytest

from service.datapath import layout
from service.datapath.layout import MapName
from service.model.drop import DropReason
from service.network.path_probe import PROBE_OUTSIDE, probe_frame
from tests.datapath import packet
from tests.datapath.node import (
    FLOATING_IP,
    HOLDER_MAC,
    MARK,
    NODE_A_MAC,
    OWN_ADDRESS,
    POD,
    SERVER,
    STRANGER_MAC,
    Node,
)
from tests.datapath.program import REDIRECT, SHOT, UNSPEC, UPLINK, UPLINK_2, Device, Outcome

pytestmark = pytest.mark.bpf

PORT = 9645
QUESTION, ANSWER = (FLOATING_IP, PROBE_OUTSIDE), (PROBE_OUTSIDE, FLOATING_IP)
Ends = tuple[IPv4Address, IPv4Address]


@pytest.fixture
def asking(pod_node: Node) -> Node:
    """Its agent asks and answers."""
    pod_node.map(MapName.PROBE_TARGET).update(bytes(4), layout.probe_target_value(OWN_ADDRESS, PORT))
    return pod_node


def arrive(node: Node, ends: Ends, *, source_mac: bytes = HOLDER_MAC, port: int = PORT) -> Outcome:
    return node.uplink_ingress(probe_frame((source_mac, UPLINK.mac), ends, port, 1, b"sealed"))


def leave(node: Node, ends: Ends, *, to: bytes = HOLDER_MAC, mark: int = MARK, device: Device = UPLINK) -> int:
    frame = probe_frame((UPLINK.mac, to), ends, PORT, 1, b"sealed")
    return node.programs.run("uplink_egress", frame, device=device, mark=mark).verdict


@pytest.mark.parametrize("ends", [QUESTION, ANSWER], ids=["question", "answer"])
@pytest.mark.parametrize("is_held", [True, False], ids=["held", "not-held"])
def test_x1_what_a_member_asks_and_answers_goes_up_from_the_floating_ip(
    asking: Node, ends: Ends, is_held: bool
) -> None:
    """To the agent's own address: no rp_filter objects, and no other way gives it that source."""
    if is_held:
        asking.hold()
    outcome = arrive(asking, ends)
    up = packet.read(outcome.frame).ip
    assert (outcome.verdict, up.source, up.destination) == (UNSPEC, FLOATING_IP, OWN_ADDRESS)
    assert (up.ports[1], up.payload) == (PORT, b"sealed")
    assert up.is_sound()
    assert asking.drops() == {}


@pytest.mark.parametrize("ends", [QUESTION, ANSWER], ids=["question", "answer"])
def test_x1_a_strangers_is_dropped_and_counted(asking: Node, ends: Ends) -> None:
    assert arrive(asking, ends, source_mac=STRANGER_MAC).verdict == SHOT
    assert asking.drops() == {(FLOATING_IP, DropReason.WRONG_NODE): 1}


@pytest.mark.parametrize("ends", [QUESTION, ANSWER], ids=["question", "answer"])
def test_x1_a_members_about_an_address_that_this_node_does_not_know_is_not_sent_on(asking: Node, ends: Ends) -> None:
    """The stack would route it to the outside; it is asked again. Of anybody else it is a packet like others."""
    asking.map(MapName.FLOATING_IPS).delete(FLOATING_IP.packed)
    assert arrive(asking, ends).verdict == SHOT
    assert arrive(asking, ends, source_mac=STRANGER_MAC).verdict == UNSPEC
    assert asking.drops() == {}


def test_x1_where_nothing_is_asked_they_are_packets_like_others(holder: Node) -> None:
    outcome = arrive(holder, QUESTION, source_mac=NODE_A_MAC)
    assert outcome.verdict == REDIRECT or holder.drops() == {(FLOATING_IP, DropReason.WRONG_BLOCK): 1}


@pytest.mark.parametrize(
    "ends",
    [(FLOATING_IP, SERVER), (SERVER, FLOATING_IP), (POD, PROBE_OUTSIDE)],
    ids=["to-a-server", "from-a-server", "of-a-pod"],
)
def test_x1_other_packets_to_that_port_do_not_go_up(asking: Node, ends: Ends) -> None:
    outcome = arrive(asking, ends)
    assert packet.read(outcome.frame).ip.destination != OWN_ADDRESS


def test_x1_another_port_does_not_go_up(asking: Node) -> None:
    assert packet.read(arrive(asking, QUESTION, port=PORT + 1).frame).ip.destination == PROBE_OUTSIDE


def test_h3_the_agents_question_leaves_to_a_member_that_does_not_hold_the_address(asking: Node) -> None:
    """The one that may hold it next is asked too; by the tunnel as well."""
    assert leave(asking, QUESTION, to=NODE_A_MAC) == UNSPEC
    asking.tunnel_way(IPv4Address("10.0.0.3"))
    assert leave(asking, QUESTION) == UNSPEC


def test_h3_to_nobody_else_nor_by_another_uplink_nor_unmarked(asking: Node) -> None:
    assert leave(asking, QUESTION, to=STRANGER_MAC) == SHOT
    assert leave(asking, QUESTION, to=NODE_A_MAC, device=UPLINK_2) == SHOT
    assert leave(asking, QUESTION, mark=0) == SHOT
    assert leave(asking, (FLOATING_IP, SERVER), to=NODE_A_MAC) == SHOT


@pytest.mark.parametrize("is_held", [True, False], ids=["held", "not-held"])
def test_x1_the_agents_answer_leaves(asking: Node, is_held: bool) -> None:
    if is_held:
        asking.hold()
    assert leave(asking, ANSWER, to=NODE_A_MAC) == UNSPEC
