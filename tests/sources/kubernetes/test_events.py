"""Events: said once, then counted, whoever leads."""

from dataclasses import replace
from typing import Any

import pytest

from service.model.errors import TransientError
from service.model.object_event import ObjectEvent
from service.model.objects import Kind, ObjectKey
from service.sources.kubernetes.events import EventPoster, event_document, event_name
from tests.sources.kubernetes.scripted_api import ScriptedApi, refused

NOW = "1970-01-01T00:00:01.000005Z"
EVENT = ObjectEvent(ObjectKey(Kind.POLICY, "", "egress"), "UnknownEgressIP", "192.168.1.9 is not listed", "Judge", True)
MOVED = ObjectEvent(ObjectKey(Kind.GATEWAY, "kube-system", "default"), "Moved", "to worker2", "Move", False)


async def post(*answers: Any, event: ObjectEvent = EVENT) -> ScriptedApi:
    api = ScriptedApi(*answers)
    await EventPoster(api, reporter="controller-1", wall_clock=lambda: 1_000_005_999).post(event, uid="u1")
    return api


async def test_an_event_is_created_beside_its_object() -> None:
    (request,) = (await post(event=MOVED)).requests
    assert (request.verb, request.path) == ("create", "/apis/events.k8s.io/v1/namespaces/kube-system/events")
    body = request.body
    assert body["metadata"]["namespace"] == "kube-system"
    assert (body["type"], body["reason"], body["note"], body["action"]) == ("Normal", "Moved", "to worker2", "Move")
    assert body["eventTime"] == NOW
    assert (body["reportingController"], body["reportingInstance"]) == (
        "networking.gke.io/egressgw-controller",
        "controller-1",
    )
    assert body["regarding"] == {
        "apiVersion": "networking.gke.io/v1alpha1",
        "kind": "AnthosNetworkGateway",
        "name": "default",
        "namespace": "kube-system",
        "uid": "u1",
    }


async def test_events_of_cluster_scoped_objects_live_in_default() -> None:
    (request,) = (await post()).requests
    assert request.path == "/apis/events.k8s.io/v1/namespaces/default/events"
    assert request.body["type"] == "Warning"
    assert "namespace" not in request.body["regarding"]


async def test_an_event_of_an_object_that_is_not_ours_names_its_own_api() -> None:
    key = ObjectKey(Kind.CONFIG_MAP, "egressgw-system", "egressgw-electorate")
    (request,) = (await post(event=ObjectEvent(key, "ElectorateRefused", "epoch 9", "Judge", True))).requests
    assert request.path == "/apis/events.k8s.io/v1/namespaces/egressgw-system/events"
    regarding = request.body["regarding"]
    assert (regarding["apiVersion"], regarding["kind"]) == ("v1", "ConfigMap")


@pytest.mark.parametrize(("series", "count"), [(None, 2), ({"count": 5}, 6)])
async def test_an_event_that_exists_is_counted_up(series: Any, count: int) -> None:
    api = await post(refused(409), {"series": series}, {})
    created, read, patched = api.requests
    assert read.path == patched.path == f"{created.path}/{created.body['metadata']['name']}"
    assert patched.body == {"series": {"count": count, "lastObservedTime": NOW}}
    assert patched.content_type == "application/merge-patch+json"


async def test_an_event_that_may_not_be_read_again_has_been_said() -> None:
    api = await post(refused(409), refused(403))
    assert [request.verb for request in api.requests] == ["create", "get"]


@pytest.mark.parametrize("answers", [(refused(503),), (refused(409), refused(503)), (refused(409), {}, refused(403))])
async def test_what_fails_for_now_is_raised_so_that_it_is_tried_again(answers: Any) -> None:
    with pytest.raises(TransientError):
        await post(*answers)


def test_what_says_the_same_of_one_object_has_one_name_and_anything_else_another() -> None:
    name = event_name(EVENT, "u1")
    # Neither who says it nor what was done makes it another Event.
    assert event_name(replace(EVENT, action="Assign", is_warning=False), "u1") == name
    others = [
        event_name(EVENT, "u2"),
        event_name(replace(EVENT, note="192.168.1.8 is not listed"), "u1"),
        event_name(replace(EVENT, reason="EgressIPConflict"), "u1"),
        event_name(replace(EVENT, regarding=ObjectKey(Kind.POLICY, "", "other")), "u1"),
        event_name(replace(EVENT, regarding=ObjectKey(Kind.NODE, "", "egress")), "u1"),
    ]
    assert len({name, *others}) == 6


def test_what_the_api_server_takes_at_most_is_kept() -> None:
    key = ObjectKey(Kind.POLICY, "", "p" * 253)
    found = event_document(replace(EVENT, regarding=key, note="ä" * 900), uid="", reporter="r" * 300, now=NOW)
    assert len(found["metadata"]["name"]) <= 253
    assert len(found["note"].encode()) <= 1024
    assert found["note"].endswith("ä...")
    assert len(found["reportingInstance"]) == 128
    assert "uid" not in found["regarding"]
    assert found["regarding"]["name"] == key.name
