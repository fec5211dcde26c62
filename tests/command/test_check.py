"""`egressgw check` tells of a node what an operator mends before an agent comes."""

import json

import pytest

from service.agent import node_check
from service.command.check import check
from service.network.inspection import Finding, Level
from service.settings import Settings
from tests.command.invocation import invoke

FINDINGS = [
    Finding("cni", Level.GOOD, "none that enforces in eBPF or OVS"),
    Finding("clock", Level.DOUBTFUL, "not synchronised", "run chrony or ntpd"),
    Finding("ports", Level.GRAVE, "9640/udp: in use", "stop what has them"),
]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What was asked, and `findings` to be found."""
    seen: dict[str, object] = {"findings": FINDINGS}

    async def look(settings: Settings, *, is_fresh: bool) -> object:
        seen.update(settings=settings, is_fresh=is_fresh)
        return seen["findings"]

    monkeypatch.setattr(node_check, "look", look)
    return seen


def test_each_finding_is_a_line_with_its_mend_below_and_what_is_grave_ends_badly(asked: dict[str, object]) -> None:
    done = invoke("check", "--pre")
    assert done.exit_code == 1, check.name
    assert done.output.splitlines() == [
        "ok    cni:        none that enforces in eBPF or OVS",
        "warn  clock:      not synchronised",
        "                  -> run chrony or ntpd",
        "fail  ports:      9640/udp: in use",
        "                  -> stop what has them",
        "3 looked at, 1 doubtful, 1 in the way",
    ]
    assert asked["is_fresh"] is True


def test_where_nothing_is_grave_it_ends_well(asked: dict[str, object]) -> None:
    asked["findings"] = FINDINGS[:2]
    done = invoke("check", "--json")
    assert done.exit_code == 0
    assert [entry["level"] for entry in json.loads(done.output)] == ["ok", "warn"]
    assert asked["is_fresh"] is False


def test_settings_are_those_that_the_agent_will_have(asked: dict[str, object], tmp_path: object) -> None:
    path = f"{tmp_path}/config.yaml"
    with open(path, "w", encoding="utf-8") as file:
        file.write("node: worker7\nports: {gossip: 7000}\n")
    invoke("check", "--config", path)
    settings = asked["settings"]
    assert isinstance(settings, Settings)
    assert settings.ports.gossip == 7000
