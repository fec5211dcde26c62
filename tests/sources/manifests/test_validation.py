"""A folder judged by decoders and by the schemas of the API server together."""

from pathlib import Path
from typing import Any

import yaml

from service.sources.manifests.validation import validate_folder
from service.sources.schema import Schemas, definitions
from tests.kubernetes.bad_objects import gateway, policy

SCHEMAS = Schemas(definitions())


def judged(folder: Path, *documents: dict[str, Any]) -> tuple[list[str], list[str]]:
    (folder / "all.yaml").write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    objects, errors = validate_folder(folder, SCHEMAS)
    return [one.key.name for one in objects], [f"{error.name} {error.field}: {error.message}" for error in errors]


def test_what_only_the_api_server_would_refuse_is_refused(tmp_path: Path) -> None:
    """Seen: 65 rules, 257 destinations and a label key of two slashes were valid here, and refused by kubectl apply."""
    many = policy("many", destinationCIDRs=[f"10.{index // 250}.{index % 250}.0/24" for index in range(257)])
    names, errors = judged(tmp_path, many, policy("good"), gateway({"floatingIPs": ["192.168.1.100"]}))
    assert names == ["default", "good"]
    assert errors == ["many spec.destinationCIDRs: 257 entries are too many: at most 256"]


def test_what_both_refuse_is_told_once_in_our_words(tmp_path: Path) -> None:
    names, errors = judged(tmp_path, policy("bad", destinationCIDRs=["8.8.8.8"]))
    assert (names, len(errors)) == ([], 1)
    assert "write 8.8.8.8/32" in errors[0]


def test_two_faults_of_one_object_are_both_told_whoever_finds_them(tmp_path: Path) -> None:
    both = policy("bad", egress=[{"podSelector": {}}] * 65, destinationCIDRs=["8.8.8.8"])
    _, errors = judged(tmp_path, both)
    assert [error.split(":")[0] for error in errors] == ["bad spec.destinationCIDRs[0]", "bad spec.egress"]


def test_objects_in_a_list_are_judged_too(tmp_path: Path) -> None:
    many = policy("many", egress=[{"podSelector": {}}] * 65)
    _, errors = judged(tmp_path, {"apiVersion": "v1", "kind": "List", "items": [many]})
    assert errors == ["many spec.egress: 65 entries are too many: at most 64"]


def test_a_file_that_is_no_yaml_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("a: [", encoding="utf-8")
    objects, errors = validate_folder(tmp_path, SCHEMAS)
    assert (objects, len(errors)) == ((), 1)
