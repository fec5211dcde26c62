"""What an agent says of its keeper and of drops; the shared parts are tested with `web.document`."""

import time
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from service.agent import status
from service.agent.port_blocks import refusals_by_address
from service.agent.status import drops_by_reason, keeper_status
from service.datapath.desired import LocalUplink
from service.datapath.hook_book import HookBook
from service.datapath.layout import MapName
from service.datapath.traffic import Account, Numbers
from service.host import clock
from service.model.assignment import Assignment, Location
from service.model.gateway_node import NodeRole
from service.model.keeper_message import ElectorateRecord, HeldLease, LeaseReport
from service.model.lease import Stamp, Token
from service.network.hook import HookKind
from tests.agent.site import FLOATING_IP, SECOND
from tests.agent.whole_agent import NODE, Site, free_ports, until
from tests.datapath.stand_in import UPLINK
from tests.datapath.test_flow_scan import entry

OWN, OTHER = IPv4Address("192.168.1.100"), IPv4Address("192.168.1.101")
POLICIES = {"all": {"accepted": True}, "idle": {"accepted": True}}


class Flows:
    """Of this node's pods: `all` has OWN."""

    traffic: ClassVar[dict[tuple[str, bytes], Account]] = {
        ("all", OWN.packed): Account(Numbers(7, 700, 5, 900, 3), Numbers(4, 400, 2, 300, 1)),
        ("", OTHER.packed): Account(Numbers(1, 40, 0, 0, 1)),
    }

    def policy_of(self, floating_ip: IPv4Address) -> str:
        return "all" if floating_ip == OWN else ""


LEASE = HeldLease(str(OWN), 1, 1, 1, deadline_ns=5_000_000_000)


def shown(
    report: LeaseReport | None,
    monkeypatch: pytest.MonkeyPatch,
    *,
    now_ns: int = 4_000_000_000,
    uplinks: Sequence[LocalUplink] = (UPLINK,),
    hooks: HookBook | None = None,
) -> dict[str, Any]:
    """The document of worker1, whose keeper last said that it holds OWN, and which heard of OTHER on worker2."""
    monkeypatch.setattr(
        status, "cluster_status", lambda *said: {"holders": said[2], "heard": said[3], "policies": POLICIES}
    )
    for name in ("objects_status", "audit_status"):
        monkeypatch.setattr(status, name, lambda *said: {})
    locations = {OWN: Location(OWN, "worker1", Token(1, 1, 1)), OTHER: Location(OTHER, "worker2", Token(1, 2, 1))}
    parts = SimpleNamespace(
        index=None,
        errors=(),
        locations=locations,
        steering=SimpleNamespace(phases=dict),
        drops=lambda: {("quota", str(OWN)): 4, ("quota", str(OTHER)): 5},
        flows=Flows(),
        pool=SimpleNamespace(fill=lambda: {"ways": (6, 1000)}),
        status=refusals_by_address,
        flow_status=lambda: {"total": 7},
        counters=dict,
        uplinks=uplinks,
        hooks=hooks or HookBook(),
    )
    some = cast(Any, parts)
    return status.agent_status(
        node="worker1",
        role=NodeRole.WORKER,
        cluster=some,
        intake=some,
        source=None,
        reconciler=some,
        datapath=some,
        held={OWN: LEASE},
        report=report,
        now_ns=now_ns,
        port_blocks=some,
        transports={},
        troubles=(),
        outbox=some,
        publisher=some,
    )


def test_an_uplink_without_carrier_is_told_while_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    (trouble,) = shown(None, monkeypatch, uplinks=(UPLINK, replace(UPLINK, name="eth1", carrier=False)))["troubles"]
    assert trouble == "uplink eth1 has no carrier: this node can hold no address of 192.168.1.0/24"
    assert shown(None, monkeypatch)["troubles"] == []


def test_each_policy_has_what_passed_by_it_here_and_the_drops_of_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    policies = shown(None, monkeypatch)["policies"]
    assert policies["idle"] == {"accepted": True, "traffic": {}}
    assert policies["all"]["traffic"] == {
        "192.168.1.100": {
            "packetsOut": 7,
            "bytesOut": 700,
            "packetsIn": 5,
            "bytesIn": 900,
            "flowsOpened": 3,
            "flows": 2,
            "drops": {"quota": 4},
        }
    }


def test_what_new_flows_are_refused_for_and_how_full_everything_is_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = shown(None, monkeypatch)
    assert found["portBlocks"] == {str(OWN): {"quota": 4}, str(OTHER): {"quota": 5}}
    assert found["flows"] == {"total": 7}
    assert found["maps"] == {"ways": {"entries": 6, "room": 1000}}


def said(*, majority: bool) -> LeaseReport:
    return LeaseReport(
        (LEASE,),
        elector=True,
        voting=True,
        scheduling="fifo",
        majority=majority,
        at_ns=4_000_000_000,
        silent=() if majority else (("worker2", 1_500_000_000),),
        electorate=ElectorateRecord(1, (("worker1", "10.0.0.1", 1), ("worker2", "10.0.0.2", 2))),
    )


def test_with_a_majority_the_last_word_on_each_address_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = shown(said(majority=True), monkeypatch)
    assert {str(address): by.node for address, by in found["holders"].items()} == {
        str(OWN): "worker1",
        str(OTHER): "worker2",
    }
    assert (found["electorate"]["majority"], found["electorate"]["silentSeconds"]) == (True, {})


def test_without_a_majority_nothing_is_vouched_for_but_what_the_own_keeper_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = shown(said(majority=False), monkeypatch)
    assert list(found["holders"]) == [OWN]
    assert found["heard"][OTHER].node == "worker2"
    assert (found["electorate"]["majority"], found["electorate"]["silentSeconds"]) == (False, {"worker2": 2.5})


def test_what_a_dead_keeper_held_ends_with_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(None, monkeypatch)["held"] == [str(OWN)]
    late = shown(None, monkeypatch, now_ns=5_000_000_000)
    assert (late["held"], late["holders"]) == ([], {})


def test_a_keeper_that_says_nothing_is_not_alive_and_nothing_is_claimed_of_it() -> None:
    assert keeper_status(None) == {
        "alive": False,
        "elector": None,
        "voting": None,
        "majority": None,
        "scheduling": None,
    }


def test_what_the_keeper_says_is_shown() -> None:
    said = keeper_status(LeaseReport(held=(), elector=True, voting=False, scheduling="nice", majority=True))
    assert said == {"alive": True, "elector": True, "voting": False, "majority": True, "scheduling": "nice"}


def test_the_kind_of_each_hook_is_told_and_which_device_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    book = HookBook()
    book.attached(2, "eth0", HookKind.TCX)
    book.refuse(3, "eth1", "no room")
    document = shown(None, monkeypatch, hooks=book)
    assert document["hooks"] == {"eth0": "tcx"}
    assert document["troubles"] == ["cannot attach to eth1: no room"]


def test_drops_are_summed_over_addresses() -> None:
    drops = {("no_gateway", "192.168.1.100"): 2, ("no_gateway", "192.168.1.101"): 3, ("fragment", ""): 1}
    assert drops_by_reason(drops) == {"no_gateway": 5, "fragment": 1}


async def test_an_agent_tells_which_electors_its_keeper_misses_and_vouches_for_other_nodes_no_more(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, 1, free_ports())
    record = ElectorateRecord(1, ((NODE, "127.0.0.1", 1), ("node2", "127.0.0.2", 2)))
    async with site.running() as agent:
        agent._hear_location(Location(FLOATING_IP, "node2", Token(1, 1, 9)))
        agent._cluster.publish_assignment(Assignment(FLOATING_IP, "node2", None, Stamp(1, 1), ""))
        for majority, holder in ((True, "node2"), (False, None)):
            now_ns = clock.boot_ns()
            silent = () if majority else (("node2", now_ns - 7 * SECOND),)
            said = LeaseReport((), True, True, "fifo", now_ns, electorate=record, majority=majority, silent=silent)
            site.keeper.send(said)
            await until(lambda said=said: agent._living_report() == said)
            row = agent.status()["floatingIPs"][str(FLOATING_IP)]
            assert (row["holder"], row["lastHeard"]) == (holder, "node2")
        assert agent.status()["electorate"]["silentSeconds"] == {"node2": 7.0}


async def test_an_agent_whose_keeper_is_gone_lets_go_of_what_has_run_out(tmp_path: Path) -> None:
    site = Site(tmp_path, 1, free_ports())
    lease = HeldLease(str(FLOATING_IP), 1, 1, 1, clock.boot_ns() + SECOND // 2)
    async with site.running() as agent:
        site.keeper.send(LeaseReport((lease,), elector=True, voting=True, scheduling="fifo"))
        await until(lambda: FLOATING_IP in agent._holdings.held)
        await until(lambda: not agent._holdings.held)
        assert not agent._keeper.is_keeper_alive


async def test_an_agent_tells_how_full_all_is_by_status_and_metrics(tmp_path: Path) -> None:
    site = Site(tmp_path, 1, free_ports())
    site.select()
    for port in (1030, 1031, 1100):
        key, value = entry(port=port, now_ns=time.monotonic_ns())
        site.datapath.maps[MapName.FLOWS_OPEN].update(key[:8] + port.to_bytes(2, "big") + key[10:], value)
    site.datapath.dropped = {("quota", str(FLOATING_IP)): 4, ("no_flow", str(FLOATING_IP)): 5}
    async with site.running() as agent:
        await until(lambda: agent.status()["flows"]["total"] == 3)
        await until(lambda: agent.status()["maps"])
        document = agent.status()
        assert document["flows"]["tables"]["open"] == {"rows": 3, "room": 1000}
        assert document["flows"]["busiestPod"] == {"pod": "10.0.0.1", "flows": 3, "quota": 32768}
        assert document["portBlocks"][str(FLOATING_IP)] == {
            "usableBlocks": 0,
            "knownBlocks": 0,
            "blocksInUse": 2,
            "portsInUse": 3,
            "busiest": {"remote": "203.0.113.7:443", "protocol": "tcp", "portsTaken": 3, "portsUsable": 0},
            "refused": {"quota": 4},
        }
        scraped = await site.metrics()
        for line in (
            'egressgw_ports_in_use{floating_ip="192.168.1.100"} 3.0',
            'egressgw_port_blocks_in_use{floating_ip="192.168.1.100"} 2.0',
            "egressgw_flows_of_busiest_pod 3.0",
            'egressgw_map_room{map="ways"} 65536.0',
            'egressgw_dropped_packets_total{floating_ip="192.168.1.100",reason="quota"} 4.0',
        ):
            assert line in scraped
