"""Kubernetes as a source, against a real API server that is killed, frozen and restarted; kubectl is the user."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from service.host import clock
from service.model.errors import TransientError
from service.model.gateway_node import NodeState
from service.model.object_event import ObjectEvent
from service.model.objects import Delete, Errors, Kind, Object, ObjectKey, Pod, Synced, Upsert
from service.model.validity import Loss
from service.report.writer import StatusWriter
from service.sources.kubernetes.api_server import ApiError, connect
from service.sources.kubernetes.object_cache import ObjectCache
from service.sources.kubernetes.reflector import Reflector, ReflectorTiming
from service.sources.kubernetes.source import KubernetesSource
from tests.kubernetes.bad_objects import gateway, policy
from tests.kubernetes.conftest import NAMESPACE, Installation
from tests.kubernetes.control_plane import ControlPlane, Kubectl
from tests.report.facts import Site, node
from tests.sources.kubernetes.fake_api_server import until

pytestmark = pytest.mark.kubernetes

GATEWAY = ObjectKey(Kind.GATEWAY, "kube-system", "default")
LOST = Loss("MajorityLost", "no majority of electors answers")
RESUME_S = 5.0
"""How soon after the API server's return everything must be right."""


@pytest.fixture(autouse=True)
def _kubeconfig(plane: ControlPlane, installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The source is a controller with its own rights; kubectl is the user."""
    monkeypatch.setenv("KUBECONFIG", str(installation.controller))
    yield
    plane.kubectl("delete", "enp,ang,angn,pods", "--all", "-A", "--force", "--grace-period=0")
    plane.kubectl("delete", "events", "--all", "-A")


class Consumer:
    """Knows what it was told, and no more."""

    def __init__(self) -> None:
        self.objects: dict[ObjectKey, Object] = {}
        self.errors: tuple[object, ...] = ()
        self.is_synced = False
        self.batches = 0

    async def follow(self, source: KubernetesSource) -> None:
        async for batch in source.changes():
            self.batches += 1
            for change in batch:
                if isinstance(change, Upsert):
                    self.objects[change.object.key] = change.object
                elif isinstance(change, Delete):
                    del self.objects[change.key]
                elif isinstance(change, Errors):
                    self.errors = change.errors
                elif isinstance(change, Synced):
                    self.is_synced = True

    def pods(self) -> dict[str, Pod]:
        return {item.key.name: item for item in self.objects.values() if isinstance(item, Pod)}


@asynccontextmanager
async def following(
    consumer: Any,
    *,
    name: str | None = None,
    timing: ReflectorTiming | None = None,
    cache: ObjectCache | None = None,
) -> AsyncIterator[KubernetesSource]:
    async with connect() as api, asyncio.TaskGroup() as group:
        source = KubernetesSource(api, node=name, timing=timing, cache=cache)
        tasks = [group.create_task(source.run()), group.create_task(consumer.follow(source))]
        await until(lambda: consumer.is_synced, timeout_s=30)
        yield source
        for task in tasks:
            task.cancel()


def pod(name: str, node_name: str = "worker1", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"role": "frontend"}},
        "spec": {"nodeName": node_name, "containers": [{"name": "web", "image": "web"}]} | spec,
    }


def run_pod(kubectl: Kubectl, name: str, ip: str, phase: str = "Running") -> None:
    status = f'{{"status": {{"phase": "{phase}", "podIP": "{ip}", "podIPs": [{{"ip": "{ip}"}}]}}}}'
    kubectl("patch", "pod", name, "--subresource=status", "--type=merge", "-p", status)


async def test_objects_arrive_change_and_go(kubectl: Kubectl) -> None:
    kubectl.apply(gateway({"floatingIPs": ["192.168.1.100"]}), policy("p1"), pod("a"))
    consumer = Consumer()
    async with following(consumer):
        assert {GATEWAY, ObjectKey(Kind.POLICY, "", "p1"), ObjectKey(Kind.NAMESPACE, "", "default")} <= set(
            consumer.objects
        )
        assert consumer.pods()["a"].ip is None
        await asyncio.to_thread(run_pod, kubectl, "a", "10.0.0.5")
        await until(lambda: str(consumer.pods()["a"].ip) == "10.0.0.5")
        await asyncio.to_thread(kubectl, "label", "pod", "a", "role=backend", "--overwrite")
        await until(lambda: consumer.pods()["a"].labels == (("role", "backend"),))
        await asyncio.to_thread(run_pod, kubectl, "a", "10.0.0.5", "Succeeded")
        await until(lambda: consumer.pods()["a"].ip is None)
        await asyncio.to_thread(kubectl, "label", "namespace", "default", "user=alice", "--overwrite")
        namespace = ObjectKey(Kind.NAMESPACE, "", "default")
        await until(lambda: ("user", "alice") in consumer.objects[namespace].labels)  # type: ignore[union-attr]
        await asyncio.to_thread(kubectl, "delete", "enp", "p1")
        await asyncio.to_thread(kubectl, "delete", "pod", "a", "--force", "--grace-period=0")
        await until(lambda: not consumer.pods() and ObjectKey(Kind.POLICY, "", "p1") not in consumer.objects)


async def test_an_agent_hears_only_of_its_own_pods_and_the_gateway_in_force(
    kubectl: Kubectl, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(installation.agent))
    kubectl.apply(pod("mine"), pod("other", "worker2"), pod("host", hostNetwork=True))
    kubectl.run("create", "namespace", "cluster-a", check=False)
    kubectl.apply(gateway({"floatingIPs": ["192.168.1.100"]}, namespace="cluster-a"))
    consumer = Consumer()
    async with following(consumer, name="worker1"):
        await asyncio.to_thread(run_pod, kubectl, "host", "192.168.1.1")
        await asyncio.to_thread(kubectl.apply, pod("later", "worker2"), pod("last"))
        await until(lambda: "last" in consumer.pods())
        assert sorted(consumer.pods()) == ["host", "last", "mine"]
        assert consumer.pods()["host"].ip is None
        assert not [key for key in consumer.objects if key.kind is Kind.GATEWAY]
        assert consumer.errors == ()


async def test_a_killed_api_server_is_followed_again(plane: ControlPlane, kubectl: Kubectl) -> None:
    kubectl.apply(pod("a"), pod("b"))
    consumer = Consumer()
    async with following(consumer) as source:
        plane.kill_api_server()
        await until(lambda: all(reflector.trouble for reflector in source.reflectors.values()))
        await asyncio.to_thread(plane.start_api_server)
        await asyncio.to_thread(kubectl, "delete", "pod", "a", "--force", "--grace-period=0")
        await asyncio.to_thread(kubectl.apply, pod("c"))
        await until(lambda: sorted(consumer.pods()) == ["b", "c"], timeout_s=RESUME_S)


async def test_what_was_compacted_meanwhile_is_listed_again(
    plane: ControlPlane, kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubectl.apply(pod("a"), pod("b"))
    consumer, is_past_gone = Consumer(), asyncio.Event()

    async def stay_away(self: object, error: Exception) -> None:
        await is_past_gone.wait()

    async with following(consumer) as source:
        lists = source.reflectors[Kind.POD].lists
        with monkeypatch.context() as patch:
            patch.setattr(Reflector, "_back_off", stay_away)
            await asyncio.to_thread(_forget_the_past, plane, kubectl)
        is_past_gone.set()
        await until(lambda: sorted(consumer.pods()) == ["b", "c"], timeout_s=20)
        assert source.reflectors[Kind.POD].lists == lists + 1


def _forget_the_past(plane: ControlPlane, kubectl: Kubectl) -> None:
    """Restart the API server; it comes back knowing only the present."""
    plane.kill_api_server()
    plane.start_api_server()
    kubectl("delete", "pod", "a", "--force", "--grace-period=0")
    kubectl.apply(pod("c"))
    plane.compact()
    plane.kill_api_server()
    plane.start_api_server()


async def test_a_frozen_api_server_is_noticed_and_followed_again(plane: ControlPlane, kubectl: Kubectl) -> None:
    consumer = Consumer()
    timing = ReflectorTiming(idle_s=2.0, backoff_max_s=0.5)
    async with following(consumer, timing=timing) as source:
        plane.freeze_api_server()
        try:
            # The kernel still acknowledges; only the silence tells.
            await until(lambda: bool(source.reflectors[Kind.POD].trouble), timeout_s=30)
        finally:
            plane.thaw_api_server()
        await asyncio.to_thread(kubectl.apply, pod("after"))
        await until(lambda: "after" in consumer.pods(), timeout_s=30)


def _sockets() -> int:
    return sum(
        os.path.realpath(entry.path).rpartition("/")[2].startswith("socket:") for entry in os.scandir("/proc/self/fd")
    )


async def test_requests_that_a_frozen_api_server_does_not_answer_leave_no_descriptor(plane: ControlPlane) -> None:
    async def ask() -> None:
        with pytest.raises(ApiError, match="cannot be reached"):
            async with aclosing(api.stream("/api/v1/pods", {"watch": "true"}, idle_s=0.3)) as pieces:
                await anext(pieces)

    open_before = _sockets()
    async with connect() as api:
        await asyncio.gather(*(api.get("/version") for _ in range(4)))
        assert _sockets() >= open_before + 4
        plane.freeze_api_server()
        try:
            await asyncio.gather(*(ask() for _ in range(4)))
            # Cut at once, and not when the server would have answered the goodbye.
            await until(lambda: _sockets() <= open_before, timeout_s=2)
        finally:
            plane.thaw_api_server()


async def test_status_is_applied_with_term_generation_and_times(kubectl: Kubectl) -> None:
    kubectl.apply(policy("p1"))
    key = ObjectKey(Kind.POLICY, "", "p1")
    accepted = {"type": "Accepted", "status": "True", "reason": "Accepted", "message": ""}
    ready = {"type": "Ready", "status": "True", "reason": "Held", "message": ""}
    async with following(Consumer()) as source:
        await source.write_status(key, {"accepted": True, "matchedPods": 1, "conditions": [accepted, ready]}, term=3)
        first = await asyncio.to_thread(kubectl.get, "enp", "p1")
        await asyncio.sleep(1.1)
        await source.write_status(key, {"accepted": True, "matchedPods": 2, "conditions": [accepted, ready]}, term=3)
        with pytest.raises(TransientError, match="newer leader"):
            await source.write_status(key, {"accepted": False, "matchedPods": 9, "conditions": []}, term=2)
    status = kubectl.get("enp", "p1")["status"]
    assert (status["matchedPods"], status["leaderTerm"], status["observedGeneration"]) == (2, 3, 1)
    assert status["conditions"] == first["status"]["conditions"]
    line = kubectl("get", "enp", "p1").splitlines()[1].split()
    assert line[:6] == ["p1", "192.168.1.100", "True", "True", "Held", "2"]


async def test_a_status_of_a_lost_electorate_is_superseded_in_time(
    kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.sources.kubernetes.status._STALE_TERM_NS", 200_000_000)
    kubectl.apply(policy("p1"))
    key = ObjectKey(Kind.POLICY, "", "p1")
    async with following(Consumer()) as source:
        await source.write_status(key, {"accepted": True, "conditions": []}, term=50)
        async with asyncio.timeout(5):
            while True:
                try:
                    await source.write_status(key, {"accepted": False, "conditions": []}, term=1)
                    break
                except TransientError:
                    await asyncio.sleep(0.1)
    assert kubectl.get("enp", "p1")["status"]["leaderTerm"] == 1


async def test_a_status_for_an_object_that_is_gone_is_no_error() -> None:
    async with following(Consumer()) as source:
        await source.write_status(ObjectKey(Kind.POLICY, "", "nobody"), {"accepted": True}, term=1)


async def test_an_event_said_again_is_counted_up(kubectl: Kubectl) -> None:
    kubectl.apply(policy("p1"))
    key = ObjectKey(Kind.POLICY, "", "p1")
    event = ObjectEvent(key, "UnknownEgressIP", "egressSourceIP 192.168.1.100 is not listed", "Judge", True)
    async with following(Consumer()) as source:
        for _ in range(3):
            await source.post_event(event)
    (found,) = kubectl.get("events.events.k8s.io", "-n", "default")["items"]
    assert found["series"]["count"] == 3
    said = kubectl("describe", "EgressNATPolicy", "p1")
    assert "UnknownEgressIP" in said
    assert "192.168.1.100 is not listed" in said


async def test_the_gateway_of_the_cluster_namespace_is_kept_in_kube_system(kubectl: Kubectl) -> None:
    kubectl.run("create", "namespace", "cluster-a", check=False)
    consumer = Consumer()

    def floating_ips() -> list[str]:
        item = consumer.objects.get(GATEWAY)
        return [str(address) for address in item.floating_ips] if item else []  # type: ignore[union-attr]

    async def settle(source: KubernetesSource, expected: list[str]) -> None:
        async with asyncio.timeout(10):
            while floating_ips() != expected:
                await source.mirror_gateway()
                await asyncio.sleep(0.05)

    async with following(consumer) as source:
        for addresses in (["192.168.1.100"], ["192.168.1.101", "192.168.1.100"], []):
            await asyncio.to_thread(kubectl.apply, gateway({"floatingIPs": addresses}, namespace="cluster-a"))
            await settle(source, addresses)
        assert consumer.errors == ()
        await asyncio.to_thread(kubectl, "delete", "ang", "default", "-n", "cluster-a")
        async with asyncio.timeout(10):
            while GATEWAY in consumer.objects:
                await source.mirror_gateway()
                await asyncio.sleep(0.05)
        # One that users made there themselves stays.
        await asyncio.to_thread(kubectl.apply, gateway({"floatingIPs": ["192.168.1.7"]}))
        await settle(source, ["192.168.1.7"])
        await source.mirror_gateway()
    assert kubectl.get("ang", "default", "-n", "kube-system")["spec"] == {"floatingIPs": ["192.168.1.7"]}


@asynccontextmanager
async def reporting(site: Site, name: str = "controller1") -> AsyncIterator[KubernetesSource]:
    async with following(site) as source, asyncio.TaskGroup() as group:
        writer = StatusWriter(
            source,
            name=name,
            facts=site.facts_of_a_leader,
            loss=lambda: LOST,
            sightings=site.sightings,
            clock=clock.boot_ns,
            wall_clock=clock.wall_ns,
        )
        task = group.create_task(writer.run())
        yield source
        task.cancel()


def three_addresses() -> Site:
    site = Site((node("worker1", 1), node("worker2", 2)), clock.boot_ns)
    for address, holder in (("192.168.1.100", "worker1"), ("192.168.1.101", "worker2"), ("192.168.1.102", "worker1")):
        site.place(address, holder)
    return site


async def eventually(kubectl: Kubectl, path: str, expected: Any, *arguments: str, timeout_s: float = 5.0) -> None:
    """Wait until a field of an object is as expected."""
    deadline = time.monotonic() + timeout_s
    found: Any = None
    while time.monotonic() < deadline:
        found = await asyncio.to_thread(kubectl.get, *arguments)
        for name in path.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        if found == expected:
            return
    raise AssertionError(f"{path}: {found}, not {expected}")


async def test_users_read_the_status_as_documented(kubectl: Kubectl) -> None:
    addresses = ["192.168.1.100", "192.168.1.101", "192.168.1.102"]
    kubectl.apply(gateway({"floatingIPs": addresses}), policy("egress"), policy("late", egressSourceIP="192.168.1.9"))
    site = three_addresses()
    async with reporting(site):
        held = {"192.168.1.100": "worker1", "192.168.1.101": "worker2", "192.168.1.102": "worker1"}
        where = ("anthosnetworkgateway.networking.gke.io", "default", "-n", "kube-system")
        await eventually(kubectl, "status.floatingIPs", held, *where)
        await eventually(kubectl, "status.nodes", {"worker1": "Up", "worker2": "Up"}, *where)
        node_object = ("anthosnetworkgatewaynode.networking.gke.io", "worker1", "-n", "kube-system")
        await eventually(kubectl, "status.state", "Up", *node_object)
        await eventually(kubectl, "status.holder", "worker1", "enp", "egress")
        await eventually(kubectl, "status.accepted", True, "enp", "late")
        said = await asyncio.to_thread(kubectl, "describe", "EgressNATPolicy", "late")
        assert "UnknownEgressIP" in said
        assert "Warning" in said
    found = kubectl.get(*node_object)["status"]
    assert [item["address"] for item in found["floatingIPs"]] == ["192.168.1.100", "192.168.1.102"]
    assert found["segments"][0]["subnet"] == "192.168.1.0/24"


async def test_a_conflict_and_an_address_for_nobody_are_told(kubectl: Kubectl) -> None:
    kubectl.apply(gateway({"floatingIPs": ["192.168.1.100", "10.9.9.9"]}), policy("older"))
    await asyncio.sleep(1.1)  # creation times have seconds
    kubectl.apply(policy("younger"), policy("nowhere", egressSourceIP="10.9.9.9"))
    site = Site((node("worker1", 1),), clock.boot_ns)
    site.place("192.168.1.100", "worker1")
    site.place("10.9.9.9", None, "no node has an interface in its subnet")
    async with reporting(site):
        await eventually(kubectl, "status.accepted", False, "enp", "younger")
        await eventually(kubectl, "status.accepted", True, "enp", "nowhere")
        await asyncio.sleep(0.5)
    assert "EgressIPConflict" in kubectl("describe", "enp", "younger")
    assert "EgressIPConflict" not in kubectl("describe", "enp", "older")
    assert "UnknownEgressIP" in kubectl("describe", "enp", "nowhere")
    assert "NoEligibleNode" in kubectl("describe", "ang", "default", "-n", "kube-system")


async def test_a_move_while_the_api_server_is_away_is_told_when_it_returns(
    plane: ControlPlane, kubectl: Kubectl
) -> None:
    kubectl.apply(gateway({"floatingIPs": ["192.168.1.100", "192.168.1.101", "192.168.1.102"]}), policy("egress"))
    site = three_addresses()
    where = ("ang", "default", "-n", "kube-system")
    async with reporting(site):
        await eventually(kubectl, "status.nodes.worker1", "Up", *where)
        plane.kill_api_server()
        site.nodes = (node("worker1", 1, state=NodeState.DOWN), node("worker2", 2))
        for address in ("192.168.1.100", "192.168.1.102"):
            site.place(address, "worker2")
        await asyncio.sleep(2)
        await asyncio.to_thread(plane.start_api_server)
        moved = dict.fromkeys(("192.168.1.100", "192.168.1.101", "192.168.1.102"), "worker2")
        await eventually(kubectl, "status.floatingIPs", moved, *where, timeout_s=RESUME_S)
        await eventually(kubectl, "status.nodes.worker1", "Down", *where, timeout_s=RESUME_S)
        await asyncio.sleep(1)
    said = kubectl("describe", *where)
    assert "192.168.1.100 moved from worker1 to worker2: node worker1 is down" in said
    assert "192.168.1.102 moved from worker1 to worker2" in said


CLUSTER_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "clusters.baremetal.cluster.gke.io"},
    "spec": {
        "group": "baremetal.cluster.gke.io",
        "scope": "Namespaced",
        "names": {"kind": "Cluster", "plural": "clusters", "singular": "cluster"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
SWITCH = "baremetal.cluster.gke.io/enable-anthos-network-gateway"


async def test_the_annotation_of_a_cluster_switches_its_gateway(kubectl: Kubectl) -> None:
    kubectl.run("create", "namespace", "cluster-a", check=False)
    kubectl.apply(CLUSTER_CRD)
    kubectl("wait", "--for=condition=Established", "--timeout=10s", "crd", CLUSTER_CRD["metadata"]["name"])  # type: ignore[index]
    metadata = {"name": "a", "namespace": "cluster-a"}
    kubectl.apply({"apiVersion": "baremetal.cluster.gke.io/v1", "kind": "Cluster", "metadata": metadata})
    kubectl.apply(gateway({"floatingIPs": ["192.168.1.100"]}, namespace="cluster-a"))
    consumer = Consumer()

    async def settle(source: KubernetesSource, is_there: bool) -> None:
        async with asyncio.timeout(10):
            while (GATEWAY in consumer.objects) != is_there:
                await source.mirror_gateway()
                await asyncio.sleep(0.05)

    try:
        async with following(consumer) as source:
            await asyncio.sleep(0.5)
            await source.mirror_gateway()
            await settle(source, is_there=False)
            for value, is_there in (("true", True), ("false", False)):
                annotation = f"{SWITCH}={value}"
                await asyncio.to_thread(
                    kubectl, "annotate", "clusters", "a", "-n", "cluster-a", annotation, "--overwrite"
                )
                await settle(source, is_there)
    finally:
        kubectl("delete", "crd", "clusters.baremetal.cluster.gke.io")


def vouched(kubectl: Kubectl) -> tuple[str, str]:
    """Who answers for the statuses, and why they are unknown."""
    found = kubectl.get("lease", "egressgw-status", "-n", NAMESPACE)
    return found["spec"]["holderIdentity"], found["metadata"]["annotations"]["networking.gke.io/unknown-because"]


async def test_v1_what_a_leader_wrote_ends_and_comes_back_with_the_next_one(
    kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two controllers with their own rights; the second never leads, and what the first one says stops."""
    monkeypatch.setattr("service.report.validity.RENEW_NS", 400_000_000)
    monkeypatch.setattr("service.report.validity.VALID_NS", 1_200_000_000)
    kubectl.apply(gateway({"floatingIPs": ["192.168.1.100", "192.168.1.101", "192.168.1.102"]}), policy("egress"))
    leader, other = three_addresses(), three_addresses()
    other.term = None
    where = ("ang", "default", "-n", "kube-system")
    async with reporting(leader), reporting(other, "controller2"):
        await eventually(kubectl, "status.leaderTerm", 7, *where)
        await asyncio.sleep(2)
        assert vouched(kubectl) == ("controller1", "")
        assert "True" in await asyncio.to_thread(kubectl, "get", *where)
        leader.term = None
        await eventually(kubectl, "status.floatingIPs", None, *where)
        await asyncio.sleep(1)
        for target in (where, ("enp", "egress"), ("angn", "worker1", "-n", "kube-system")):
            status = (await asyncio.to_thread(kubectl.get, *target))["status"]
            assert {item["status"] for item in status["conditions"]} == {"Unknown"}
            assert {item["reason"] for item in status["conditions"]} == {"MajorityLost"}
            assert status["leaderTerm"] == 7, "a leader of the past is kept out still"
        assert vouched(kubectl)[1] == "MajorityLost: no majority of electors answers"
        assert "validUntil" not in (await asyncio.to_thread(kubectl.get, *where))["status"]
        assert "StatusUnknown" in await asyncio.to_thread(kubectl, "describe", *where)
        # A policy that comes now is not left without a word.
        kubectl.apply(policy("late", egressSourceIP="192.168.1.9"))
        await asyncio.sleep(1.5)
        late = (await asyncio.to_thread(kubectl.get, "enp", "late"))["status"]["conditions"]
        assert {item["status"] for item in late} == {"Unknown"}
        other.term = 8
        await eventually(kubectl, "status.leaderTerm", 8, *where)
        await asyncio.sleep(0.5)
        for target in (where, ("enp", "egress"), ("angn", "worker1", "-n", "kube-system")):
            conditions = (await asyncio.to_thread(kubectl.get, *target))["status"]["conditions"]
            assert "Unknown" not in {item["status"] for item in conditions}, target
        assert vouched(kubectl) == ("controller2", "")


async def test_v3_of_a_status_that_was_written_again_an_old_version_replaces_nothing(kubectl: Kubectl) -> None:
    kubectl.apply(policy("egress"))
    consumer, key = Consumer(), ObjectKey(Kind.POLICY, "", "egress")
    async with following(consumer) as source:
        (read,) = (found for found in await source.written_statuses() if found.key == key)
        await source.write_status(key, {"accepted": True, "conditions": []}, term=7)
        unknown = {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "MajorityLost", "message": ""}]}
        await source.replace_status(replace(read, status=unknown))
        assert kubectl.get("enp", "egress")["status"]["accepted"] is True
        (read,) = (found for found in await source.written_statuses() if found.key == key)
        await source.replace_status(replace(read, status=unknown))
        assert "accepted" not in kubectl.get("enp", "egress")["status"]
