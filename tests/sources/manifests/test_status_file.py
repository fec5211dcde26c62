from pathlib import Path

import pytest
import yaml

from service.model.errors import TransientError
from service.model.objects import Kind, ObjectKey
from service.sources.manifests.status_file import StatusFolder

GATEWAY = ObjectKey(Kind.GATEWAY, "kube-system", "default")
POLICY = ObjectKey(Kind.POLICY, "", "egress")
STAMP = "2024-05-01T00:00:00.000000001Z"


def test_status_is_an_object_of_its_own_beside_the_manifests(tmp_path: Path) -> None:
    folder = StatusFolder(tmp_path)
    assert folder.write(GATEWAY, {"nodes": {"worker1": "Up"}}, created="")
    assert folder.write(POLICY, {}, created=STAMP)
    names = sorted(path.name for path in (tmp_path / "status").iterdir())
    assert names == ["anthosnetworkgateway.kube-system.default.yaml", "egressnatpolicy.egress.yaml"]
    document = yaml.safe_load(folder.path(GATEWAY).read_text())
    assert document["metadata"] == {"namespace": "kube-system", "name": "default"}
    assert document["status"] == {"nodes": {"worker1": "Up"}}
    assert folder.created(POLICY) == STAMP


def test_an_unchanged_status_is_not_written_again(tmp_path: Path) -> None:
    folder = StatusFolder(tmp_path)
    assert folder.write(POLICY, {"matchedPods": 1}, created=STAMP)
    before = folder.path(POLICY).stat().st_ino
    assert not folder.write(POLICY, {"matchedPods": 1}, created=STAMP)
    assert folder.path(POLICY).stat().st_ino == before
    assert folder.write(POLICY, {"matchedPods": 2}, created=STAMP)


@pytest.mark.parametrize("text", ["", "[", "a: 1", "metadata: {creationTimestamp: now}", "metadata: 1", "--- 1\n--- 2"])
def test_a_status_that_was_tampered_with_lends_no_age(tmp_path: Path, text: str) -> None:
    folder = StatusFolder(tmp_path)
    folder.write(POLICY, {}, created=STAMP)
    folder.path(POLICY).write_text(text)
    assert folder.created(POLICY) == ""
    assert folder.write(POLICY, {}, created=STAMP)


def test_a_status_that_cannot_be_written_is_tried_again_later(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("a file in the way")
    with pytest.raises(TransientError, match=r"egressnatpolicy\.egress\.yaml"):
        StatusFolder(tmp_path).write(POLICY, {}, created="")


def test_deleting_twice_is_fine(tmp_path: Path) -> None:
    folder = StatusFolder(tmp_path)
    folder.write(POLICY, {}, created=STAMP)
    folder.delete(POLICY)
    folder.delete(POLICY)
    assert folder.created(POLICY) == ""
