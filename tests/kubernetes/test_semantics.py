"""Objects that the API server takes and that are wrong all the same: told where they can be mended."""

import asyncio
from collections.abc import Iterator

import pytest

from service.gateway.assignment import assign
from service.host import clock
from service.model.lease import Stamp
from tests.kubernetes.bad_objects import DOUBTFUL, Doubtful, policy
from tests.kubernetes.control_plane import ControlPlane, Kubectl
from tests.kubernetes.test_source import eventually, reporting
from tests.report.facts import Site, node

pytestmark = pytest.mark.kubernetes


@pytest.fixture(autouse=True)
def _kubeconfig(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))
    yield
    plane.kubectl("delete", "enp,ang,angn", "--all", "-A")
    plane.kubectl("delete", "events", "--all", "-A")


def place(site: Site) -> None:
    """As a leader does, and every holder obeys."""
    gateway = site.intake.index.gateway()
    rows = assign(gateway.floating_ips if gateway else (), site.nodes, {}, {}, stamp=Stamp(7, 1)).rows
    for row in rows:
        site.place(str(row.floating_ip), row.holder, row.reason)


def two_workers() -> Site:
    return Site((node("worker1", 1), node("worker2", 2)), clock.boot_ns)


async def describes(kubectl: Kubectl, case: Doubtful) -> None:
    said = ""
    async with asyncio.timeout(10):
        while not (case.reason in said and case.advice in said and "Warning" in said):
            said = await asyncio.to_thread(kubectl, "describe", *case.where)


@pytest.mark.parametrize("case", DOUBTFUL, ids=lambda case: case.label.replace(" ", "-"))
async def test_what_is_wrong_is_described_with_reason_and_advice_and_the_rest_goes_on(
    kubectl: Kubectl, case: Doubtful
) -> None:
    kubectl.apply(*case.documents[:2])
    for document in case.documents[2:]:
        # Creation times have seconds, and the older of two policies wins.
        await asyncio.sleep(1.1)
        kubectl.apply(document)
    site = two_workers()
    async with reporting(site):
        place(site)
        await describes(kubectl, case)
        await asyncio.to_thread(kubectl.apply, policy("good"))
        await eventually(kubectl, "status.holder", "worker1", "enp", "good")


async def test_columns_tell_at_a_glance_what_is_held_and_by_whom(kubectl: Kubectl) -> None:
    kubectl.apply(*DOUBTFUL[0].documents, policy("good"))
    site = two_workers()
    async with reporting(site):
        place(site)
        await eventually(kubectl, "status.holder", "worker1", "enp", "good")
        await eventually(kubectl, "status.state", "Up", "angn", "worker2", "-n", "kube-system")
    policies = kubectl("get", "enp")
    assert policies.splitlines()[0].split()[:4] == ["NAME", "EGRESS", "IP", "ACCEPTED"]
    assert "UnknownEgressIP" in policies
    assert "True" in kubectl("get", "ang", "-A")
    nodes = kubectl("get", "angn", "-n", "kube-system")
    assert "SCHEDULABLE" in nodes
    assert "192.168.1.101" in nodes
