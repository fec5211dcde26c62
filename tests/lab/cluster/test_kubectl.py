"""kubectl, asked by programs: what it is told, and how its answers are taken."""

from pathlib import Path

import pytest
import yaml

from service.lab.cluster.kubectl import Kubectl
from service.model.errors import OperatorError
from tests.lab.cluster.programs import write_program

TOLD = """\
printf '%s ' "$@" >> {folder}/arguments
echo >> {folder}/arguments
env | grep KUBECONFIG= > {folder}/environment
cat > {folder}/input
"""


def kubectl(folder: Path, answer: str = "true") -> Kubectl:
    """One that notes what it was told, and ends as `answer` says."""
    return Kubectl(folder / "kubeconfig", script=write_program(folder / "kubectl", TOLD.format(folder=folder) + answer))


def arguments(folder: Path) -> list[str]:
    return [line.strip() for line in (folder / "arguments").read_text().splitlines()]


def test_several_documents_are_applied_in_one_call(tmp_path: Path) -> None:
    kubectl(tmp_path).apply({"kind": "A", "spec": {"n": 1}}, "kind: B\n---\nkind: C\n", {"kind": "D"})
    assert arguments(tmp_path) == ["apply -f -"]
    documents = list(yaml.safe_load_all((tmp_path / "input").read_text()))
    assert documents == [{"kind": "A", "spec": {"n": 1}}, {"kind": "B"}, {"kind": "C"}, {"kind": "D"}]


def test_an_object_is_read_as_json(tmp_path: Path) -> None:
    assert kubectl(tmp_path, """echo '{"items": [1]}'""").get("-n", "kube-system", "pods") == {"items": [1]}
    assert arguments(tmp_path) == ["get -n kube-system pods -o json"]


def test_it_is_told_of_its_own_kubeconfig_whatever_the_user_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/home/user/production")
    kubectl(tmp_path)("version")
    assert (tmp_path / "environment").read_text() == f"KUBECONFIG={tmp_path}/kubeconfig\n"


def test_a_failure_is_told_in_its_own_words_unless_it_may_fail(tmp_path: Path) -> None:
    refusing = kubectl(tmp_path, "echo 'so far'; echo 'pods \"x\" not found' >&2; exit 3")
    with pytest.raises(OperatorError, match='`kubectl get pod x` failed: pods "x" not found'):
        refusing("get", "pod", "x")
    assert refusing.run("get", "pod", "x", check=False).returncode == 3
