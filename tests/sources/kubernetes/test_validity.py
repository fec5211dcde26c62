"""The validity of the statuses as a Lease: read, created, renewed by compare-and-swap."""

import json
from typing import Any

import pytest

from service.model.validity import Loss, Validity
from service.sources.kubernetes.api_server import ApiError
from service.sources.kubernetes.validity import ValidityLease, decode, encode
from tests.sources.kubernetes.scripted_api import ScriptedApi, refused

LEASES = "/apis/coordination.k8s.io/v1/namespaces/egressgw-system/leases"
SAID = Validity("controller1", 7, "2024-01-01T00:00:00Z")
LOST = Validity("controller2", 7, "2024-01-01T00:00:00Z", Loss("MajorityLost", "no majority: a, b"), "41")
NOW = "2024-01-01T00:00:05.000000Z"


def lease(api: ScriptedApi) -> ValidityLease:
    return ValidityLease(api, "egressgw-system", wall_clock=lambda: 1_704_067_205_000_000_000)


@pytest.mark.parametrize("validity", [SAID, LOST])
def test_what_is_written_is_what_is_read(validity: Validity) -> None:
    document = encode(validity, now=NOW)
    document["metadata"]["resourceVersion"] = validity.version
    assert decode(json.dumps(document).encode()) == validity
    assert document["spec"]["renewTime"] == NOW


async def test_the_first_is_created_and_a_later_one_replaces_only_what_was_seen() -> None:
    api = ScriptedApi()
    assert await lease(api).renew(SAID, None) == SAID
    (request,) = api.requests
    assert (request.verb, request.path) == ("create", LEASES)
    assert (await lease(api).renew(SAID, LOST)) == Validity("controller1", 7, "2024-01-01T00:00:00Z", None, "41")
    request = api.requests[-1]
    assert (request.verb, request.path) == ("patch", f"{LEASES}/egressgw-status")
    assert request.content_type == "application/merge-patch+json"
    assert request.body["metadata"]["resourceVersion"] == "41"
    # A merge patch keeps what it does not name: why all was unknown must go.
    assert request.body["metadata"]["annotations"]["networking.gke.io/unknown-because"] == ""


@pytest.mark.parametrize("status", [404, 409])
async def test_who_comes_second_is_told_so_and_other_refusals_are_raised(status: int) -> None:
    assert await lease(ScriptedApi(refused(status))).renew(SAID, LOST) is None
    with pytest.raises(ApiError):
        await lease(ScriptedApi(refused(403))).renew(SAID, LOST)
    with pytest.raises(ApiError):
        await lease(ScriptedApi(refused(404, "no such namespace"))).renew(SAID, None)


async def test_there_may_be_none_and_an_api_server_that_refuses_is_no_absence() -> None:
    assert await lease(ScriptedApi(refused(404))).read() is None
    with pytest.raises(ApiError):
        await lease(ScriptedApi(refused(500))).read()


@pytest.mark.parametrize(
    "document",
    [
        {"metadata": {}},
        {"metadata": {"annotations": None, "resourceVersion": "1"}, "spec": {"holderIdentity": None}},
        {"metadata": {"annotations": {"networking.gke.io/leader-term": "9" * 40}}},
        {"metadata": {"annotations": {"networking.gke.io/leader-term": "-1"}}},
    ],
)
def test_what_somebody_else_has_made_of_it_is_read_as_nobodys(document: dict[str, Any]) -> None:
    found = decode(json.dumps(document).encode())
    assert (found.speaker, found.term, found.loss) == ("", 0, None)
