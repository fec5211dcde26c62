"""Two gateway nodes and a witness, without an API server: the third vote makes one of them enough."""

import time
from collections.abc import Iterator

import pytest

from service.lab.fault import Fault
from service.lab.lab import lab_down, lab_up
from service.lab.plan import WITNESS, LabOptions
from service.lab.status import fetch_json
from tests.e2e.conftest import new_name
from tests.e2e.site import FLOATING_IPS, Site, gateway, policy

FIRST = FLOATING_IPS[0]
PODS = {"control1": "alice/frontend-control1", "worker1": "alice/frontend-worker1"}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    name = new_name()
    try:
        site = Site(lab_up(LabOptions(name=name, nodes=2, witness=True)))
        site.apply("gateway.yaml", gateway(FIRST))
        site.apply("alice.yaml", policy("alice", FIRST, user="alice"))
        site.wait_held(FIRST)
        for pod in PODS.values():
            site.wait_seen(pod, FIRST)
        yield site
    finally:
        lab_down(name)


def test_a_holder_that_loses_power_is_succeeded_by_the_other_node(site: Site) -> None:
    holder = site.holder(FIRST)
    assert holder is not None
    other = next(name for name in PODS if name != holder)
    with site.stream(PODS[other]) as stream:
        time.sleep(1)
        site.fault(holder, Fault.CUT, Fault.KILL)
        try:
            site.wait(f"{other} to hold it", lambda: site.holder(FIRST, asked=other) == other)
            time.sleep(1)
            report = stream.report()
        finally:
            site.fault(holder, Fault.HEAL, Fault.RESTART)
    assert set(report["sources"]) == {FIRST}
    assert report["gap_max_ms"] < 5000
    site.wait_seen(PODS[holder], FIRST)


def test_without_the_witness_the_two_nodes_go_on_and_say_who_is_missing(site: Site) -> None:
    site.wait_whole()
    holder = site.holder(FIRST)
    site.fault(WITNESS, Fault.KILL)
    try:
        site.wait(
            "its absence to be told",
            lambda: WITNESS in site.status("worker1").get("electorate", {}).get("silentSeconds", {}),
        )
        assert site.seen(PODS["worker1"]) == FIRST
        assert site.holder(FIRST) == holder
    finally:
        site.fault(WITNESS, Fault.RESTART)
    site.wait(
        "it to vote again",
        lambda: WITNESS not in site.status("worker1").get("electorate", {}).get("silentSeconds", {}),
    )


def test_the_witness_says_of_itself_that_it_votes(site: Site) -> None:
    witness = site.lab.plan.witness
    assert witness is not None
    document = fetch_json(witness.netns, str(witness.ip), "/v1/status")
    assert (document["role"], document["electorate"]["votes"], document["troubles"]) == ("witness", True, [])
