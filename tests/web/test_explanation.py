"""Why an address is on no node, as a status document tells it."""

from typing import Any

import pytest

from service.web.explanation import absence, duration, explain
from service.web.verdict import troubles

IP = "192.0.2.100"
NODES = {
    "worker1": {"state": "Up", "ready": True, "schedulable": True, "segments": ["192.0.2.1/24"]},
    "worker2": {"state": "Down", "ready": True, "schedulable": False, "segments": ["192.0.2.2/24"]},
    "worker3": {"state": "Up", "ready": False, "schedulable": True, "segments": ["10.0.0.3/24"]},
}
HELD = {"holder": "worker1", "assigned": "worker1", "successor": None, "token": "4.1.2", "reason": ""}
NOBODY = HELD | {"holder": None, "token": None}
LOST = {"members": {"a": "10.0.0.1", "b": "10.0.0.2"}, "majority": False, "silentSeconds": {"a": 12.4, "b": 3725}}


def document(row: Any = NOBODY, **more: Any) -> dict[str, Any]:
    return {"leader": "c", "nodes": NODES, "floatingIPs": {IP: row}, "policies": {}} | more


def test_an_address_that_is_held_is_told_with_its_token() -> None:
    found = explain(document(HELD), IP)
    assert (found.is_held, found.verdict) == (True, f"{IP} is held by worker1, token 4.1.2")


def test_each_node_is_told_with_what_keeps_it_from_the_address() -> None:
    facts = dict(explain(document(), IP).facts)
    assert facts["node worker1"] == "can hold it"
    assert facts["node worker2"] == "Down, cordoned or draining"
    assert facts["node worker3"] == "not ready, no interface on its subnet"
    assert (facts["assigned to"], facts["successor"]) == ("worker1", "nobody")


def test_o2_a_node_that_was_drained_or_is_not_selected_is_told_as_such() -> None:
    nodes = {
        "worker1": NODES["worker1"] | {"schedulable": False, "drained": True, "selected": True},
        "worker2": NODES["worker1"] | {"drained": False, "selected": False},
    }
    facts = dict(explain(document(HELD | {"reason": "nobody else can"}, nodes=nodes), IP).facts)
    assert facts["node worker1"] == "drained (egressgw undrain ends that)"
    assert facts["node worker2"] == "not selected by spec.nodeSelector"
    assert facts["it stays there"] == "nobody else can"


def test_a_policy_that_uses_the_address_is_told() -> None:
    policies = {
        "web": {"accepted": True, "matchedPods": 3, "egressSourceIP": IP},
        "other": {"accepted": True, "matchedPods": 1, "egressSourceIP": "192.0.2.7"},
    }
    facts = dict(explain(document(policies=policies), IP).facts)
    assert facts["policy web"] == "in force, selects 3 pods"
    assert "policy other" not in facts


@pytest.mark.parametrize(
    ("row", "more", "told"),
    [
        ({"why": "nobody votes", "reason": "x"}, {}, "nobody votes"),
        ({"reason": "no node has an interface there"}, {}, "no node has an interface there"),
        ({"assigned": "worker1"}, {}, "worker1, which it is assigned to, does not say that it holds it"),
        ({"assigned": "worker2"}, {}, "worker2, which it is assigned to, is Down"),
        ({"assigned": "worker3"}, {}, "worker3, which it is assigned to, is not ready"),
        ({}, {}, "why is not known here; ask a controller"),
        ({"lastHeard": "worker1"}, {"electorate": LOST}, "no majority of electors answers"),
        ({"lastHeard": "worker2"}, {"keeper": {"alive": False}}, "keeper of this node does not report"),
    ],
)
def test_an_address_on_no_node_always_has_a_reason(row: dict[str, Any], more: dict[str, Any], told: str) -> None:
    found = explain(document(row, **more), IP)
    assert not found.is_held
    assert told in found.verdict
    if row.get("lastHeard"):
        assert f"last heard of on {row['lastHeard']}" in found.verdict


@pytest.mark.parametrize("row", [None, {}, 3, {"reason": None}, {"reason": "", "why": ""}, {"assigned": 7}])
def test_no_row_however_strange_leaves_the_reason_empty(row: Any) -> None:
    found = explain(document(row), IP)
    assert not found.is_held
    assert found.verdict[-1] not in " :?"
    assert absence({}, row if isinstance(row, dict) else {})


def test_an_address_that_is_none_of_the_gateways_is_told_so_with_those_that_are() -> None:
    assert explain(document(), "192.0.2.9").verdict == f"192.0.2.9 is no floating IP here: the gateway lists {IP}"


def test_a_lost_majority_is_told_with_who_is_silent_and_for_how_long() -> None:
    lines = troubles(document(electorate=LOST))
    assert lines[0].startswith("no majority of electors answers (a silent for 12 s, b silent for 1 h 2 min): ")
    assert any(line.startswith("nobody can lead without a majority") for line in lines)
    facts = dict(explain(document(electorate=LOST), IP).facts)
    assert (facts["elector a"], facts["elector b"]) == ("silent for 12 s", "silent for 1 h 2 min")


def test_a_single_elector_that_is_silent_is_told_while_a_majority_answers() -> None:
    electorate = {"members": {"a": "", "b": "", "c": ""}, "majority": True, "silentSeconds": {"b": 80.0}}
    assert troubles(document(HELD, nodes={}, electorate=electorate)) == [
        "elector b does not vote, silent for 1 min 20 s"
    ]


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.9, "59 s"), (60, "1 min 0 s"), (7300, "2 h 1 min")])
def test_spans_are_told_in_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
