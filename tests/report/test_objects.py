"""The status of every object, and what is wrong as Events on the object whose owner can mend it."""

from typing import Any

from service.model.errors import ObjectError
from service.model.object_event import ObjectEvent
from service.model.objects import Delete, Errors, Kind, ObjectKey, Upsert
from service.report.objects import GATEWAY, object_problems, object_status
from tests.policy.objects import pod, policy
from tests.report.facts import FIRST, SECOND, Site, two_held

EGRESS = policy("egress").key


def problems(site: Site) -> dict[tuple[ObjectKey, str], ObjectEvent]:
    return {(event.regarding, event.reason): event for event in object_problems(site.facts())}


def status(site: Site, key: ObjectKey) -> dict[str, Any]:
    return object_status(site.facts())[key]


def test_every_policy_node_and_the_gateway_have_a_status() -> None:
    site = two_held()
    site.take(Upsert(policy("egress", ip=FIRST)))
    nodes = [ObjectKey(Kind.NODE, "kube-system", name) for name in ("worker1", "worker2")]
    assert set(object_status(site.facts())) == {EGRESS, GATEWAY, *nodes}
    assert not problems(site)


def test_the_status_of_a_policy_names_the_node_that_carries_its_traffic() -> None:
    site = two_held()
    site.take(Upsert(policy("egress", ip=FIRST)))
    assert status(site, EGRESS)["holder"] == "worker1"
    del site.held[FIRST]
    assert "holder" not in status(site, EGRESS)


def test_a_refused_policy_names_no_holder_though_the_address_has_one() -> None:
    site = two_held()
    site.take(Upsert(policy("egress", ip=FIRST)), Upsert(policy("younger", ip=FIRST, created="2030-01-01T00:00:00Z")))
    younger = policy("younger").key
    assert (younger, "EgressIPConflict") in problems(site)
    assert status(site, younger)["accepted"] is False
    assert "holder" not in status(site, younger)


def test_an_address_on_no_node_is_told_on_the_policy_and_on_the_gateway() -> None:
    site = two_held()
    del site.held[FIRST]
    site.place(FIRST, None, "no node has an interface in its subnet")
    site.take(Upsert(policy("egress", ip=FIRST)))
    assert set(problems(site)) == {(EGRESS, "UnknownEgressIP"), (GATEWAY, "NoEligibleNode")}
    found = status(site, EGRESS)
    assert (found["conditions"][0]["reason"], found["accepted"]) == ("UnknownEgressIP", True)


def test_a_policy_that_others_shadow_wholly_is_told_by_an_event_and_one_that_they_touch_is_not() -> None:
    site = two_held()
    site.take(Upsert(pod("web", "10.244.0.1")))
    site.take(Upsert(policy("egress", ip=FIRST)), Upsert(policy("wide", ip=SECOND, to=("8.0.0.0/8",))))
    assert status(site, policy("wide").key)["conditions"][2]["reason"] == "PartlyOverlapped"
    assert not problems(site)
    site.take(Upsert(policy("wide", ip=SECOND, to=("8.8.8.0/24",), created="2030-01-01T00:00:00Z")))
    assert status(site, policy("wide").key)["conditions"][2]["reason"] == "Shadowed"
    assert set(problems(site)) == {(policy("wide").key, "Shadowed")}
    site.take(Delete(EGRESS))
    assert not problems(site)


def test_w12_a_policy_that_names_what_is_never_steered_says_so_and_one_that_does_nothing_is_an_event() -> None:
    site = two_held()
    key = policy("egress").key

    def exempt(*destinations: str, excluded: tuple[str, ...] = ()) -> tuple[str, str]:
        site.take(Upsert(policy("egress", ip=FIRST, to=destinations, excluded=excluded)))
        found = status(site, key)["conditions"][3]
        return found["reason"], found["message"]

    assert exempt("192.168.1.50/32") == ("NothingExempt", "")
    reason, message = exempt("192.168.1.0/24")
    assert reason == "PartlyExempt"
    assert "192.168.1.1/32 (node), 192.168.1.2/32 (node), 192.168.1.100/32 (floating IP) and 1 more;" in message
    assert not problems(site)
    assert exempt("0.0.0.0/0") == ("NothingExempt", ""), "by that everybody means what is outside"
    assert exempt("192.168.1.0/24", excluded=("192.168.1.0/25",)) == ("NothingExempt", "")
    assert exempt("192.168.1.2/32")[0] == "AllExempt"
    assert set(problems(site)) == {(key, "AllExempt")}
    assert exempt("8.8.8.0/24", excluded=("8.8.8.0/25", "8.8.8.128/25"))[0] == "AllExcluded"
    assert set(problems(site)) == {(key, "AllExcluded")}


def test_removing_a_floating_ip_that_a_policy_uses_is_told_on_both() -> None:
    site = two_held()
    site.take(Upsert(policy("egress", ip=FIRST)))
    site.list_only(SECOND, "192.168.1.102")
    assert set(problems(site)) == {(EGRESS, "UnknownEgressIP"), (GATEWAY, "FloatingIPInUse")}


def test_an_object_of_the_api_server_that_cannot_be_used_is_told_with_its_field() -> None:
    site = two_held()
    bad = ObjectKey(Kind.POLICY, "", "bad")
    error = ObjectError("kubernetes", "EgressNATPolicy", "bad", "spec.egress[0]", "is wrong")
    site.take(Errors((error, ObjectError("/etc/file.yaml", "EgressNATPolicy", "other", "spec", "is wrong"))))
    assert status(site, bad)["conditions"][0]["message"] == "spec.egress[0]: is wrong"
    assert status(site, bad)["accepted"] is False
    assert set(problems(site)) == {(bad, "InvalidObject")}, "of a file the log tells"
    # Once a good version has been in force, it stays, and the status says so.
    site.take(Upsert(policy("bad", ip=FIRST)))
    assert [condition["type"] for condition in status(site, bad)["conditions"]] == [
        "Accepted",
        "Ready",
        "Overlapped",
        "Exempt",
        "Outdated",
    ]
    assert status(site, bad)["accepted"] is True


def test_a_gateway_that_could_never_be_used_is_not_left_with_what_was_said_of_its_namesake() -> None:
    site = two_held()
    site.take(Delete(GATEWAY))
    assert GATEWAY not in object_status(site.facts())
    site.take(Errors((ObjectError("kubernetes", "AnthosNetworkGateway", "kube-system/default", "spec", "is wrong"),)))
    (ready,) = status(site, GATEWAY)["conditions"]
    assert (ready["status"], ready["reason"], ready["message"]) == ("False", "InvalidObject", "spec: is wrong")


def test_a_gateway_that_cannot_be_used_is_told_on_itself() -> None:
    site = two_held()
    error = ObjectError("kubernetes", "AnthosNetworkGateway", "kube-system/default", "spec.floatingIPs", "is wrong")
    site.take(Errors((error,)))
    assert (GATEWAY, "InvalidObject") in problems(site)
    assert status(site, GATEWAY)["conditions"][-1]["type"] == "Outdated"
