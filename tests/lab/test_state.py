"""What a lab remembers of itself, and that one at a time works on it."""

import os
import threading
from pathlib import Path

import msgspec
import pytest

from service.lab import state as module
from service.lab.plan import LabOptions
from service.lab.process import ProcessRecord
from service.lab.state import LabState, lab_folder, locked, read_state, write_state
from service.model.errors import OperatorError

AGENT = ProcessRecord("agent", "worker1", "egw-worker1", ("sleep",), "/log", "/folder", pid=7, start_time=70)


@pytest.fixture(autouse=True)
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for /run."""
    monkeypatch.setattr(module, "RUN_FOLDER", tmp_path)
    return tmp_path


def test_what_is_written_is_read_again() -> None:
    state = LabState(
        LabOptions(name="mine", nodes=5, kafka="127.0.0.1:9"), complete=True, host_settings={"/proc/sys/x": "1024"}
    ).with_process(AGENT)
    lab_folder("mine").mkdir()
    write_state(state)
    assert read_state("mine") == state
    assert os.listdir(lab_folder("mine")) == ["state.json"]


def test_there_is_no_state_of_a_lab_that_is_not_there() -> None:
    assert read_state("mine") is None


@pytest.mark.parametrize("text", ["{", "[]", '{"options": {"nodes": "three"}}'])
def test_a_state_that_cannot_be_read_is_told_with_what_clears_it(text: str) -> None:
    lab_folder("mine").mkdir()
    (lab_folder("mine") / "state.json").write_text(text)
    with pytest.raises(OperatorError, match=r"state\.json: .*`egressgw lab down` clears it"):
        read_state("mine")


def test_the_usual_lab_has_the_short_folder_and_no_other_lab_shares_it(run_folder: Path) -> None:
    assert lab_folder("egw") == run_folder / "egressgw-lab"
    assert lab_folder("mine") == run_folder / "egressgw-lab-mine"


def test_a_program_started_again_takes_the_place_of_its_former_record() -> None:
    keeper = msgspec.structs.replace(AGENT, kind="keeper", pid=8)
    elsewhere = msgspec.structs.replace(AGENT, member="worker2", pid=9)
    again = msgspec.structs.replace(AGENT, pid=10)
    state = LabState(LabOptions())
    for record in (AGENT, keeper, elsewhere, again):
        state = state.with_process(record)
    assert state.processes == (keeper, elsewhere, again)
    assert state.process("agent", "worker1") == again
    assert state.process("agent", "worker2") == elsewhere
    assert state.process("capture", "fabric") is None


def test_one_at_a_time_works_on_a_lab_and_labs_of_other_names_are_free() -> None:
    name = f"egwt{os.getpid()}lock"
    refused: list[str] = []

    def try_it() -> None:
        try:
            with locked(name):
                pass
        except OperatorError as error:
            refused.append(str(error))

    def elsewhere() -> None:
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()

    with locked(name), locked(f"{name}2"):
        elsewhere()
    assert refused == [f"another `egressgw lab` is at work on the lab {name!r}; wait for it to end"]
    elsewhere()
    assert len(refused) == 1, "free again when the first is done"
