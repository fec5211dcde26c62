"""Somebody edits the electorate object of a real cluster: nobody follows it, its owner reads why, and it is mended."""

import json

import pytest

from service.electorate.store import OBJECT_NAME
from service.lab.cluster.clients import client_name
from service.lab.cluster.cluster import SERVICE_NAMESPACE
from tests.cluster.service_site import ServiceSite
from tests.e2e.site import FLOATING_IPS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

OBJECT = ("configmap", OBJECT_NAME)


def test_m8_an_edit_of_the_electorate_is_an_event_of_that_object_and_moves_nothing(service: ServiceSite) -> None:
    service.wait_whole()
    kubectl = service.cluster.kubectl
    before = service.gateway_status()["floatingIPs"]

    def said() -> dict[str, object]:
        found: dict[str, object] = json.loads(kubectl.get("-n", SERVICE_NAMESPACE, *OBJECT)["data"]["electorate"])
        return found

    true = said()
    epoch = int(str(true["epoch"]))
    edit = {"data": {"electorate": json.dumps(true | {"epoch": epoch + 500})}}
    kubectl("-n", SERVICE_NAMESPACE, "patch", *OBJECT, "--type=merge", "-p", json.dumps(edit))
    service.wait(
        "the Event",
        lambda: service.said("ElectorateRefused", "-n", SERVICE_NAMESPACE, "describe", *OBJECT),
    )
    told = kubectl("-n", SERVICE_NAMESPACE, "describe", *OBJECT)
    assert f"epoch {epoch + 500} of" in told
    assert f"does not follow {epoch}" in told
    # Above whatever the edit may have made anybody believe, with the members as they were.
    service.wait("the object to be right", lambda: int(str(said()["epoch"])) > epoch + 500)
    assert said()["members"] == true["members"]
    service.wait_whole()
    assert service.gateway_status()["floatingIPs"] == before
    assert service.seen(client_name("alice", "worker1")) == FLOATING_IPS[0]
