"""What the demo of a cluster says when it cannot go on, and when it stays up."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from service.lab import state as module
from service.lab.cluster.demo import ClusterDemo
from service.lab.narration import Narrator
from service.lab.plan import LabOptions
from service.lab.state import LabState, lab_folder, write_state
from service.model.errors import OperatorError
from tests.lab.cluster.programs import write_program


@pytest.fixture(autouse=True)
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for /run."""
    monkeypatch.setattr(module, "RUN_FOLDER", tmp_path)


def up(name: str) -> Path:
    """A cluster of that name counts as up; its kubectl knows no pods."""
    folder = lab_folder(name)
    folder.mkdir()
    write_state(LabState(options=LabOptions(name=name, kubernetes=True), complete=True))
    return write_program(folder / "kubectl", 'echo "connection refused" >&2; exit 1')


def narrator() -> tuple[Narrator, io.StringIO]:
    printed = io.StringIO()
    return Narrator(Console(file=printed, width=200)), printed


def test_what_to_try_names_the_clusters_own_kubectl_and_its_name_where_it_has_one() -> None:
    script = up("mine")
    demo, (teller, printed) = ClusterDemo(LabOptions(name="mine", kubernetes=True)), narrator()
    demo.show_what_to_try(teller)
    assert f"alias kubectl={script}\n" in printed.getvalue()
    assert "egressgw lab down --name mine\n" in printed.getvalue()


def test_of_the_usual_cluster_no_name_need_be_given() -> None:
    up(LabOptions().name)
    demo, (teller, printed) = ClusterDemo(LabOptions(kubernetes=True)), narrator()
    demo.show_what_to_try(teller)
    assert printed.getvalue().endswith("egressgw lab down\n")


def test_last_words_end_in_words_though_nobody_is_left_to_say_them() -> None:
    demo = ClusterDemo(LabOptions(name="mine", kubernetes=True))
    teller, printed = narrator()
    demo.show_last_words(teller)
    assert "nothing more can be told: there is no lab 'mine'" in printed.getvalue()
    up("mine")
    demo.show_last_words(teller)
    assert "connection refused" in printed.getvalue()
    with pytest.raises(OperatorError, match="no lab 'other'"):
        ClusterDemo(LabOptions(name="other", kubernetes=True)).show_what_to_try(teller)
