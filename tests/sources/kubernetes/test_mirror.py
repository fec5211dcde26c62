"""The gateway in kube-system as it is written; what is to be done is decided in gateway_mirror."""

from typing import Any

from service.model.objects import Kind
from service.sources.kubernetes.api_object import ApiObject, ClusterSwitch
from service.sources.kubernetes.gateway_mirror import GATEWAY, MIRRORED_FROM
from service.sources.kubernetes.ledger import ObjectLedger
from service.sources.kubernetes.mirror import GatewayMirror
from service.sources.kubernetes.resource import Difference
from tests.sources.kubernetes.scripted_api import ScriptedApi, own

PATH = "/apis/networking.gke.io/v1alpha1/namespaces/kube-system/anthosnetworkgateways/default"
SPEC = {"floatingIPs": ["192.168.1.100"]}


def users(spec: Any = SPEC) -> ApiObject:
    return own(Kind.GATEWAY, "default", "cluster-a", spec=spec)


def copied(spec: Any = SPEC) -> ApiObject:
    return own(Kind.GATEWAY, "default", "kube-system", spec=spec, annotations={MIRRORED_FROM: "cluster-a"})


class Site:
    def __init__(self, *gateways: ApiObject, is_listed: bool = True) -> None:
        self.api = ScriptedApi()
        self.ledger = ObjectLedger([Kind.GATEWAY])
        self.ledger.take(Kind.GATEWAY, Difference(gateways, is_listed=is_listed))
        self.mirror = GatewayMirror(self.api, self.ledger)

    async def switch(self, *switches: ClusterSwitch, deletes: tuple[str, ...] = (), is_listed: bool = True) -> None:
        await self.mirror.take_switches(Difference(switches, deletes, is_listed=is_listed))


async def test_the_copy_is_applied_and_then_in_step() -> None:
    site = Site(users())
    await site.switch()
    await site.mirror.step()
    (request,) = site.api.requests
    assert (request.verb, request.path) == ("patch", PATH)
    assert request.query == {"fieldManager": "egressgw-controller", "force": "true"}
    assert request.body["spec"] == SPEC
    assert request.body["metadata"]["annotations"] == {MIRRORED_FROM: "cluster-a"}
    # The answer is known at once, though the watch may bring it only later.
    await site.mirror.step()
    assert len(site.api.requests) == 1


async def test_the_copy_goes_with_what_it_followed_and_only_that_very_copy() -> None:
    site = Site(copied())
    await site.switch()
    await site.mirror.step()
    (request,) = site.api.requests
    assert (request.verb, request.path, request.uid) == ("delete", PATH, "uid-default")


async def test_nothing_is_done_until_all_gateways_are_known() -> None:
    site = Site(copied(), is_listed=False)
    await site.switch()
    await site.mirror.step()
    assert site.api.requests == []
    site.ledger.take(Kind.GATEWAY, Difference((users(),), is_listed=True))
    await site.mirror.step()
    assert site.api.requests == []


async def test_nothing_is_done_until_all_switches_are_known() -> None:
    site = Site(users())
    await site.switch(is_listed=False)
    await site.mirror.step()
    assert site.api.requests == []
    # Known once, they stay known: later differences are of a watch.
    await site.switch()
    await site.switch(is_listed=False)
    await site.mirror.step()
    assert len(site.api.requests) == 1


async def test_a_namespace_is_on_only_where_all_of_its_clusters_are() -> None:
    site = Site(users(), copied())
    await site.switch(
        ClusterSwitch("cluster-a/a", "cluster-a", is_on=False), ClusterSwitch("cluster-a/b", "cluster-a", is_on=True)
    )
    await site.mirror.step()
    assert [request.verb for request in site.api.requests] == ["delete"]
    await site.switch(deletes=("cluster-a/a",))
    site.ledger.take(Kind.GATEWAY, Difference((), ("kube-system/default",)))
    await site.mirror.step()
    assert [request.verb for request in site.api.requests] == ["delete", "patch"]
    assert site.ledger.seen(GATEWAY) is not None
