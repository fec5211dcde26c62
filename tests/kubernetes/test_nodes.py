"""Node and ServiceCIDR objects of a real API server, as agents and controllers know them."""

import asyncio
import json
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from service.model.gateway_node import NodeRole
from service.model.objects import Change
from service.settings import DatapathSettings
from service.sources.intake import Intake
from service.sources.kubernetes.object_cache import ObjectCache
from service.sources.kubernetes.source import KubernetesSource
from service.sources.source_state import SourceState
from tests.kubernetes.bad_objects import gateway, policy
from tests.kubernetes.conftest import Installation
from tests.kubernetes.control_plane import ControlPlane, Kubectl
from tests.kubernetes.test_source import following
from tests.policy.objects import policy_key
from tests.sources.kubernetes.fake_api_server import until

pytestmark = pytest.mark.kubernetes


@pytest.fixture(autouse=True)
def _kubeconfig(plane: ControlPlane, installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("KUBECONFIG", str(installation.controller))
    yield
    plane.kubectl("delete", "nodes", "--all")


class Knowing:
    """What a process makes of a source."""

    def __init__(self) -> None:
        self.intake = Intake(DatapathSettings())
        self.batches: list[tuple[Change, ...]] = []

    @property
    def is_synced(self) -> bool:
        return self.intake.is_synced

    async def follow(self, source: KubernetesSource) -> None:
        async for batch in source.changes():
            self.batches.append(batch)
            self.intake.take(batch)


def node(name: str, number: int, **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {key.replace("__", "/"): value for key, value in labels.items()}},
        "spec": {"podCIDR": f"10.244.{number}.0/24", "podCIDRs": [f"10.244.{number}.0/24"]},
    }


def report(kubectl: Kubectl, name: str, address: str, *, ready: str = "True", message: str = "") -> None:
    """Write the node's status as its kubelet does."""
    condition = {"type": "Ready", "status": ready, "reason": "KubeletNotReady", "message": message}
    status = {"addresses": [{"type": "InternalIP", "address": address}], "conditions": [condition]}
    patch = json.dumps({"status": status})
    kubectl("patch", "node", name, "--subresource=status", "--type=strategic", "-p", patch)


def networks(*texts: str) -> tuple[IPv4Network, ...]:
    return tuple(IPv4Network(text) for text in texts)


@pytest.mark.parametrize("name", ["w1", None], ids=["agent", "controller"])
async def test_ranges_seeds_and_roles_come_from_the_cluster_and_follow_it(kubectl: Kubectl, name: str | None) -> None:
    control = node("c1", 11)
    control["metadata"]["labels"]["node-role.kubernetes.io/control-plane"] = ""
    kubectl.apply(control, node("w1", 21))
    report(kubectl, "w1", "192.168.1.21")
    knowing = Knowing()
    async with following(knowing, name=name):
        inventory = knowing.intake.inventory
        assert inventory.ranges.services == networks("10.96.0.0/16")
        assert inventory.ranges.pods == networks("10.244.11.0/24", "10.244.21.0/24")
        assert inventory.nodes["c1"].role is NodeRole.CONTROL_PLANE
        assert inventory.addresses() == (IPv4Address("192.168.1.21"),)
        advertised = kubectl("get", "endpointslice", "kubernetes", "-o", "jsonpath={.endpoints[*].addresses[*]}")
        assert inventory.ranges.servers == networks(*sorted(advertised.split()))
        assert inventory.ranges.servers
        await asyncio.to_thread(kubectl.apply, node("w2", 22))
        await until(lambda: IPv4Network("10.244.22.0/24") in inventory.ranges.pods)
        await asyncio.to_thread(report, kubectl, "w1", "192.168.1.31")
        await until(lambda: inventory.addresses() == (IPv4Address("192.168.1.31"),))
        await asyncio.to_thread(kubectl, "delete", "node", "w2")
        await until(lambda: inventory.is_removed("w2"))
        assert IPv4Network("10.244.22.0/24") not in inventory.ranges.pods


async def test_an_agent_that_starts_while_the_api_server_is_away_goes_on_from_what_it_knew(
    plane: ControlPlane, kubectl: Kubectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.sources.kubernetes.source.RESTORE_AFTER_S", 0.5)
    kept, doomed = policy_key("kept"), policy_key("doomed")
    kubectl.apply(node("w1", 21), policy("kept"), policy("doomed", egressSourceIP="192.168.1.101"))
    kubectl.apply(gateway({"floatingIPs": ["192.168.1.100"]}))
    path = tmp_path / "objects.cache"
    try:
        async with following(Knowing(), name="w1", cache=ObjectCache(path, owner="c/w1")) as source:
            assert source.state() == SourceState()
            await until(path.exists)
        await asyncio.to_thread(kubectl, "delete", "enp", "doomed")
        plane.kill_api_server()
        knowing = Knowing()
        async with following(knowing, name="w1", cache=ObjectCache(path, owner="c/w1")) as source:
            assert set(knowing.intake.index.policy_states()) == {kept, doomed}
            assert knowing.intake.inventory.ranges.pods == networks("10.244.21.0/24")
            assert "Unreachable" in source.state().trouble
            assert source.state().restored_from.startswith("20")
            await asyncio.to_thread(plane.start_api_server)
            # What went while nobody looked goes when the API server has been heard.
            # One that has just started forbids what its own roles, not made yet, will allow: for long where it is busy.
            await until(lambda: set(knowing.intake.index.policy_states()) == {kept}, timeout_s=60)
            await until(lambda: source.state() == SourceState(), timeout_s=60)
            await until(lambda: b"doomed" not in path.read_bytes())
    finally:
        plane.kubectl("delete", "enp,ang", "--all", "-A")


async def test_cordon_and_shutdown_are_seen_and_a_silent_kubelet_changes_nothing(kubectl: Kubectl) -> None:
    kubectl.apply(node("w1", 21))
    report(kubectl, "w1", "192.168.1.21")
    knowing = Knowing()
    async with following(knowing, name="w1"):
        inventory = knowing.intake.inventory
        await asyncio.to_thread(kubectl, "cordon", "w1")
        await until(lambda: not inventory.is_schedulable("w1"))
        await asyncio.to_thread(kubectl, "uncordon", "w1")
        await until(lambda: inventory.is_schedulable("w1"))
        silent = "Kubelet stopped posting node status."
        await asyncio.to_thread(report, kubectl, "w1", "192.168.1.21", ready="Unknown", message=silent)
        await until(lambda: inventory.nodes["w1"].is_ready is None)
        assert inventory.is_schedulable("w1")
        message = "node is shutting down"
        await asyncio.to_thread(report, kubectl, "w1", "192.168.1.21", ready="False", message=message)
        await until(lambda: not inventory.is_schedulable("w1"))
