"""What a status document says is wrong."""

from typing import Any

import pytest

from service.web.verdict import troubles

HEALTHY: dict[str, Any] = {
    "leader": "controller-a",
    "troubles": [],
    "keeper": {"alive": True, "elector": False, "majority": True},
    "electorate": {"trouble": ""},
    "objects": {"synced": True, "trouble": "", "restoredFrom": None},
    "nodes": {"worker1": {"state": "Up"}},
    "floatingIPs": {"192.0.2.100": {"holder": "worker1", "assigned": "worker1", "reason": ""}},
    "policies": {"web": {"accepted": True, "reason": "Accepted", "message": ""}},
    "errors": [],
    "audit": {"healthy": True, "reason": "no brokers"},
}


def test_nothing_is_wrong_where_all_is_well() -> None:
    assert troubles(HEALTHY) == []


@pytest.mark.parametrize(
    ("section", "value", "told"),
    [
        ("troubles", ["task repair failed 2 times"], "task repair failed 2 times"),
        ("leader", None, "nobody leads"),
        ("keeper", {"alive": False}, "whether a majority of electors votes, and anybody leads, is not"),
        ("electorate", {"trouble": "worker3 has another disk"}, "electors: worker3 has another disk"),
        ("objects", {"synced": False}, "objects have not been read yet"),
        ("objects", {"synced": True, "restoredFrom": "03:12"}, "objects are as known at 03:12"),
        ("objects", {"synced": True, "trouble": "403"}, "objects: 403"),
        ("nodes", {"worker1": {"state": "Down"}}, "node worker1 is Down"),
        ("nodes", {"worker1": {"state": "Up", "ready": False}}, "node worker1 is not ready"),
        ("leaderState", "Down", "the leader controller-a cannot be reached, it is Down"),
        ("leaderState", "Left", "the leader controller-a cannot be reached, it is Left"),
        ("floatingIPs", {"192.0.2.101": {"holder": None, "reason": "NoNodeInSubnet"}}, "no node: NoNodeInSubnet"),
        ("floatingIPs", {"192.0.2.101": {"holder": None, "assigned": "worker1"}}, "worker1, which it is assigned to"),
        ("policies", {"web": {"accepted": False, "reason": "UnknownEgressIP"}}, "policy web is not in force: Unknown"),
        (
            "policies",
            {"web": {"accepted": True, "reason": "UnknownEgressIP", "message": "no gateway lists 192.0.2.9"}},
            "policy web: UnknownEgressIP: no gateway lists 192.0.2.9",
        ),
        ("errors", ["a.yaml: spec: wrong"], "object a.yaml: spec: wrong"),
        ("audit", {"healthy": False, "reason": "no space left"}, "audit: no space left"),
        ("audit", {"healthy": False}, "audit: not healthy"),
    ],
)
def test_each_thing_that_is_wrong_is_one_line(section: str, value: object, told: str) -> None:
    (trouble,) = troubles(HEALTHY | {section: value})
    assert told in trouble


def test_a_controller_that_leads_no_more_is_not_the_leader_that_gossip_still_names() -> None:
    own = HEALTHY | {"node": "controller-a", "leading": False}
    assert troubles(own) == [
        "nobody leads, controller-a does not any more: no address is assigned anew, and status in the cluster is not "
        "written"
    ]
    assert troubles(own | {"leading": True}) == []
    assert troubles(own | {"node": "controller-b"}) == []


def test_a_node_whose_keeper_sees_no_majority_says_so_without_knowing_who_is_silent() -> None:
    lines = troubles(HEALTHY | {"keeper": {"alive": True, "majority": False}})
    assert lines[0] == (
        "no majority of electors answers (who of them is silent is not known): no address can move, and what is held "
        "ends with its leases"
    )
    assert [line.split(";")[0] for line in lines[1:]] == ["nobody can lead without a majority"]


def test_a_controllers_document_which_has_no_keeper_can_be_healthy() -> None:
    assert troubles({key: value for key, value in HEALTHY.items() if key != "keeper"}) == []


@pytest.mark.parametrize("section", [key for key in HEALTHY if key != "leader"])
@pytest.mark.parametrize("value", [None, 3, "text", [], {}, {"x": None}, {"x": 3}])
def test_what_is_strange_is_passed_over(section: str, value: object) -> None:
    assert troubles(HEALTHY | {section: value}) == []
