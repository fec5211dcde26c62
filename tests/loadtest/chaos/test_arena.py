"""What a round judges of its own, with events that do nothing."""

import random
from pathlib import Path

import pytest

from loadtest.chaos import arena
from loadtest.chaos.arena import Arena, _datagrams_first, _long_enough
from loadtest.chaos.event import Event
from loadtest.chaos.events import ALL
from loadtest.chaos.judge import Finding, Promise
from loadtest.chaos.schedule import Act, Round
from loadtest.chaos.site import ChaosSite
from service.lab.lab import Lab
from service.lab.plan import LabOptions
from service.lab.state import LabState
from service.model.errors import TransientError


class Told(Event):
    """Something that a node must tell."""

    name = "told"
    telling_s = 0.3

    def apply(self) -> None:
        """Nothing."""

    def trouble(self) -> tuple[str, str] | None:
        """Of the chosen node."""
        return self.node.name, "majority"


class Untold(Told):
    """Something that nobody can know."""

    name = "untold"

    def trouble(self) -> tuple[str, str] | None:
        """Nothing."""
        return None


@pytest.fixture
def site() -> ChaosSite:
    return ChaosSite(Lab(LabState(options=LabOptions(name="unbuilt"), host_settings={})))


def happen(site: ChaosSite, kinds: list[type[Event]]) -> list[Finding]:
    played = Arena.__new__(Arena)
    played._site = site
    events = [(Act(kind.name, 1, 0.0, 0.01), kind(site, random.Random(1))) for kind in kinds]
    return played._happen(3, events)


def test_what_must_be_told_and_is_not_is_a_lie(site: ChaosSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "trouble_seen", lambda site, member, text: False)
    (finding,) = happen(site, [Told])
    assert (finding.round, finding.promise) == (3, Promise.SILENT)
    assert finding.detail.endswith("never said `majority` (told)")
    assert happen(site, [Untold]) == []
    assert happen(site, [Told, Told]) == [], "of two at once nobody can say which hides the other"


def test_what_is_told_in_time_is_no_lie(site: ChaosSite, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def seen(site: ChaosSite, member: str, text: str) -> bool:
        asked.append(text)
        return len(asked) >= 2

    monkeypatch.setattr(arena, "trouble_seen", seen)
    assert happen(site, [Told]) == []
    assert set(asked) == {"majority"}


def test_an_event_that_must_be_told_lasts_long_enough_for_it(site: ChaosSite) -> None:
    act = Act("told", 1, 0.5, 0.1)
    for kind, hold_s in ((Told, Told.telling_s), (Untold, 0.1)):
        ((lasting, _),) = _long_enough([(act, kind(site, random.Random(1)))])
        assert (lasting.delay_s, lasting.hold_s) == (0.5, hold_s)


def test_datagrams_that_leave_bare_are_told_before_what_is_left_of_connections() -> None:
    leaks = ["a proto 6 b", "a proto 17 b", "a proto 6 c"]
    assert _datagrams_first(leaks) == ["a proto 17 b", "a proto 6 b", "a proto 6 c"]


class Stub:
    """What an arena remembers of its site, in which everything is wrong at once."""

    def __init__(self, *arguments: object) -> None:
        self.lines: list[dict[str, object]] = []

    def begin(self) -> None:
        """Nothing."""

    def errors(self) -> list[str]:
        return ["a task failed"]


def test_every_judge_is_asked_in_every_round(site: ChaosSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.lab.folder = tmp_path
    for name in ("outside.log", "round-1.capture"):
        (tmp_path / name).touch()
    beats: list[str] = []
    monkeypatch.setattr(ChaosSite, "beat", lambda site: beats.append("beat"))
    monkeypatch.setattr(ChaosSite, "ended_by_themselves", lambda site: ["keeper"])
    monkeypatch.setattr(Lab, "start_capture", lambda lab, path: None)
    monkeypatch.setattr(Lab, "stop_capture", lambda lab, path: {"lost": 1})
    monkeypatch.setitem(ALL, "untold", Untold)
    for name in ("judge_speakers", "judge_frames", "judge_calls", "judge_drops", "still_told", "still_grown"):
        monkeypatch.setattr(arena, name, lambda *arguments, **options: ["found"])
    monkeypatch.setattr(arena, "judge_flows", lambda lines, rounds, selected: [(Promise.LOST, "found")])
    monkeypatch.setattr(arena, "wait_for_calm", lambda *arguments, **options: (1.0, ""))
    monkeypatch.setattr(arena, "read_frames", lambda path: [])
    monkeypatch.setattr(arena, "drop_totals", lambda site: {})
    played = Arena.__new__(Arena)
    played._site, played.is_whole, played._leaked = site, True, set()
    played._costs, played._former_drops = [], {}
    played._flows = played._logs = played._before = Stub()  # type: ignore[assignment]
    result = played.play(Round(1, (Act("untold", 1, 0.0, arena.COUNTING_S),)))
    assert {finding.promise for finding in result.findings} == {
        *(Promise.SPEAKERS, Promise.LEAK, Promise.SOURCE, Promise.ENDED, Promise.ERROR),
        *(Promise.LOST, Promise.UNCOUNTED, Promise.STALE, Promise.GROWN, Promise.HARNESS),
    }
    assert beats == ["beat"]


def test_where_an_agent_does_not_answer_a_loss_is_told_without_what_was_dropped(
    site: ChaosSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(site: ChaosSite) -> dict[str, int]:
        raise TransientError("refused")

    played = Arena.__new__(Arena)
    played._site = site
    monkeypatch.setattr(arena, "drop_totals", refuse)
    assert played._dropped_since({}) == "; what was dropped is not known: refused"


def test_what_is_sent_to_a_mac_that_a_node_has_meanwhile_is_sent_to_that_node(site: ChaosSite) -> None:
    event = ALL["mac"](site, random.Random(1))
    (mac,) = event.macs().values()
    assert mac not in arena._capture_site(site, []).macs_of_node[event.node.name]
    assert mac in arena._capture_site(site, [(Act("mac", 1, 0.0, 1.0), event)]).macs_of_node[event.node.name]


def test_a_site_that_is_not_whole_in_time_is_a_finding_and_one_that_never_is_ends_the_lab(
    site: ChaosSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = Arena.__new__(Arena)
    played._site, played.is_whole = site, True
    played._flows = Stub()  # type: ignore[assignment]
    for still, is_whole in (("", True), ("p1 is dead", False)):
        monkeypatch.setattr(arena, "wait_for_calm", lambda *arguments, still=still, **options: (5.0, still))
        (finding,) = played._recover(2, "p1 is dead")
        assert finding.promise is Promise.CALM
        assert played.is_whole is is_whole
