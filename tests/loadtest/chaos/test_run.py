"""Short chaos on a real lab: what must hold today, and that the machine finds what does not."""

import random
from collections.abc import Iterator

import pytest

from loadtest.chaos.judge import Finding, Promise
from loadtest.chaos.run import ChaosOptions, RoundResult, run_chaos
from loadtest.chaos.schedule import make_round
from service.lab.namespace import namespaces_of

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.e2e, pytest.mark.timeout(300)]

NAME = "chaostest"
HARMLESS = ("device-churn", "second-address", "scan", "kill-controller", "same-objects-again", "switch-forgets")


@pytest.fixture(autouse=True)
def _is_cleared() -> Iterator[None]:
    yield
    assert namespaces_of(NAME) == []


def findings(seed: int, events: tuple[str, ...], rounds: tuple[int, ...]) -> list[Finding]:
    told: list[RoundResult] = []
    options = ChaosOptions(seed, events=events, rounds=tuple((number, "") for number in rounds), name=NAME)
    result = run_chaos(options, lambda line: None, told.append)
    assert [played.round for played in told] == [make_round(events, seed, number) for number in rounds]
    return result.findings


def test_events_that_concern_no_flow_cost_nothing() -> None:
    rounds = tuple(range(1, len(HARMLESS) + 1))
    assert list(map(str, findings(20261128, HARMLESS, rounds))) == []


def test_a_process_that_ends_by_itself_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if nobody had ordered it: the event's own note of whom it killed is dropped.
    monkeypatch.setattr("loadtest.chaos.site.ChaosSite.end", _end_in_secret)
    monkeypatch.setattr("loadtest.chaos.run.RECOVERY_S", 0.1)
    found = findings(random.Random(1).getrandbits(8), ("kill-agent",), (1,))
    assert Promise.ENDED in {finding.promise for finding in found}
    assert Promise.CALM in {finding.promise for finding in found}


def _end_in_secret(site: object, record: object, number: int, cause: str) -> None:
    from service.lab.process import ProcessRecord, send_signal, wait_for_end

    assert isinstance(record, ProcessRecord)
    send_signal(record, number)
    wait_for_end([record], 10.0)
