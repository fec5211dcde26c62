"""What remains of a status when nobody answers for it."""

from typing import Any

import pytest

from service.model.objects import Kind, Upsert
from service.model.validity import Loss, Validity
from service.report.objects import object_status
from service.report.unknown import is_unknown, unknown_status
from tests.policy.objects import policy
from tests.report.facts import FIRST, SECOND, two_held

VALIDITY = Validity("controller2", 7, "2024-01-01T00:00:00Z", Loss("MajorityLost", "no majority of electors answers"))
OTHER = Validity("controller2", 7, "2024-01-01T00:00:00Z", Loss("NoLeader", "no controller leads"))


def test_nothing_of_what_a_leader_writes_survives_but_in_words_of_the_past() -> None:
    """Whatever a status may say one day: only conditions are left, and none of them is True or False."""
    site = two_held()
    site.take(Upsert(policy("egress", ip=FIRST)))
    for key, status in object_status(site.facts()).items():
        found = unknown_status(key.kind, status, VALIDITY)
        assert list(found) == ["conditions"]
        assert {item["type"] for item in status["conditions"]} <= {item["type"] for item in found["conditions"]}
        assert {(item["status"], item["reason"]) for item in found["conditions"]} == {("Unknown", "MajorityLost")}
        assert is_unknown(found, VALIDITY)
        assert not is_unknown(status, VALIDITY)


def test_since_when_and_who_held_what_last_is_said() -> None:
    site = two_held()
    site.take(Upsert(policy("egress", ip=FIRST)))
    said = {key.kind: unknown_status(key.kind, status, VALIDITY) for key, status in object_status(site.facts()).items()}
    message = said[Kind.GATEWAY]["conditions"][0]["message"]
    assert message.startswith("not known since 2024-01-01T00:00:00Z: no majority of electors answers; last known: ")
    assert f"{FIRST} on worker1, {SECOND} on worker2" in message
    assert said[Kind.POLICY]["conditions"][0]["message"].endswith("last known: on worker1")
    # For another reason later: those words are kept.
    again = unknown_status(Kind.GATEWAY, said[Kind.GATEWAY], OTHER)["conditions"][0]
    assert again["message"].endswith(f"{FIRST} on worker1, {SECOND} on worker2")
    assert again["reason"] == "NoLeader"


def test_an_unknown_for_another_reason_is_not_the_same() -> None:
    found = unknown_status(Kind.GATEWAY, {}, VALIDITY)
    assert not is_unknown(found, OTHER)


@pytest.mark.parametrize(
    ("kind", "types"),
    [(Kind.GATEWAY, ["Ready"]), (Kind.POLICY, ["Accepted", "Ready"]), (Kind.NODE, ["Ready"])],
)
def test_an_object_that_nobody_has_reported_on_says_unknown_too(kind: Kind, types: list[str]) -> None:
    found = unknown_status(kind, {}, VALIDITY)
    assert [item["type"] for item in found["conditions"]] == types


@pytest.mark.parametrize("status", [{"conditions": 3}, {"conditions": [3, {}]}, {"floatingIPs": 1, "holder": 2}])
def test_a_status_that_somebody_else_has_spoilt_is_replaced_all_the_same(status: dict[str, Any]) -> None:
    for kind in (Kind.GATEWAY, Kind.POLICY):
        assert is_unknown(unknown_status(kind, status, VALIDITY), VALIDITY)
        assert not is_unknown(status, VALIDITY)


def test_many_addresses_are_cut_short() -> None:
    status = {"floatingIPs": {f"192.168.1.{index}": "worker1" for index in range(200)}}
    message = unknown_status(Kind.GATEWAY, status, VALIDITY)["conditions"][0]["message"]
    assert message.endswith("192.168.1.9 on worker1, ...")
