"""Objects judged by our own resource definitions. That the API server judges alike: tests/kubernetes."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from service.model.errors import OperatorError
from service.sources.schema import Schemas, definitions
from tests.kubernetes.bad_objects import API, BAD, Bad, gateway, policy

CRDS = Path(__file__).parents[2] / "deploy" / "crds"
SCHEMAS = Schemas(CRDS)


def test_this_versions_definitions_are_found() -> None:
    assert sorted(path.name for path in definitions().glob("*.yaml")) == sorted(path.name for path in CRDS.iterdir())


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.label.replace(" ", "-"))
def test_a_bad_object_is_refused_where_it_is_wrong(bad: Bad) -> None:
    faults = SCHEMAS.faults(bad.document)
    assert faults
    assert any(bad.field.startswith(fault.path) or fault.path.startswith(bad.field) for fault in faults)


@pytest.mark.parametrize(
    "document",
    [
        gateway({"floatingIPs": []}),
        gateway({"floatingIPs": [f"10.1.{index}.1" for index in range(200)]}, namespace="cluster-one"),
        policy("good-all", egress=[{"podSelector": {}}], destinationCIDRs=["0.0.0.0/0"]),
        policy("good-null", egress=[{"podSelector": {"matchLabels": None}}]),
        policy("good-empty-value", egress=[{"podSelector": {"matchLabels": {"example.org/tier": ""}}}]),
        policy() | {"status": {"leaderTerm": "not ours to judge"}},
        {"apiVersion": "v1", "kind": "Pod", "spec": 3},
        None,
        {},
    ],
)
def test_a_good_object_and_one_of_another_kind_are_not_refused(document: Any) -> None:
    assert SCHEMAS.faults(document) == ()


def test_limits_are_those_of_the_definition_and_of_nothing_else(tmp_path: Path) -> None:
    text = (CRDS / "egressnatpolicy.yaml").read_text(encoding="utf-8")
    document = policy(destinationCIDRs=[f"10.{index}.0.0/16" for index in range(20)])
    assert SCHEMAS.faults(document) == ()
    (tmp_path / "crd.yaml").write_text(text.replace("maxItems: 256", "maxItems: 19"), encoding="utf-8")
    (fault,) = Schemas(tmp_path).faults(document)
    assert (fault.path, fault.message) == ("spec.destinationCIDRs", "20 entries are too many: at most 19")


def test_rules_are_those_of_the_definition_with_its_words(tmp_path: Path) -> None:
    text = (CRDS / "egressnatpolicy.yaml").read_text(encoding="utf-8")
    (tmp_path / "crd.yaml").write_text(
        text.replace("rule: isIP(self)\n", "rule: self == 'mine'\n").replace(
            "message: this is not an IP", "message: no"
        ),
        encoding="utf-8",
    )
    (fault,) = Schemas(tmp_path).faults(policy())
    assert (fault.path, fault.message.startswith("no address")) == ("spec.egressSourceIP", True)


SMALL: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2, "pattern": "^a"},
        "count": {"type": "integer"},
        "list": {"type": "array", "minItems": 1, "items": {"type": "string", "enum": ["x"]}},
        "map": {"type": "object", "maxProperties": 1, "additionalProperties": {"type": "integer"}},
    },
}


@pytest.mark.parametrize(
    ("fields", "path", "words"),
    [
        ({"name": "a"}, "name", "too few"),
        ({"name": "bb"}, "name", "does not match"),
        ({"count": True}, "count", "integer is expected"),
        ({"count": "1"}, "count", "integer is expected"),
        ({"list": []}, "list", "at least 1"),
        ({"list": ["x", "y"]}, "list[1]", "none of x"),
        ({"map": {"a": 1, "b": 2}}, "map", "at most 1"),
        ({"map": {"a": "x"}}, "map.a", "integer is expected"),
        ({"other": 1}, "other", "unknown field"),
    ],
)
def test_each_kind_of_limit_is_kept(tmp_path: Path, fields: dict[str, Any], path: str, words: str) -> None:
    write(tmp_path, SMALL)
    assert Schemas(tmp_path).faults({"apiVersion": "g/v1", "kind": "Small"} | {"name": "aa", "count": 1}) == ()
    (fault,) = Schemas(tmp_path).faults({"apiVersion": "g/v1", "kind": "Small"} | fields)
    assert (fault.path, words in fault.message) == (path, True)


def write(folder: Path, schema: dict[str, Any]) -> None:
    known = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}} | schema["properties"]
    version = {"name": "v1", "schema": {"openAPIV3Schema": schema | {"properties": known}}}
    spec = {"group": "g", "names": {"kind": "Small"}, "versions": [version]}
    (folder / "crd.yaml").write_text(yaml.safe_dump({"spec": spec}), encoding="utf-8")


@pytest.mark.parametrize(
    "text", [None, "", "spec: {}", "spec: [", "spec: {group: g, names: {kind: K}, versions: [{name: v1, schema: {}}]}"]
)
def test_a_folder_without_definitions_that_are_understood_is_told(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "crd.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(OperatorError):
        Schemas(tmp_path)


def test_a_rule_that_is_not_understood_is_told_and_not_passed_over(tmp_path: Path) -> None:
    write(tmp_path, SMALL | {"x-kubernetes-validations": [{"rule": "self.unknown_to_us()", "message": "m"}]})
    with pytest.raises(OperatorError, match="unknown_to_us"):
        Schemas(tmp_path)


def test_rules_on_changes_are_not_asked_of_a_new_object() -> None:
    node = {"apiVersion": API, "kind": "AnthosNetworkGatewayNode", "metadata": {"name": "t"}}
    assert SCHEMAS.faults(node) == ()
