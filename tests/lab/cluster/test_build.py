"""What stands in the way of a cluster is said before anything is built."""

import pytest

from service.lab.cluster import build
from service.lab.cluster.build import cluster_up, missing_for_cluster
from service.lab.plan import LabOptions
from service.model.errors import OperatorError

QUESTIONS = ("missing_for_cni", "missing_for_runtime", "missing_for_cgroups", "missing_for_images")


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What each part says is missing; nothing, unless a test says so. Programs: by the first one's name."""
    missing = dict.fromkeys(QUESTIONS, "")
    monkeypatch.setattr(build, "missing_programs", lambda names: "".join(missing.get(name, "") for name in names[:1]))
    for name in QUESTIONS:
        monkeypatch.setattr(build, name, lambda *_, name=name: missing[name])
    return missing


def test_every_part_is_asked_and_nothing_missing_is_an_empty_word(answers: dict[str, str]) -> None:
    assert missing_for_cluster() == ""
    answers |= {name: f"no {name}" for name in QUESTIONS}
    assert missing_for_cluster() == "; ".join(f"no {name}" for name in QUESTIONS)


def test_a_cni_needs_its_own_programs_beside_those_of_kubernetes(answers: dict[str, str]) -> None:
    answers |= {"kube-apiserver": "no Kubernetes", "flanneld": "no flannel"}
    assert missing_for_cluster() == "no Kubernetes"
    assert missing_for_cluster(LabOptions(kubernetes=True, cni="flannel-vxlan")) == "no Kubernetes; no flannel"


def test_a_cluster_that_cannot_be_built_is_refused_with_the_reason(
    answers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "require_root", lambda: None)
    monkeypatch.setattr(build, "raise_lab", lambda *_, **__: pytest.fail("nothing may be built"))
    answers["missing_for_runtime"] = "not installed: runc"
    with pytest.raises(OperatorError, match="a cluster cannot be built here: not installed: runc"):
        cluster_up(LabOptions(name="mine"))
