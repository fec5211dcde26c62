"""What `kubectl get` shows: the columns of the definitions, over objects whose status a leader has written."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from service.model.gateway_node import NodeRole
from service.model.objects import ClusterNode, Kind, ObjectKey, Upsert
from service.report.objects import object_status
from service.sources.kubernetes.status_document import complete_status
from tests.deploy.manifests import documents
from tests.policy.objects import policy
from tests.report.facts import FIRST, SECOND, Site, node

STEP = re.compile(r'\.(\w+)|\[(\*)\]|\[\?\(@\.type=="(\w+)"\)\]')
DEFINITIONS = {
    Kind.GATEWAY: "crds/anthosnetworkgateway.yaml",
    Kind.NODE: "crds/anthosnetworkgatewaynode.yaml",
    Kind.POLICY: "crds/egressnatpolicy.yaml",
}


def version(kind: Kind) -> dict[str, Any]:
    (found,) = documents(DEFINITIONS[kind])[0]["spec"]["versions"]
    return dict(found)


def written() -> dict[ObjectKey, dict[str, Any]]:
    """Statuses of a site where one node holds both addresses."""
    site = Site((node("worker1", 1), node("worker2", 2)))
    site.list_only(FIRST, SECOND)
    site.take(
        Upsert(policy("egress", ip=FIRST)),
        Upsert(policy("unknown", ip="192.168.1.9")),
        Upsert(ClusterNode(ObjectKey(Kind.CLUSTER_NODE, "", "worker1"), NodeRole.WORKER)),
    )
    for address in (FIRST, SECOND):
        site.place(address, "worker1", successor="worker2")
    return {
        key: complete_status(status, {}, generation=1, term=7, now="2024-05-05T00:00:00.000000Z")
        for key, status in object_status(site.facts()).items()
    }


def cell(document: dict[str, Any], path: str) -> str:
    """As the API server prints it: the first of the values that the path finds."""
    values: list[Any] = [document]
    for name, every, condition in STEP.findall(path):
        if name:
            values = [value[name] for value in values if name in value]
        else:
            values = [one for value in values for one in value if every or one["type"] == condition]
    return str(values[0]) if values else ""


def unknown(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    """The fields that the schema does not have."""
    if isinstance(value, list):
        for one in value:
            yield from unknown(one, schema["items"], f"{path}[]")
    elif isinstance(value, dict):
        for name, inner in value.items():
            known = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if known is None:
                yield f"{path}.{name}"
            else:
                yield from unknown(inner, known, f"{path}.{name}")


def test_the_table_of_nodes_shows_every_address_that_a_node_holds() -> None:
    """Seen: it showed the first one, for of a path that finds several values a table shows no other."""
    status = written()[ObjectKey(Kind.NODE, "kube-system", "worker1")]
    columns = {column["name"]: column["jsonPath"] for column in version(Kind.NODE)["additionalPrinterColumns"]}
    assert cell({"status": status}, columns["Floating IPs"]) == f"{FIRST}, {SECOND}"


def test_no_column_shows_one_value_of_several() -> None:
    for kind in DEFINITIONS:
        for column in version(kind)["additionalPrinterColumns"]:
            assert "[*]" not in column["jsonPath"], f"{kind}: {column['name']}"


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_the_definition_has_every_field_of_a_status_or_the_api_server_would_drop_it_in_silence(kind: Kind) -> None:
    schema = version(kind)["schema"]["openAPIV3Schema"]
    statuses = [status for key, status in written().items() if key.kind is kind]
    assert statuses
    assert [field for status in statuses for field in unknown({"status": status}, schema, "")] == []
