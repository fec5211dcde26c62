"""What is told of a policy: Accepted, Ready, Overlapped."""

from ipaddress import IPv4Address
from typing import Any

import pytest

from service.gateway.exemption import Exempted
from service.policy.acceptance import PolicyState
from service.policy.overlap import NO_OVERLAP, Overlap
from service.report.absence import Absence
from service.report.policy import policy_status, refused_policy_status, shadow_message

IP = IPv4Address("192.168.1.100")
NOWHERE = Absence("NoEligibleNode", "none of the nodes can hold it")


def state(reason: str = "Accepted", *, overlap: Overlap = NO_OVERLAP) -> PolicyState:
    is_in_force = reason in ("Accepted", "UnknownEgressIP")
    return PolicyState(is_in_force, reason, "" if reason == "Accepted" else "why", 2, IP, overlap)


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {item["type"]: (item["status"], item["reason"]) for item in status["conditions"]}


def test_a_policy_whose_address_a_node_holds_is_ready() -> None:
    status = policy_status(state(), "worker1", None, "", "")
    assert conditions(status)["Ready"] == ("True", "Held")
    assert status["holder"] == "worker1"


def test_a_policy_whose_address_is_on_no_node_is_accepted_and_not_ready_and_says_why() -> None:
    status = policy_status(state(), None, NOWHERE, "", "")
    assert conditions(status)["Accepted"] == ("True", "Accepted")
    assert conditions(status)["Ready"] == ("False", "NoEligibleNode")
    assert status["conditions"][1]["message"] == "matching packets are dropped: none of the nodes can hold it"


@pytest.mark.parametrize("reason", ["UnknownEgressIP", "EgressIPConflict", "ClusterCIDRsUnknown"])
def test_a_policy_without_an_address_of_its_own_is_not_ready_though_a_node_holds_it(reason: str) -> None:
    status = policy_status(state(reason), "worker1", None, "", "")
    assert conditions(status)["Ready"] == ("False", reason)
    assert status["conditions"][1]["message"] == "why"


def test_who_decides_in_its_place_is_named_and_how_much() -> None:
    assert conditions(policy_status(state(), "worker1", None, "", ""))["Overlapped"] == ("False", "NoOverlap")
    partly = policy_status(state(overlap=Overlap(("a", "b"), has_more=True)), "worker1", None, "", "")
    assert conditions(partly)["Overlapped"] == ("True", "PartlyOverlapped")
    assert "some of its destinations: a, b and others;" in partly["conditions"][2]["message"]
    whole = state(overlap=Overlap(("a",), is_whole=True))
    assert conditions(policy_status(whole, "worker1", None, "", ""))["Overlapped"] == ("True", "Shadowed")
    assert "other policies decide for all of its destinations: a;" in shadow_message(whole.overlap)
    assert shadow_message(Overlap(("a",))) == shadow_message(NO_OVERLAP) == ""


@pytest.mark.parametrize(
    ("exempted", "status", "reason", "words"),
    [
        (Exempted(), "False", "NothingExempt", ""),
        (Exempted(("192.168.1.21/32 (node)",)), "True", "PartlyExempt", "these are exempt: 192.168.1.21/32 (node);"),
        (Exempted(("10.244.0.0/16 (pods)",), 2, is_whole=True), "True", "AllExempt", "(pods) and 2 more;"),
        (Exempted(is_whole=True), "True", "AllExcluded", "excludedCIDRs covers all"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_w12_what_is_never_steered_is_told_and_how_much(
    exempted: Exempted, status: str, reason: str, words: str
) -> None:
    found = policy_status(state(), "worker1", None, "", "", exempted)
    assert conditions(found)["Exempt"] == (status, reason)
    assert words in found["conditions"][3]["message"]


def test_of_a_refused_policy_nothing_is_overlapped_or_exempt() -> None:
    found = conditions(policy_status(state("EgressIPConflict"), None, NOWHERE, "", "", Exempted(is_whole=True)))
    assert not found.keys() & {"Overlapped", "Exempt"}


def test_a_policy_that_could_never_be_used_is_neither_accepted_nor_ready() -> None:
    found = conditions(refused_policy_status("spec: is wrong"))
    assert found == {"Accepted": ("False", "InvalidObject"), "Ready": ("False", "InvalidObject")}
