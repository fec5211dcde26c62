"""`egressgw electors`: who grants leases, as a process tells it."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from service.command.electors import electors
from tests.command.invocation import invoke

FOUND: dict[str, Any] = {
    "epoch": 4,
    "members": {"worker1": "192.168.1.21", "worker2": "192.168.1.22", "worker3": "192.168.1.23"},
    "inForce": False,
    "keepers": {"worker1": {"voting": True, "epoch": 4}, "worker2": {"voting": False, "epoch": 3}, "worker3": None},
    "trouble": "waiting for \x1b[2Jworker2",
}


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The status document of whoever is asked."""
    document: dict[str, Any] = {"electorate": FOUND}
    monkeypatch.setattr("service.web.client.fetch_status", lambda url: document)
    return document


def test_each_member_is_shown_with_its_vote_and_what_stands_in_the_way(answer: dict[str, Any]) -> None:
    lines = invoke("electors").stdout.splitlines()
    assert lines[0] == "epoch 4, not yet in force"
    assert [line.split() for line in lines[2:5]] == [
        ["worker1", "192.168.1.21", "yes", "4"],
        ["worker2", "192.168.1.22", "not", "yet", "3"],
        ["worker3", "192.168.1.23", "no", "answer", "-"],
    ]
    assert "worker2" in lines[5]
    assert "\x1b" not in lines[5]


def test_who_is_asked_may_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetch_status(url: str) -> dict[str, Any]:
        asked.append(url)
        return {"electorate": FOUND}

    monkeypatch.setattr("service.web.client.fetch_status", fetch_status)
    CliRunner().invoke(electors, [], standalone_mode=False)
    CliRunner().invoke(electors, ["--url", "http://10.0.0.1:9642"], standalone_mode=False)
    assert asked == ["http://127.0.0.1:9642", "http://10.0.0.1:9642"]


def test_an_agent_knows_the_members_and_not_who_votes(answer: dict[str, Any]) -> None:
    answer["electorate"] = {"epoch": 1, "members": {"worker1": "192.168.1.21"}}
    lines = invoke("electors").stdout.splitlines()
    assert lines[0] == "epoch 1"
    assert lines[2].split() == ["worker1", "192.168.1.21", "-", "-"]


def test_as_json_it_is_the_document(answer: dict[str, Any]) -> None:
    assert json.loads(invoke("electors", "--json").stdout) == FOUND


@pytest.mark.parametrize("document", [{}, {"electorate": None}])
def test_a_process_that_knows_none_yet_is_said_in_one_line(answer: dict[str, Any], document: dict[str, Any]) -> None:
    answer.clear()
    answer.update(document)
    done = invoke("electors", "--url", "http://10.0.0.1:9642")
    assert done.exit_code == 2
    assert done.stderr == "egressgw: http://10.0.0.1:9642 does not know an electorate yet\n"


def test_a_reset_needs_to_know_who_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    done = invoke("electors", "reset")
    assert done.exit_code == 2
    assert "--keep" in done.stderr


def test_a_reset_asks_nobody_for_the_status_and_passes_on_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    async def begin_anew(names: tuple[str, ...], namespace: str, *, is_sure: bool) -> None:
        asked.append((names, namespace, is_sure))

    monkeypatch.setattr("service.electorate.reset.begin_anew", begin_anew)
    keep = ("electors", "reset", "--keep", "worker1", "--keep", "worker2")
    for more in ((), ("--namespace", "here", "--yes")):
        assert invoke(*keep, *more).exit_code == 0
    names = ("worker1", "worker2")
    assert asked == [(names, "egressgw-system", False), (names, "here", True)]
