import io
import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from loadtest.chaos.arena import RoundResult
from loadtest.chaos.judge import Finding, Promise
from loadtest.chaos.known import Known
from loadtest.chaos.planted import PLANTED, Outcome
from loadtest.chaos.run import ChaosOptions, ChaosResult
from loadtest.chaos.schedule import make_round
from loadtest.chaos.shorten import Shortened
from loadtest.failover import FailoverOptions, FailoverResult, Kill
from loadtest.outage import Outage
from loadtest.report import (
    chaos_document,
    environment,
    failover_document,
    kill_line,
    print_chaos,
    print_failover,
    print_planted,
    print_round,
    print_shortest,
    write_json,
)

MS = 1_000_000
FLOATING_IP = "192.168.1.100"


def _kill(number: int, gap_ms: int, *, sources: dict[str, int] | None = None) -> Kill:
    outage = Outage(1000 * MS, 999 * MS, (999 + gap_ms) * MS, 200, 100, {FLOATING_IP: 100})
    return Kill(number, "worker1", "worker2", "alice/frontend-control1", outage, sources or {FLOATING_IP: 200}, 2.5)


def _text(show: object, result: object) -> str:
    file = io.StringIO()
    show(result, environment(), Console(file=file, width=160))  # type: ignore[operator]
    return file.getvalue()


def test_the_failover_table_shows_median_p99_and_maximum() -> None:
    result = FailoverResult(FailoverOptions(seed=7), [_kill(1, 250), _kill(2, 310), _kill(3, 290)])
    text = _text(print_failover, result)
    assert all(word in text for word in ("290.0 ms", "310.0 ms", "seed 7", f"600 requests from {FLOATING_IP}"))
    assert "FAILED" not in text


def test_a_wrong_source_fails_the_run() -> None:
    result = FailoverResult(FailoverOptions(), [_kill(1, 250, sources={FLOATING_IP: 200, "192.168.1.22": 1})])
    assert result.failures == ["kill 1: seen outside as {'192.168.1.22': 1}"]
    assert "WRONG SOURCES" in kill_line(result.kills[0])
    assert "FAILED" in _text(print_failover, result)


def test_traffic_that_did_not_come_back_fails_the_run() -> None:
    result = FailoverResult(FailoverOptions(), [Kill(1, "worker1", "worker2", "pod", None, {FLOATING_IP: 9}, 1.0)])
    assert "not back" in result.failures[0]
    assert "did not come back" in kill_line(result.kills[0])
    assert "FAILED" in _text(print_failover, result)


def test_a_cluster_that_did_not_become_whole_fails_the_run() -> None:
    kill = replace(_kill(1, 250), defect="waited 60 s in vain for the cluster to be whole")
    assert FailoverResult(FailoverOptions(), [kill]).failures == [f"kill 1: {kill.defect}"]


def test_further_gaps_are_told() -> None:
    kill = _kill(1, 250)
    assert kill.outage is not None
    assert "further" not in kill_line(kill)
    kill = replace(kill, outage=replace(kill.outage, further_gaps_ns=(40 * MS,)))
    assert "further gaps of 40 ms" in kill_line(kill)


def test_json_holds_all_numbers_versions_kernel_and_cores(tmp_path: Path) -> None:
    machine = environment()
    result = FailoverResult(FailoverOptions(), [_kill(1, 250)])
    write_json(tmp_path / "failover.json", failover_document(result, machine))
    document = json.loads((tmp_path / "failover.json").read_text())
    assert {"egressgw", "kernel", "cores", "nft", "python", "load_average"} <= set(document["environment"])
    assert document["kills"][0]["gap_ms"] == 250
    assert document["kills"][0]["outage"]["last_before_ns"] == 999 * MS
    assert document["summary"]["cases"]["crash"]["gap_ms"] == {"median": 250, "p99": 250, "max": 250}


def _chaos(*known: Known) -> ChaosResult:
    played = make_round(("mtu",), 1, 1)
    findings = [Finding(1, Promise.LEAK, f"frame {number}") for number in range(2)]
    findings += [Finding(1, Promise.ENDED, "keeper of worker1")]
    return ChaosResult(ChaosOptions(1, events=("mtu",), known=known), [RoundResult(played, 1.5, findings)])


LEAKS = Known("frames leave bare", Promise.LEAK, frozenset({"mtu"}), "frame", seed=7, rounds="1")


def test_a_round_tells_what_is_new_and_how_it_is_played_again_and_counts_what_is_known() -> None:
    file = io.StringIO()
    result = _chaos(LEAKS)
    print_round(result.rounds[0], result.options, Console(file=file, width=160))
    text = file.getvalue()
    assert "-- NOT KEPT" in text
    assert "known: frames leave bare (2 findings)" in text
    assert "a process ended by itself: keeper of worker1" in text
    assert "frame 0" not in text
    assert "again: python -m loadtest chaos --seed 1 --events mtu --rounds 1" in text


def test_the_end_of_a_run_tells_how_a_known_fault_is_shown() -> None:
    text = _text(print_chaos, _chaos(LEAKS))
    assert "python -m loadtest chaos --seed 7 --events mtu --rounds 1 --strict" in text
    assert "a process ended by itself: 1" in text
    assert "leak:" not in text
    document = chaos_document(_chaos(LEAKS), {})
    assert [one["known"] for one in document["rounds"][0]["findings"]] == ["frames leave bare"] * 2 + [None]
    json.dumps(document)


def test_the_shortest_list_is_one_command_or_said_not_to_be_known() -> None:
    for failed_again, told in ((True, "shortest that fails, after 3 tries: "), (False, "none of 3 tries failed again")):
        file = io.StringIO()
        found = Shortened(((1, "mtu"),), tries=3, failed_again=failed_again)
        print_shortest("1", found, ChaosOptions(4, kubernetes=True), Console(file=file, width=200))
        assert file.getvalue().startswith(told)
        assert file.getvalue().endswith("python -m loadtest chaos --kubernetes --seed 4 --rounds 1\n")


def test_a_planted_fault_is_caught_or_not_and_the_untouched_tree_is_beside_it() -> None:
    planted = PLANTED[0]
    promise = next(iter(planted.promises))
    file = io.StringIO()
    console = Console(file=file, width=200)
    print_planted(Outcome(planted, ((promise, "two of them"),)), Outcome(planted, ()), console)
    print_planted(Outcome(planted, ()), None, console)
    text = file.getvalue()
    assert f": caught: 1 x {promise}" in text
    assert "untouched: nothing found" in text
    assert "NOT CAUGHT: nothing found" in text
