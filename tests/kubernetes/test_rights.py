"""What the credentials of agents and controllers may do, as the API server itself judges it.

Asked of every resource that the API server has, in every namespace that matters; what is really done with the rights is
in test_source.py, which runs with a controller's credentials.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from service.electorate.store import OBJECT_NAME, open_electorate
from service.model.lease import Elector, Electorate
from service.model.object_event import ObjectEvent
from service.model.objects import Kind, ObjectKey, Synced
from service.sources.kubernetes.api_server import ApiError, ApiServer, connect
from service.sources.kubernetes.source import open_kubernetes
from service.sources.kubernetes.validity import OBJECT_NAME as VALIDITY_NAME
from tests.kubernetes.bad_objects import gateway
from tests.kubernetes.conftest import NAMESPACE, Installation
from tests.kubernetes.control_plane import ControlPlane, Kubectl
from tests.sources.kubernetes.fake_api_server import until

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(300)]

NAMESPACES = (NAMESPACE, "kube-system", "default", "cluster-a")
READING = ("get", "list", "watch")
WRITING = ("create", "update", "patch", "delete", "deletecollection")
SPECIAL = (
    ("impersonate", "", "users"),
    ("impersonate", "", "groups"),
    ("impersonate", "", "serviceaccounts"),
    ("bind", "rbac.authorization.k8s.io", "clusterroles"),
    ("escalate", "rbac.authorization.k8s.io", "clusterroles"),
    ("escalate", "rbac.authorization.k8s.io", "roles"),
    ("approve", "certificates.k8s.io", "signers"),
    ("sign", "certificates.k8s.io", "signers"),
)
EVERYBODY = {"selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"}
"""Questions about oneself, which every identity may put: nothing is written."""


class Right(NamedTuple):
    verb: str
    group: str
    resource: str
    namespace: str
    """Where it was asked for; empty for what has no namespace."""
    name: str
    """Of the only object it holds for; empty: for all."""


GROUP = "networking.gke.io"
OWN_CONFIGMAP = Right("patch", "", "configmaps", NAMESPACE, OBJECT_NAME)


def _controller_writes() -> Iterator[Right]:
    yield OWN_CONFIGMAP
    yield Right("create", "", "configmaps", NAMESPACE, "")
    yield Right("create", "coordination.k8s.io", "leases", NAMESPACE, "")
    yield Right("patch", "coordination.k8s.io", "leases", NAMESPACE, VALIDITY_NAME)
    for verb in ("create", "patch", "delete"):
        yield Right(verb, GROUP, "anthosnetworkgateways", "kube-system", "default")
        yield Right(verb, GROUP, "anthosnetworkgatewaynodes", "kube-system", "")
    yield Right("patch", GROUP, "anthosnetworkgateways/status", "kube-system", "default")
    yield Right("patch", GROUP, "anthosnetworkgatewaynodes/status", "kube-system", "")
    for namespace in NAMESPACES:
        yield Right("patch", GROUP, "egressnatpolicies/status", namespace, "")
        yield Right("create", "events.k8s.io", "events", namespace, "")
    for namespace in ("kube-system", "default", NAMESPACE):
        yield Right("patch", "events.k8s.io", "events", namespace, "")


WRITES = {"agent": {OWN_CONFIGMAP}, "controller": set(_controller_writes())}
FOLLOWED = {
    "agent": {"anthosnetworkgateways", "egressnatpolicies"},
    "controller": {"anthosnetworkgateways", "anthosnetworkgatewaynodes", "egressnatpolicies", "clusters"},
}


@pytest.mark.parametrize("account", WRITES)
async def test_rights_to_write_are_the_electorate_object_and_what_a_controller_owns(
    account: str, installation: Installation
) -> None:
    rights = await _rules(getattr(installation, account))
    assert {right for right in rights if right.verb not in READING and right.resource not in EVERYBODY} == WRITES[
        account
    ]


@pytest.mark.parametrize("account", WRITES)
async def test_nobody_reads_more_than_it_follows(account: str, installation: Installation) -> None:
    rights = {right for right in await _rules(getattr(installation, account)) if right.verb in READING}
    followed = {right.resource for right in rights if not right.name}
    assert followed - {"events"} == FOLLOWED[account] | {"pods", "namespaces", "nodes", "servicecidrs"}
    # Secrets, the keyring among them, come by the kubelet and not by these credentials.
    named = {Right(verb, "", "configmaps", NAMESPACE, OBJECT_NAME) for verb in READING}
    named |= {Right(verb, "discovery.k8s.io", "endpointslices", "default", "kubernetes") for verb in READING}
    if account == "controller":
        named.add(Right("get", "coordination.k8s.io", "leases", NAMESPACE, VALIDITY_NAME))
    assert {right for right in rights if right.name} == named


@pytest.mark.parametrize(("account", "namespace"), [("agent", NAMESPACE), ("controller", "kube-system")])
async def test_of_everything_the_api_server_has_only_that_is_granted(
    account: str, namespace: str, installation: Installation, plane: ControlPlane
) -> None:
    questions = [
        Right(verb, group, resource, namespace if is_namespaced else "", "")
        for group, resource, is_namespaced in await asyncio.to_thread(_resources, plane.kubectl)
        for verb in WRITING
        if resource not in EVERYBODY
    ]
    assert len(questions) > 500, "the API server was not asked about everything"
    questions += [Right(verb, group, resource, "", "") for verb, group, resource in SPECIAL]
    async with _as(getattr(installation, account)) as api:
        granted = await _granted(api, questions)
    expected = {right for right in WRITES[account] if not right.name and right.namespace == namespace}
    assert {right._replace(namespace=namespace) for right in granted} == expected


async def _rules(kubeconfig: Path) -> set[Right]:
    """Every right, from the API server's own list of the rules that hold."""
    found = set()
    async with _as(kubeconfig) as api:
        for namespace in NAMESPACES:
            answer = await _ask(api, "selfsubjectrulesreviews", {"namespace": namespace})
            assert not answer["incomplete"]
            for rule in answer["resourceRules"]:
                fields = (rule["verbs"], rule["apiGroups"], rule["resources"], [namespace], rule.get("resourceNames"))
                found |= {Right(*right) for right in itertools.product(*(field or [""] for field in fields))}
    return found


def _resources(admin: Kubectl) -> list[tuple[str, str, bool]]:
    """Group, resource (or resource/subresource) and whether it is namespaced, of all versions."""
    groups = msgspec.json.decode(admin("get", "--raw", "/apis"))["groups"]
    paths = ["/api/v1"] + [f"/apis/{item['groupVersion']}" for group in groups for item in group["versions"]]
    found = set()
    for path in paths:
        group = path.split("/")[2] if path.startswith("/apis/") else ""
        for item in msgspec.json.decode(admin("get", "--raw", path))["resources"]:
            found.add((group, item["name"], item["namespaced"]))
    return sorted(found)


async def _granted(api: ApiServer, questions: list[Right]) -> list[Right]:
    answers: list[bool] = []
    for start in range(0, len(questions), 64):
        answers += await asyncio.gather(*(_is_allowed(api, right) for right in questions[start : start + 64]))
    return [question for question, is_allowed in zip(questions, answers, strict=True) if is_allowed]


async def _is_allowed(api: ApiServer, right: Right) -> bool:
    resource, _, subresource = right.resource.partition("/")
    attributes = right._asdict() | {"resource": resource, "subresource": subresource}
    answer = await _ask(api, "selfsubjectaccessreviews", {"resourceAttributes": attributes})
    return bool(answer["allowed"])


async def _ask(api: ApiServer, kind: str, spec: dict[str, Any]) -> Any:
    body = await api.create(f"/apis/authorization.k8s.io/v1/{kind}", {"spec": spec})
    return msgspec.json.decode(body)["status"]


@asynccontextmanager
async def _as(kubeconfig: Path) -> AsyncIterator[ApiServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(kubeconfig))
        async with connect() as api:
            yield api


@pytest.mark.parametrize(
    ("account", "path"),
    [
        ("agent", "/api/v1/namespaces/egressgw-system/configmaps"),
        ("agent", "/apis/events.k8s.io/v1/namespaces/kube-system/events"),
        ("agent", f"/apis/{GROUP}/v1alpha1/namespaces/kube-system/anthosnetworkgatewaynodes"),
        ("controller", "/api/v1/namespaces/kube-system/configmaps"),
        ("controller", f"/apis/{GROUP}/v1alpha1/egressnatpolicies"),
        ("controller", f"/apis/{GROUP}/v1alpha1/namespaces/kube-system/anthosnetworkgateways"),
        ("controller", "/api/v1/namespaces/kube-system/serviceaccounts/default/token"),
    ],
)
async def test_what_is_not_allowed_is_refused_when_it_is_tried(
    account: str, path: str, installation: Installation
) -> None:
    async with _as(getattr(installation, account)) as api:
        with pytest.raises(ApiError, match="forbidden") as refusal:
            await api.create(path, {"metadata": {"name": "intruder"}})
    assert refusal.value.status == 403


async def test_the_electorate_object_is_made_by_a_controller_and_changed_by_either(
    installation: Installation, kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = [Electorate(epoch, (Elector("worker1", "10.0.0.1"),)) for epoch in (1, 2, 3)]
    for account, electorate in zip(("controller", "agent", "controller"), epochs, strict=True):
        monkeypatch.setenv("KUBECONFIG", str(getattr(installation, account)))
        async with open_electorate(NAMESPACE, changed=lambda found: None) as store:
            await until(lambda store=store: store.is_read)
            if store.current is None:
                await store.create(electorate)
            else:
                await store.swap(store.current, electorate, in_force=True)
    found = kubectl.get("configmap", OBJECT_NAME, "-n", NAMESPACE)
    assert '"epoch": 3' in found["data"]["electorate"]
    for kubeconfig in (installation.agent, installation.controller):
        async with _as(kubeconfig) as api:
            with pytest.raises(ApiError, match="forbidden"):
                await api.delete(f"/api/v1/namespaces/{NAMESPACE}/configmaps/{OBJECT_NAME}")
    kubectl("delete", "configmap", OBJECT_NAME, "-n", NAMESPACE)


async def test_an_event_in_a_users_namespace_is_made_once_and_its_repetition_is_no_error(
    installation: Installation, kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(installation.controller))
    kubectl.run("create", "namespace", "users", check=False)
    kubectl.apply(gateway({"floatingIPs": ["192.168.1.100"]}, namespace="users"))
    event = ObjectEvent(ObjectKey(Kind.GATEWAY, "users", "default"), "InvalidObject", "it is elsewhere", "Judge", True)
    async with open_kubernetes(node=None, reporter="controller-1", namespace=NAMESPACE) as source:
        async for batch in source.changes():
            if any(isinstance(change, Synced) for change in batch):
                break
        for _ in range(3):
            await source.post_event(event)
    (found,) = kubectl.get("events.events.k8s.io", "-n", "users")["items"]
    assert found["reason"] == "InvalidObject"
