"""When a site is whole again, from what its flows say."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from loadtest.chaos import calm, client
from loadtest.chaos.calm import KINDS, RECENT_NS, FlowLogs, Footprint
from loadtest.chaos.site import ChaosSite
from service.lab.lab import Lab
from service.lab.plan import LabOptions
from service.lab.process import ProcessRecord
from service.lab.state import LabState

NOW_NS = 100_000_000_000


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ChaosSite:
    lab = Lab(LabState(options=LabOptions(name="unbuilt"), host_settings={}))
    lab.folder = tmp_path
    monkeypatch.setattr(calm, "boot_ns", lambda: NOW_NS)
    return ChaosSite(lab)


def say(site: ChaosSite, name: str, *lines: dict[str, Any]) -> None:
    with site.flows_log(name).open("a", encoding="utf-8") as log:
        log.writelines(json.dumps(line) + "\n" for line in lines)


def all_well(site: ChaosSite, at_ns: int) -> None:
    for pod in site.lab.plan.pods:
        word = site.word(pod)
        say(site, word, *({"t": at_ns, "pod": word, "kind": kind, "what": "ok"} for kind in KINDS))
    say(site, "outside", *({"t": at_ns, "pod": one.name, "kind": "inbound", "what": "ok"} for one in site.nodes))


def test_what_has_grown_is_told_the_most_first() -> None:
    before, after = {"no_flow": 5, "quota": 2, "flow_ended": 1}, {"no_flow": 6, "quota": 2, "flow_ended": 9}
    assert calm.grown(before, after) == "8 flow_ended, 1 no_flow"
    assert calm.grown(after, before) == "nothing"


def test_a_site_is_whole_when_each_flow_of_each_pod_has_worked_since_and_lately(site: ChaosSite) -> None:
    flows = FlowLogs(site)
    flows.read()
    assert flows.broken(0).startswith("57 of 57 flows are dead: p0 udp-stream, ")
    all_well(site, NOW_NS - RECENT_NS // 2)
    flows.read()
    assert flows.broken(0) == ""
    assert flows.broken(NOW_NS - 1) != "", "what worked before the event ended proves nothing"


def test_what_worked_too_long_ago_does_not_work_now(site: ChaosSite) -> None:
    flows = FlowLogs(site)
    all_well(site, NOW_NS - RECENT_NS - 1)
    flows.read()
    assert flows.broken(0) != ""


def test_lines_are_read_once_and_half_a_line_later(site: ChaosSite) -> None:
    flows = FlowLogs(site)
    flows.begin()
    text = json.dumps({"t": 1, "pod": "p0", "kind": "udp", "what": "lost"}) + "\n"
    with site.flows_log("p0").open("a", encoding="utf-8") as log:
        log.write(text + text[:9])
    flows.read()
    flows.read()
    assert len(flows.lines) == 1
    with site.flows_log("p0").open("a", encoding="utf-8") as log:
        log.write(text[9:])
    flows.read()
    assert len(flows.lines) == 2
    flows.begin()
    assert flows.lines == []


def footprint(rules: int, files: int, rss_kb: int) -> Footprint:
    taken = Footprint.__new__(Footprint)
    taken.rules = {"worker1": {"ip rules": rules}}
    taken.programs = {("agent", "worker1"): (files, rss_kb)}
    taken.inheriting = set()
    return taken


def test_rules_must_be_as_many_as_before_and_files_and_memory_not_much_more() -> None:
    before = footprint(5, 60, 100_000)
    assert list(before.grown(footprint(5, 70, 120_000))) == []
    assert list(before.grown(footprint(6, 60, 100_000))) == ["worker1: 5 ip rules are 6 now"]
    grown = list(before.grown(footprint(5, 600, 900_000)))
    assert [line.split(":")[0] for line in grown] == ["agent of worker1", "agent of worker1"]


def test_an_agent_that_has_just_started_may_have_the_rules_of_the_one_before_it_too() -> None:
    before, after = footprint(5, 60, 1), footprint(5, 60, 1)
    before.rules["worker1"]["entries of rules"], after.rules["worker1"]["entries of rules"] = 1, 3
    assert list(before.grown(after)) == ["worker1: 1 entries of rules are 3 now"]
    after.inheriting = {"worker1"}
    assert list(before.grown(after)) == []
    after.rules["worker1"]["ip rules"] = 6
    assert list(before.grown(after)) == ["worker1: 5 ip rules are 6 now"]
    after.rules["worker1"] = {"ip rules": 5, "entries of rules": 0}
    assert list(before.grown(after)) == ["worker1: 1 entries of rules are 0 now"]


def test_a_process_is_as_old_as_it_is() -> None:
    with subprocess.Popen(["sleep", "60"]) as started:
        try:
            age_s = calm._age_s(started.pid)
            assert age_s is not None
            assert -0.1 < age_s < 10
        finally:
            started.kill()
    own_s = calm._age_s(os.getpid())
    assert own_s is not None
    assert own_s > age_s
    assert calm._age_s(started.pid) is None


def test_what_goes_soon_has_not_grown_and_what_stays_has(site: ChaosSite, monkeypatch: pytest.MonkeyPatch) -> None:
    before, taken = footprint(5, 60, 1), [footprint(6, 60, 1), footprint(6, 60, 1), footprint(5, 60, 1)]
    monkeypatch.setattr(calm, "Footprint", lambda site: taken.pop(0) if len(taken) > 1 else taken[0])
    assert calm.still_grown(site, before, timeout_s=10.0) == []
    taken[:] = [footprint(6, 60, 1)]
    assert calm.still_grown(site, before, timeout_s=0.0) == ["worker1: 5 ip rules are 6 now"]


def test_an_echo_request_has_a_sound_checksum() -> None:
    packet = client._echo_request(b"p0:ping:1")
    padded = packet + b"\0" * (len(packet) % 2)
    total = sum(int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF


def test_a_site_is_not_whole_while_a_member_does_not_know_the_last_beat(site: ChaosSite) -> None:
    site.lab.manifests.mkdir()
    assert site.missed_beat({"policies": {}}) == ""
    site.beat()
    site.beat()
    assert site.missed_beat({"policies": {"chaos": {}, "beat2": {}}}) == ""
    assert site.missed_beat({"policies": {"chaos": {}}}) == "knows of none, not of beat2"
    assert "beat1" in site.missed_beat({"policies": {"beat1": {}, "beat2": {}}}), "what was removed is gone"
    files = list(site.lab.manifests.glob("*.yaml"))
    assert len(files) == 1


def test_trouble_is_what_status_calls_wrong_and_no_word_that_happens_to_be_in_it(
    site: ChaosSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {"keeper": {"alive": True, "majority": True}, "leader": "controller1"}
    monkeypatch.setattr(ChaosSite, "status", lambda site, member: document)
    assert not calm.trouble_seen(site, "worker1", "majority")
    assert calm.still_told(site, timeout_s=0) == []
    document["keeper"] = {"alive": True, "majority": False}
    assert calm.trouble_seen(site, "worker1", "majority")
    assert len({line.partition(":")[0] for line in calm.still_told(site, timeout_s=0)}) == 5, "each member"


def test_drops_of_all_nodes_are_added(site: ChaosSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChaosSite, "status", lambda site, member: {"drops": {"malformed": len(member)}})
    assert calm.drop_totals(site) == {"malformed": sum(len(node.name) for node in site.nodes)}


def test_errors_that_a_supervisor_tells_of_are_read_once(site: ChaosSite) -> None:
    log = site.lab.folder / "agent.log"
    record = ProcessRecord("agent", "worker1", "", (), str(log), "", 1, 1)
    site.lab.state = site.lab.state.with_process(record)
    logs = calm.ProgramLogs(site)
    assert logs.errors() == []
    line = "ERROR task reconcile: KeyError: 7; trying again after 0.1 s"
    log.write_text(f"INFO all is well\n{line}\nTraceback ...\n", encoding="utf-8")
    assert logs.errors() == [f"agent of worker1: {line}"]
    assert logs.errors() == []


def test_unrest_is_told_until_every_member_knows_the_last_beat(
    site: ChaosSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.lab.manifests.mkdir()
    site.beat()
    known = {name: {"beat1": {}} for name in ("control1", "worker1", "worker2", *site.controllers)}
    monkeypatch.setattr(calm, "defect", lambda document, names: "")
    monkeypatch.setattr(
        ChaosSite,
        "status",
        lambda site, member: {"policies": known[member], "leading": member == site.controllers[0]},
    )
    flows = FlowLogs(site)
    all_well(site, NOW_NS)
    assert calm.unrest(site, flows, 0) == ""
    for member in ("worker2", site.controllers[1]):
        known[member] = {}
        assert calm.unrest(site, flows, 0) == f"{member}: knows of none, not of beat1"
        known[member] = {"beat1": {}}
