import fcntl
import os
from pathlib import Path

import pytest
import yaml

from service.model.errors import TransientError
from service.model.objects import Kind, ObjectKey
from service.model.validity import Loss, Validity, WrittenStatus
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


SAID = Validity("controller1", 7, "2024-01-01T00:00:00Z")
LOST = Validity("controller2", 7, "2024-01-01T00:00:00Z", Loss("MajorityLost", "no majority"))


def test_v2_of_two_that_saw_the_same_validity_one_renews_it(tmp_path: Path) -> None:
    one, other = StatusFolder(tmp_path), StatusFolder(tmp_path)
    assert one.validity() is None
    first = one.renew(SAID, None)
    assert first is not None
    assert other.validity() == first
    assert other.renew(LOST, None) is None, "there is one by now"
    second = other.renew(LOST, first)
    assert second is not None
    assert one.renew(SAID, first) is None
    assert one.validity() == second
    assert second.loss == LOST.loss


def test_v3_a_status_is_replaced_only_as_it_was_read_and_keeps_the_age_in_it(tmp_path: Path) -> None:
    folder = StatusFolder(tmp_path)
    folder.write(POLICY, {"accepted": True}, created=STAMP)
    (read,) = folder.written()
    assert (read.key, read.status) == (POLICY, {"accepted": True})
    folder.write(POLICY, {"accepted": False}, created=STAMP)
    folder.replace(WrittenStatus(POLICY, {"conditions": []}, read.version))
    assert folder.written()[0].status == {"accepted": False}
    folder.replace(WrittenStatus(POLICY, {"conditions": []}, folder.written()[0].version))
    assert folder.written()[0].status == {"conditions": []}
    assert folder.created(POLICY) == STAMP
    folder.delete(POLICY)
    folder.replace(WrittenStatus(POLICY, {"conditions": []}, read.version))
    assert folder.written() == ()


NO_COUNT = '{"speaker": "a", "term": 1, "confirmed": "", "version": "x"}'


@pytest.mark.parametrize("text", ["", "[", "{}", '{"speaker": 1}', NO_COUNT])
def test_a_validity_that_cannot_be_understood_is_none_and_is_written_anew(tmp_path: Path, text: str) -> None:
    folder = StatusFolder(tmp_path)
    folder.renew(SAID, None)
    (tmp_path / "status" / ".validity").write_text(text)
    assert folder.validity() is None
    assert folder.renew(SAID, None) == folder.validity()


@pytest.mark.parametrize("text", ["[", "kind: Other\nmetadata: {name: a}\nstatus: {}", "a: 1", "--- 1\n--- 2"])
def test_a_file_that_is_no_status_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "status").mkdir()
    (tmp_path / "status" / "other.yaml").write_text(text)
    assert StatusFolder(tmp_path).written() == ()


def test_who_was_stopped_in_the_middle_holds_up_nobody_for_longer_than_an_attempt(tmp_path: Path) -> None:
    folder = StatusFolder(tmp_path)
    folder.write(POLICY, {}, created=STAMP)
    descriptor = os.open(tmp_path / "status", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(TransientError):
            folder.renew(SAID, None)
        with pytest.raises(TransientError):
            folder.write(POLICY, {"accepted": True}, created=STAMP)
    finally:
        os.close(descriptor)
    assert folder.renew(SAID, None) is not None


def test_v6_every_status_file_is_known_by_its_name_whoever_wrote_it(tmp_path: Path) -> None:
    folder = StatusFolder(tmp_path)
    assert folder.recorded() == ()
    keys = (GATEWAY, ObjectKey(Kind.NODE, "kube-system", "worker1.example"), ObjectKey(Kind.POLICY, "", "a.b"))
    for key in keys:
        folder.write(key, {}, created="")
    folder.renew(SAID, None)
    for name in ("README.md", "pods.yaml", "egressnatpolicy.yaml", ".anthosnetworkgateway.kube-system.default.yaml.7"):
        (tmp_path / "status" / name).write_text("")
    assert set(folder.recorded()) == set(keys)


def test_v2_a_leader_that_stood_still_replaces_nothing_of_a_newer_one(tmp_path: Path) -> None:
    folder = StatusFolder(tmp_path)
    folder.renew(SAID, None)
    folder.write(POLICY, {"accepted": True}, created=STAMP, term=7)
    with pytest.raises(TransientError, match="a newer leader, of term 7"):
        folder.write(POLICY, {"accepted": False}, created=STAMP, term=6)
    assert folder.written()[0].status == {"accepted": True}
