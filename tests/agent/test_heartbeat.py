"""What the lease keeper is told, as a function of what the agent knows."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

from service.agent.heartbeat import claims_of, keeper_reasons, parts_of, unfit_reasons, unserved, uplinks_of
from service.datapath.desired import LocalUplink
from service.model.assignment import Assignment
from service.model.keeper_message import Heartbeat, LeaseReport
from service.model.lease import Stamp
from tests.agent.site import FLOATING_IP
from tests.datapath.stand_in import UPLINK

OTHER = IPv4Address("192.168.1.101")
ELSEWHERE = LocalUplink(3, "eth1", b"\2\0\0\0\0\2", IPv4Interface("172.30.1.21/24"), True)


def row(address: IPv4Address, holder: str | None, successor: str | None, version: int = 1) -> Assignment:
    return Assignment(address, holder, successor, Stamp(4, version))


TABLE = {
    FLOATING_IP: row(FLOATING_IP, "worker1", "worker2"),
    OTHER: row(OTHER, "worker2", "worker1", 2),
    IPv4Address("192.168.1.102"): row(IPv4Address("192.168.1.102"), "worker2", None),
}


def heartbeat(node: str = "worker1", *, uplinks: tuple[LocalUplink, ...] = (UPLINK,)) -> Heartbeat:
    return Heartbeat(True, uplinks_of(TABLE, uplinks), tuple(claims_of(parts_of(node, TABLE)).values()))


def test_a_node_claims_what_it_is_holder_or_successor_of_under_the_stamp_of_its_row() -> None:
    claims = [(claim.floating_ip, claim.role, claim.term, claim.version) for claim in heartbeat().claims]
    assert claims == [("192.168.1.100", "holder", 4, 1), ("192.168.1.101", "successor", 4, 2)]
    assert [claim.role for claim in heartbeat("worker2").claims] == ["successor", "holder", "holder"]
    assert heartbeat("worker9").claims == ()


def test_every_address_is_told_with_each_uplink_of_its_segment_also_one_without_carrier() -> None:
    dead = replace(UPLINK, ifindex=4, name="eth2", carrier=False)
    told = heartbeat("worker9", uplinks=(UPLINK, ELSEWHERE, dead)).uplinks
    assert {uplink.floating_ip for uplink in told} == set(map(str, TABLE))
    assert [(uplink.ifname, uplink.carrier) for uplink in told][:2] == [("eth0", True), ("eth2", False)]
    assert "eth1" not in {uplink.ifname for uplink in told}


def test_a_node_without_uplinks_says_so_and_claims_on() -> None:
    # The keeper lets go by itself where an address has no uplink (S5); what is claimed is the leader's word.
    assert heartbeat(uplinks=()).uplinks == ()
    assert len(heartbeat(uplinks=()).claims) == 2


def test_a_node_is_fit_with_objects_a_keeper_and_a_carrier() -> None:
    assert unfit_reasons(is_synced=True, is_keeper_alive=True, uplinks=(UPLINK,)) == []
    without = (replace(UPLINK, carrier=False),)
    assert len(unfit_reasons(is_synced=False, is_keeper_alive=False, uplinks=without)) == 3
    assert unfit_reasons(is_synced=True, is_keeper_alive=True, uplinks=()) == ["no uplink has a carrier"]


def test_a_silent_elector_or_a_lost_majority_keeps_other_nodes_from_being_restarted() -> None:
    well = LeaseReport(held=(), elector=True, voting=True, scheduling="fifo", majority=True)
    assert keeper_reasons(well) == keeper_reasons(None) == []
    silent = LeaseReport(held=(), elector=True, voting=False, scheduling="fifo", majority=True)
    assert "silent for the longest lease" in keeper_reasons(silent)[0]
    alone = LeaseReport(held=(), elector=False, voting=False, scheduling="fifo", majority=False)
    assert keeper_reasons(alone) == ["the lease keeper sees no majority of electors"]


def test_a_members_own_address_has_no_uplink_that_serves_it() -> None:
    told = unserved((FLOATING_IP,))
    assert [(uplink.floating_ip, uplink.carrier) for uplink in told] == [(str(FLOATING_IP), False)]
