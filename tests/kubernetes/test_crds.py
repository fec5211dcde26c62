"""The resource definitions against a real API server: what kubectl apply takes, and what it says to what it refuses."""

import json
import re
from typing import Any

import pytest

from service.report.node import node_status
from service.sources.schema import Schemas, definitions
from tests.kubernetes.bad_objects import API, BAD, EDGES, Bad, gateway, policy
from tests.kubernetes.control_plane import Kubectl
from tests.report.facts import FIRST, SECOND, Site, node
from tests.sources.texts import GATEWAY, POLICY

pytestmark = pytest.mark.kubernetes


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.label.replace(" ", "-"))
def test_a_bad_object_is_refused_with_field_and_advice(kubectl: Kubectl, bad: Bad) -> None:
    said = kubectl.refusal(bad.document)
    assert bad.field in said
    assert bad.advice in said


@pytest.mark.parametrize("document", [*(bad.document for bad in BAD), *EDGES], ids=range(len(BAD) + len(EDGES)))
def test_validate_gives_the_verdict_of_the_api_server(kubectl: Kubectl, document: dict[str, Any]) -> None:
    found = kubectl.run("apply", "--dry-run=server", "-f", "-", text=json.dumps(document), check=False)
    faults = Schemas(definitions()).faults(document)
    assert bool(faults) is (found.returncode != 0), f"{found.stderr} {faults}"


def test_the_users_own_objects_are_accepted(kubectl: Kubectl) -> None:
    # A file of manifests may hold a status; the API server leaves it out.
    kubectl.apply(GATEWAY, POLICY)
    assert kubectl.get("ang", "default", "-n", "kube-system")["spec"]["floatingIPs"][2] == "192.168.1.102"
    assert "192.168.1.100" in kubectl("get", "enp", "egress")
    columns = kubectl("get", "enp", "egress").splitlines()[0].split()
    assert columns == ["NAME", "EGRESS", "IP", "ACCEPTED", "READY", "REASON", "PODS", "HOLDER", "AGE"]
    assert "VALID UNTIL" in kubectl("get", "ang", "default", "-n", "kube-system")
    assert "egress" in kubectl("get", "egress-gateway", "-A")
    kubectl("delete", "enp", "egress")
    kubectl("delete", "ang", "default", "-n", "kube-system")


@pytest.mark.parametrize(
    "document",
    [
        gateway({"floatingIPs": []}),
        gateway({"floatingIPs": [f"10.1.{index}.1" for index in range(200)]}),
        policy("good-all", egress=[{"podSelector": {}}], destinationCIDRs=["0.0.0.0/0"]),
        policy("good-host", destinationCIDRs=["8.8.8.8/32", "10.0.0.0/8"]),
        policy("good-exclusions", destinationCIDRs=["0.0.0.0/0"], excludedCIDRs=["10.0.0.0/8", "8.8.8.8/32"]),
        policy(
            "good-most",
            destinationCIDRs=[f"8.8.{index}.0/24" for index in range(256)],
            excludedCIDRs=[f"8.8.{index}.1/32" for index in range(64)],
        ),
        policy("good-empty-value", egress=[{"podSelector": {"matchLabels": {"example.org/tier": ""}}}]),
        policy(
            "good-expressions",
            egress=[
                {
                    "namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["x", "y"]}]},
                    "podSelector": {"matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]},
                }
            ],
        ),
    ],
    ids=lambda document: f"{document['kind']}-{document['metadata']['name']}",
)
def test_good_objects_of_every_form_are_accepted(kubectl: Kubectl, document: dict[str, object]) -> None:
    kubectl.apply(document)
    kubectl.run("delete", "-f", "-", text=json.dumps(document))


def test_tables_show_every_address(kubectl: Kubectl) -> None:
    """Seen: of the addresses that a node holds its table showed the first one."""
    site = Site(nodes=(node("t", 1),))
    site.place(FIRST, "t")
    site.place(SECOND, "t")
    kubectl.apply(
        gateway({"floatingIPs": [FIRST, SECOND]}),
        {"apiVersion": API, "kind": "AnthosNetworkGatewayNode", "metadata": {"name": "t", "namespace": "kube-system"}},
        policy("t", destinationCIDRs=["8.8.8.0/24", "9.9.9.0/24"]),
    )
    status = {"status": {"addresses": node_status(site.nodes[0], site.facts())["addresses"]}}
    patch = ("--subresource=status", "--type=merge", "-p", json.dumps(status))
    kubectl("-n", "kube-system", "patch", "angn", "t", *patch)
    try:
        for kind in ("angn", "ang"):
            assert {FIRST, SECOND} <= set(re.findall(r"[\d.]+\d", kubectl("get", kind, "-A")))
        assert {"8.8.8.0", "9.9.9.0"} <= set(re.findall(r"[\d.]+\d", kubectl("get", "enp", "-o", "wide")))
    finally:
        for kind, name in (("angn", "t"), ("ang", "default"), ("enp", "t")):
            kubectl("-n", "kube-system", "delete", kind, name)


def test_a_status_of_a_lower_term_is_refused(kubectl: Kubectl) -> None:
    kubectl.apply(
        {"apiVersion": API, "kind": "AnthosNetworkGatewayNode", "metadata": {"name": "t", "namespace": "kube-system"}}
    )
    for term, is_accepted in ((5, True), (5, True), (4, False), (6, True)):
        patch = json.dumps({"status": {"leaderTerm": term}})
        found = kubectl.run(
            "-n", "kube-system", "patch", "angn", "t", "--subresource=status", "--type=merge", "-p", patch, check=False
        )
        assert (found.returncode == 0) is is_accepted, found.stderr
        assert is_accepted or "newer leader" in found.stderr
    kubectl("delete", "angn", "t", "-n", "kube-system")
