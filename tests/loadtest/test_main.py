import importlib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from loadtest.chaos.arena import RoundResult
from loadtest.chaos.judge import Finding, Promise
from loadtest.chaos.known import Known
from loadtest.chaos.planted import PLANTED, Outcome, Planted
from loadtest.chaos.run import ChaosOptions, ChaosResult
from loadtest.chaos.schedule import make_round
from loadtest.failover import FailoverOptions, FailoverResult, Kill
from loadtest.goal import Figure, Row
from loadtest.row_table import RowsMeasured
from loadtest.rows.options import DatapathOptions
from loadtest.scale.options import ScaleOptions, ScaleSizes
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

    def datapath(wanted: DatapathOptions, report: Any, advance: Any) -> RowsMeasured[DatapathOptions]:
        options["datapath"] = wanted
        if wanted.name == "broken":
            raise TransientError("worker1 is not ready")
        if wanted.name == "wrong":
            raise OperatorError("the lab needs root")
        row = Row("cost", [Figure("CPU", 1.0)], error="a wrong source" if wanted.name == "leaks" else "")
        advance(row)
        return RowsMeasured(wanted, [row])

    def scale(wanted: ScaleOptions, report: Any, advance: Any) -> RowsMeasured[ScaleOptions]:
        options["scale"] = wanted
        row = Row("turn", [Figure("idle turn", 1.0)], error="no answer" if wanted.name == "broken" else "")
        advance(row)
        return RowsMeasured(wanted, [row])

    monkeypatch.setattr(cli, "measure_scale_rows", scale)
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


def test_cases_and_peers_of_failover_arrive_each_once(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "require_keepalived", lambda: None)
    words = ["--case", "move", "--case", "crash", "--case", "move", "--peer", "1", "--peer", "0.1"]
    assert _run("failover", *words).exit_code == 0
    assert (asked["failover"].cases, asked["failover"].peers_s) == (("move", "crash"), (1.0, 0.1))


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
    paths = ("--path", "direct", "--path", "policy", "--path", "direct")
    done = _run(
        "datapath", "--rounds", "2", "--duration", "0.5", "--no-bulk", "--name", "mine", "--only", "cost,edit", *paths
    )
    assert done.exit_code == 0, done.output
    assert asked["datapath"] == DatapathOptions(2, 0.5, "mine", False, ("cost", "edit"), ("direct", "policy"))
    assert _run("datapath").exit_code == 0
    assert asked["datapath"] == DatapathOptions()


def test_a_row_that_failed_is_exit_status_1_and_a_row_that_there_is_not_is_2(asked: dict[str, Any]) -> None:
    done = _run("datapath", "--name", "leaks")
    assert done.exit_code == 1
    assert "FAILED: cost: a wrong source" in done.output
    assert _run("datapath", "--only", "cots").exit_code == 2


def test_options_of_scale_arrive_and_what_is_measured_is_written(asked: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "scale.json"
    more = ("--repeats", "2", "--churn-minutes", "60", "--name", "mine", "--json", str(file))
    done = _run("scale", "--only", "turn,churn", *more, "--plots", str(tmp_path / "plots"))
    assert done.exit_code == 0, done.output
    assert asked["scale"] == ScaleOptions(2, "mine", ("turn", "churn"), ScaleSizes(churn_s=3600))
    assert "turn: no goals" in done.output
    assert file.exists()
    assert (tmp_path / "plots").is_dir()
    assert _run("scale").exit_code == 0
    assert asked["scale"] == ScaleOptions()


def test_a_row_of_scale_that_failed_is_exit_status_1_and_one_that_there_is_not_is_2(asked: dict[str, Any]) -> None:
    done = _run("scale", "--name", "broken")
    assert done.exit_code == 1
    assert "FAILED: turn: no answer" in done.output
    assert _run("scale", "--only", "trun").exit_code == 2


def test_plots_that_cannot_be_drawn_are_told_before_anything_is_measured(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OperatorError("plots need matplotlib")

    monkeypatch.setattr(cli, "require_matplotlib", fail)
    done = _run("scale", "--plots", str(tmp_path))
    assert done.exit_code == 2
    assert "plots need matplotlib" in done.output
    assert asked == {}


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
        ("datapath", "--path", "any"),
    ],
)
def test_nonsense_is_refused(asked: dict[str, Any], arguments: tuple[str, ...]) -> None:
    assert _run(*arguments).exit_code == 2
    assert asked == {}


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[ChaosOptions]:
    """Runs of chaos that are asked for; each finds a leak in its first round."""
    asked: list[ChaosOptions] = []

    def chaos(options: ChaosOptions, report: Any, done: Any) -> ChaosResult:
        asked.append(options)
        found = [Finding(1, Promise.LEAK, "to a host that is no node: worker1-0 proto 6 a > b")]
        result = ChaosResult(
            options, [RoundResult(make_round(options.events or ("mtu",), options.seed, 1), 1.0, found)]
        )
        done(result.rounds[0])
        return result

    monkeypatch.setattr(cli, "run_chaos", chaos)
    monkeypatch.setattr("loadtest.chaos.run.run_chaos", chaos)
    return asked


def chaos(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["chaos", "--seed", "5", *arguments])


def test_a_run_of_chaos_that_finds_something_ends_with_the_shortest_list(played: list[ChaosOptions]) -> None:
    result = chaos("--events", "mtu", "--minutes", "1")
    assert result.exit_code == 1
    assert (
        "shortest that fails, after 1 tries: python -m loadtest chaos --seed 5 --events mtu --rounds 1" in result.output
    )
    assert [options.rounds for options in played] == [(), ((1, ""),)]


def test_it_is_not_looked_for_where_no_time_is_given_for_it(played: list[ChaosOptions]) -> None:
    assert "shortest" not in chaos("--events", "mtu", "--shorten", "0").output
    assert len(played) == 1


def test_known_faults_are_no_failure_unless_it_is_strict(
    played: list[ChaosOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Known("a frame of TCP leaves", Promise.LEAK, frozenset(("policy-removed",)), " proto 6 ")
    monkeypatch.setattr(cli, "ChaosOptions", partial(ChaosOptions, known=(known,)))
    assert chaos("--events", "policy-removed").exit_code == 0
    assert chaos("--events", "policy-removed", "--strict", "--shorten", "0").exit_code == 1


def test_a_cluster_has_events_of_its_own(played: list[ChaosOptions]) -> None:
    assert chaos("--kubernetes", "--events", "api-frozen", "--shorten", "0").exit_code == 1
    assert played[-1].kubernetes
    assert chaos("--events", "api-frozen").exit_code == 2
    assert chaos("--kubernetes", "--events", "disk-full").exit_code == 2
    assert "api-frozen" in chaos("--kubernetes", "--events", "list").output
    assert "api-frozen" not in chaos("--events", "list").output


def test_a_planted_fault_that_is_not_caught_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(planted: Planted, report: Any, *, is_planted: bool = True) -> Outcome:
        found = ((next(iter(planted.promises)), "seen"),) if planted is PLANTED[0] and is_planted else ()
        return Outcome(planted, found)

    monkeypatch.setattr(cli, "try_planted", attempt)
    caught = CliRunner().invoke(cli.main, ["planted", "--only", PLANTED[0].name, "--sound"])
    assert caught.exit_code == 0
    assert "untouched: nothing found" in caught.output
    assert CliRunner().invoke(cli.main, ["planted"]).exit_code == 1
