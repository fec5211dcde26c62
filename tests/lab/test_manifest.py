"""What a lab tells its members in Kubernetes form is what the service's own reader makes of it."""

from pathlib import Path

import pytest
import yaml

from service.lab.manifest import apply_manifest, pod_manifest, write_manifest, write_manifests
from service.lab.plan import LabOptions, Plan, make_plan
from service.model.errors import OperatorError
from service.model.objects import Namespace, Pod
from service.sources.manifests.source import load_folder


@pytest.fixture
def plan() -> Plan:
    return make_plan(LabOptions(nodes=2))


def test_every_pod_and_namespace_is_read_as_planned(tmp_path: Path, plan: Plan) -> None:
    write_manifests(tmp_path / "manifests", plan, None)
    objects, errors = load_folder(tmp_path / "manifests")
    assert not errors
    pods = {(item.key.namespace, item.key.name): item for item in objects if isinstance(item, Pod)}
    assert set(pods) == {(pod.namespace, pod.name) for pod in plan.pods}
    for pod in plan.pods:
        found = pods[pod.namespace, pod.name]
        assert (found.node, found.ip, dict(found.labels)) == (pod.node, pod.ip, pod.labels)
    labels = {item.key.name: dict(item.labels) for item in objects if isinstance(item, Namespace)}
    assert labels == {name: {"user": name} for name in ("alice", "carol", "paul")}


def test_a_pod_keeps_its_uid_and_no_two_share_one(plan: Plan) -> None:
    uids = [pod_manifest(pod)["metadata"]["uid"] for pod in plan.pods]
    assert len(set(uids)) == len(uids) == 6
    assert uids == [pod_manifest(pod)["metadata"]["uid"] for pod in make_plan(LabOptions(nodes=2)).pods]


def test_files_of_the_source_are_added_and_others_are_not(tmp_path: Path, plan: Plan) -> None:
    source, folder = tmp_path / "source", tmp_path / "manifests"
    source.mkdir()
    for name in ("a.yaml", "b.yml", "c.json", "notes.txt"):
        (source / name).write_text("{}")
    write_manifests(folder, plan, source)
    ours = {"namespaces.yaml", "pods-control1.yaml", "pods-worker1.yaml"}
    assert {path.name for path in folder.iterdir()} == {*ours, "a.yaml", "b.yml", "c.json"}


@pytest.mark.parametrize(("name", "told"), [("absent", "is not a folder"), ("empty", "has no .yaml, .yml, .json file")])
def test_a_source_that_has_none_is_refused(tmp_path: Path, plan: Plan, name: str, told: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(OperatorError, match=f"--source: {tmp_path / name} {told}"):
        write_manifests(tmp_path / "manifests", plan, tmp_path / name)


def test_a_file_is_replaced_whole_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    write_manifest(tmp_path, "policy.yaml", "first: " + "x" * 100)
    with (tmp_path / "policy.yaml").open() as reader:
        apply_manifest(tmp_path, "policy.yaml", [{"kind": "A"}, {"kind": "B"}])
        assert reader.read() == "first: " + "x" * 100, "who has it open reads the former file to its end"
    assert list(yaml.safe_load_all((tmp_path / "policy.yaml").read_text())) == [{"kind": "A"}, {"kind": "B"}]
    assert [path.name for path in tmp_path.iterdir()] == ["policy.yaml"]
