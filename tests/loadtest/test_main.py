import importlib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from loadtest.datapath import METRICS, VARIANTS, DatapathOptions, DatapathResult
from loadtest.failover import FailoverOptions, FailoverResult, Kill
from service.model.errors import OperatorError, TransientError

cli = importlib.import_module("loadtest.__main__")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the measurements are asked for, in the place of measuring."""
    options: dict[str, Any] = {}

    def failover(wanted: FailoverOptions, report: Any, advance: Any) -> FailoverResult:
        options["failover"] = wanted
        result = FailoverResult(wanted)
        if wanted.profile == "fastest":
            result.kills.append(Kill(1, "worker1", "worker2", "pod", None, {"192.168.1.21": 1}, 1.0))
            advance(result.kills[0])
        return result

    def datapath(wanted: DatapathOptions, report: Any, advance: Any) -> DatapathResult:
        options["datapath"] = wanted
        if wanted.name == "broken":
            raise TransientError("worker1 is not ready")
        if wanted.name == "wrong":
            raise OperatorError("the lab needs root")
        result = DatapathResult(wanted, core=0)
        result.rounds.append({variant: {metric.key: 1.0 for metric in METRICS} for variant in VARIANTS})
        return result

    monkeypatch.setattr(cli, "measure_failover", failover)
    monkeypatch.setattr(cli, "measure_datapath", datapath)
    return options


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, list(arguments))


def test_options_of_failover_arrive(asked: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "failover.json"
    done = _run("failover", "--kills", "4", "--profile", "fast", "--seed", "0", "--json", str(file))
    assert done.exit_code == 0, done.output
    assert asked["failover"] == FailoverOptions(kills=4, profile="fast", seed=0)
    assert file.exists()


@pytest.mark.parametrize("kafka", ["none", "down", "silent", "slow", "full"])
def test_what_becomes_of_the_audit_records_arrives(asked: dict[str, Any], kafka: str) -> None:
    assert _run("failover", "--kafka", kafka).exit_code == 0
    assert asked["failover"].kafka == kafka


def test_without_a_seed_one_is_drawn(asked: dict[str, Any]) -> None:
    _run("failover")
    first = asked["failover"].seed
    _run("failover")
    assert asked["failover"].seed != first


def test_options_of_datapath_arrive(asked: dict[str, Any]) -> None:
    done = _run("datapath", "--rounds", "2", "--duration", "0.5", "--pod", "bridge", "--no-bulk", "--name", "mine")
    assert done.exit_code == 0, done.output
    assert asked["datapath"] == DatapathOptions(rounds=2, duration_s=0.5, name="mine", on_bridge=True, bulk=False)


def test_a_broken_promise_is_exit_status_1(asked: dict[str, Any]) -> None:
    done = _run("failover", "--profile", "fastest")
    assert done.exit_code == 1
    assert "192.168.1.21" in done.output


def test_our_own_errors_are_told_in_one_line(asked: dict[str, Any]) -> None:
    for name, status, words in (("broken", 1, "worker1 is not ready"), ("wrong", 2, "the lab needs root")):
        done = _run("datapath", "--name", name)
        assert done.exit_code == status
        assert f"loadtest: {words}" in done.output
        assert "Traceback" not in done.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("failover", "--kills", "0"),
        ("failover", "--profile", "slow"),
        ("failover", "--kafka", "fast"),
        ("datapath", "--duration", "0"),
    ],
)
def test_nonsense_is_refused(asked: dict[str, Any], arguments: tuple[str, ...]) -> None:
    assert _run(*arguments).exit_code == 2
    assert asked == {}
