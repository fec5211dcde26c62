"""Status of our objects: applied under a term, and what happens where the API server refuses it."""

from typing import Any

import pytest

from service.model.errors import TransientError
from service.model.objects import Kind, ObjectKey
from service.model.validity import WrittenStatus
from service.sources.kubernetes.api_object import ApiObject
from service.sources.kubernetes.ledger import ObjectLedger
from service.sources.kubernetes.resource import Difference
from service.sources.kubernetes.status import StatusApplier
from tests.sources.kubernetes.scripted_api import ScriptedApi, own, refused

POLICY = ObjectKey(Kind.POLICY, "", "egress")
NODE = ObjectKey(Kind.NODE, "kube-system", "worker1")
POLICY_PATH = "/apis/networking.gke.io/v1alpha1/egressnatpolicies/egress"
NODE_PATH = "/apis/networking.gke.io/v1alpha1/namespaces/kube-system/anthosnetworkgatewaynodes/worker1"
APPLY = {"fieldManager": "egressgw-controller", "force": "true"}
SECOND_NS = 1_000_000_000
STALE = refused(422, "status.leaderTerm: Invalid value: a newer leader has written")


class Site:
    """One API server, what is known of it, and a clock."""

    def __init__(self, *answers: Any, known: ApiObject | None = None) -> None:
        self.api = ScriptedApi(*answers)
        self.ledger = ObjectLedger([Kind.POLICY, Kind.NODE])
        if known is not None:
            self.ledger.take(known.key.kind, Difference((known,)))
        self.now_ns = 0
        self.status = StatusApplier(self.api, self.ledger, clock=lambda: self.now_ns, wall_clock=lambda: 0)

    async def write(self, key: ObjectKey = POLICY, *, term: int = 7) -> None:
        await self.status.write(key, {"accepted": True}, term=term)

    @property
    def paths(self) -> list[tuple[str, str]]:
        return [(request.verb, request.path) for request in self.api.requests]


async def test_a_status_is_applied_with_term_and_generation_to_that_very_object() -> None:
    site = Site(known=own(Kind.POLICY, "egress"))
    await site.write()
    (request,) = site.api.requests
    assert (request.path, request.query) == (f"{POLICY_PATH}/status", APPLY)
    assert request.content_type == "application/apply-patch+yaml"
    assert request.body["metadata"] == {"name": "egress", "uid": "uid-egress"}
    expected = {"accepted": True, "leaderTerm": 7, "observedGeneration": 4, "conditions": []}
    assert request.body["status"] == expected


async def test_what_was_written_is_known_before_the_watch_brings_it() -> None:
    site = Site(known=own(Kind.POLICY, "egress"))
    await site.write()
    live = site.ledger.seen(POLICY)
    assert live is not None
    assert live.status["leaderTerm"] == 7


async def test_an_object_that_is_gone_needs_no_status() -> None:
    site = Site(refused(404), known=own(Kind.POLICY, "egress"))
    await site.write()
    assert site.paths == [("patch", f"{POLICY_PATH}/status")]
    site = Site()
    await site.write()
    assert site.paths == []


async def test_a_nodes_object_is_made_where_it_is_missing() -> None:
    site = Site(refused(404), known=own(Kind.NODE, "worker1", "kube-system"))
    await site.write(NODE)
    assert site.paths == [("patch", f"{NODE_PATH}/status"), ("patch", NODE_PATH), ("patch", f"{NODE_PATH}/status")]
    first, made, again = (request.body for request in site.api.requests)
    assert first["metadata"]["uid"] == "uid-worker1"
    assert "status" not in made
    # Made anew, it has another uid than the one that was known.
    assert "uid" not in again["metadata"]
    assert again["status"] == first["status"]


async def test_a_nodes_object_that_was_never_seen_is_made_too() -> None:
    site = Site(refused(404))
    await site.write(NODE)
    assert len(site.paths) == 3


async def test_other_refusals_are_raised_and_the_object_is_left_alone() -> None:
    site = Site(refused(503), known=own(Kind.NODE, "worker1", "kube-system"))
    with pytest.raises(TransientError):
        await site.write(NODE)
    assert len(site.paths) == 1


async def test_only_a_nodes_object_goes_with_its_status() -> None:
    site = Site()
    await site.status.delete(POLICY)
    assert site.paths == []
    await site.status.delete(NODE)
    assert site.paths == [("delete", NODE_PATH)]


async def refuse(site: Site, at_s: float, *, term: int = 7) -> list[str]:
    """Write at a time and be refused as an older leader; return what kinds of patch were sent."""
    site.now_ns = int(at_s * SECOND_NS)
    site.api.answers.append(STALE)
    before = len(site.api.requests)
    with pytest.raises(TransientError):
        await site.write(term=term)
    return [request.content_type for request in site.api.requests[before:]]


APPLIED, REMOVED = "application/apply-patch+yaml", "application/json-patch+json"


def of_term(term: Any) -> Site:
    return Site(known=own(Kind.POLICY, "egress", status={"leaderTerm": term}))


async def test_a_newer_leaders_status_stays_while_it_may_live_and_no_longer() -> None:
    site = of_term(50)
    assert await refuse(site, 0) == [APPLIED]
    assert await refuse(site, 19.999) == [APPLIED]
    assert await refuse(site, 20) == [APPLIED, REMOVED]
    assert site.api.requests[-1].body == [
        {"op": "test", "path": "/status/leaderTerm", "value": 50},
        {"op": "remove", "path": "/status"},
    ]
    assert site.api.requests[-1].path == f"{POLICY_PATH}/status"


async def test_one_write_that_is_taken_begins_the_wait_anew() -> None:
    site = of_term(50)
    await refuse(site, 0)
    site.now_ns = 10 * SECOND_NS
    site.api.answers.append({"metadata": {"name": "egress"}, "status": {"leaderTerm": 50}})
    await site.write()
    assert await refuse(site, 25) == [APPLIED]
    assert await refuse(site, 45) == [APPLIED, REMOVED]


async def test_an_object_made_anew_begins_the_wait_anew() -> None:
    site = of_term(50)
    await refuse(site, 0)
    site.status.forget(POLICY)
    assert await refuse(site, 25) == [APPLIED]


@pytest.mark.parametrize("recorded", [7, 6, None, "9"])
async def test_a_status_that_is_not_of_a_higher_term_is_never_removed(recorded: Any) -> None:
    site = of_term(recorded)
    await refuse(site, 0)
    assert await refuse(site, 30) == [APPLIED]


async def test_a_refusal_for_another_reason_removes_nothing() -> None:
    site = of_term(50)
    for at_s in (0, 30):
        site.now_ns = at_s * SECOND_NS
        site.api.answers.append(refused(422, "status.accepted: Invalid value"))
        with pytest.raises(TransientError):
            await site.write()
    assert [request.content_type for request in site.api.requests] == [APPLIED, APPLIED]


UNKNOWN = {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "MajorityLost", "message": ""}]}


async def test_v3_a_status_is_replaced_only_in_the_version_that_was_read_and_keeps_its_term() -> None:
    known = own(Kind.POLICY, "egress", status={"leaderTerm": 9}, resourceVersion="77")
    site = Site(known=known)
    (written,) = site.status.written()
    assert (written.key, written.version) == (POLICY, "77")
    await site.status.replace(WrittenStatus(POLICY, UNKNOWN, written.version))
    (request,) = site.api.requests
    assert (request.path, request.query) == (f"{POLICY_PATH}/status", APPLY)
    assert request.body["metadata"]["resourceVersion"] == "77"
    assert request.body["status"]["leaderTerm"] == 9
    assert request.body["status"]["conditions"][0]["lastTransitionTime"]


@pytest.mark.parametrize("status", [404, 409, 422])
async def test_v3_a_status_that_has_changed_meanwhile_is_left_as_it_is(status: int) -> None:
    site = Site(refused(status, "leaderTerm"), known=own(Kind.POLICY, "egress", resourceVersion="77"))
    await site.status.replace(WrittenStatus(POLICY, UNKNOWN, "77"))
    assert len(site.paths) == 1
    # And it does not count as a refusal of a leader's.
    assert await refuse(site, 21) == [APPLIED]


async def test_of_an_object_that_is_gone_nothing_is_replaced_and_other_refusals_are_raised() -> None:
    site = Site(refused(503))
    await site.status.replace(WrittenStatus(POLICY, UNKNOWN, "77"))
    assert site.paths == []
    site = Site(refused(503), known=own(Kind.POLICY, "egress"))
    with pytest.raises(TransientError):
        await site.status.replace(WrittenStatus(POLICY, UNKNOWN, "77"))


def test_only_objects_that_a_leader_reports_on_are_read() -> None:
    site = Site()
    names = ("kube-system/default", "cluster-a/default", "kube-system/other")
    for name in names:
        namespace, _, plain = name.partition("/")
        site.ledger.take(Kind.GATEWAY, Difference((own(Kind.GATEWAY, plain, namespace),)))
    site.ledger.take(Kind.NODE, Difference((own(Kind.NODE, "worker1", "kube-system"),)))
    assert [str(found.key) for found in site.status.written()] == ["kube-system/default", "kube-system/worker1"]
