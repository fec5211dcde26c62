import importlib
import json
from pathlib import Path

from click.testing import CliRunner

from loadtest.driven_agent import DrivenAgent
from loadtest.driving import CASES, DrivingOptions, DrivingResult, Size, fill, sizes
from loadtest.report import driving_document
from service.datapath.layout import MapName
from service.datapath.steering import Phase

cli = importlib.import_module("loadtest.__main__")


def test_every_number_of_policies_is_measured_with_every_number_of_pods() -> None:
    options = DrivingOptions(policies=(1, 2), pods=(3, 4))
    assert sizes(options) == [Size(1, 3), Size(1, 4), Size(2, 3), Size(2, 4)]


def test_the_summary_is_of_medians_and_the_document_has_every_number() -> None:
    result = DrivingResult(DrivingOptions(), {Size(1, 2): {case: [3.0, 1.0, 2.0] for case, _ in CASES}})
    assert result.summary() == [{"policies": 1, "pods": 2, **{case: 2.0 for case, _ in CASES}}]
    document = json.loads(json.dumps(driving_document(result, {})))
    assert document["sizes"][0]["ms"]["idle"] == [3.0, 1.0, 2.0]


def test_a_run_brings_pods_and_edits_into_the_maps(tmp_path: Path) -> None:
    file = tmp_path / "driving.json"
    arguments = ["driving", "--policies=2", "--pods=4", "--members=3", "--repeats=1", f"--json={file}"]
    done = CliRunner().invoke(cli.main, arguments)
    assert done.exit_code == 0, done.output
    assert "idle turn" in done.output
    assert json.loads(file.read_text())["summary"][0]["edit"] > 0


async def test_what_is_measured_is_a_node_that_serves_its_pods(tmp_path: Path) -> None:
    """A turn that does nothing would be fast."""
    agent = DrivenAgent(tmp_path)
    fill(agent, Size(2, 4), 3)
    async with agent.running():
        await agent.settle()
        agent.learn_devices()
        await agent.settle()
    wanted = {name: len(agent.datapath.pool.wanted(name)) for name in (MapName.SELECTED, MapName.WAYS, MapName.MEMBERS)}
    assert wanted == {MapName.SELECTED: 8, MapName.WAYS: 2, MapName.MEMBERS: 2}
    assert set(agent.reconciler.steering.phases().values()) == {Phase.STEERING}
