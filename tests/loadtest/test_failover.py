import json
import os
from pathlib import Path
from typing import Any

import pytest

from loadtest import gateway
from loadtest.failover import FailoverOptions, FailoverResult, Kill, OutsideLog, measure_failover
from loadtest.gateway import SOURCE_IP
from loadtest.outage import Outage
from service.lab.namespace import namespaces_of
from service.lab.plan import LabOptions


def _log_line(time_ns: int, source: str) -> str:
    return json.dumps({"time_ns": time_ns, "source": source}) + "\n"


def test_the_log_is_read_from_where_it_ended_when_the_stream_began(tmp_path: Path) -> None:
    path = tmp_path / "outside.log"
    path.write_text(_log_line(1, "192.168.1.21"))
    log = OutsideLog(path)
    with path.open("a") as file:
        file.write(_log_line(5, SOURCE_IP) + _log_line(9, SOURCE_IP))
    assert log.count_since(5) == 1
    assert log.sources() == {SOURCE_IP: 2}


def test_half_a_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "outside.log"
    path.touch()
    log = OutsideLog(path)
    line = _log_line(5, SOURCE_IP)
    path.write_text(line[:10])
    assert log.sources() == {}
    path.write_text(line)
    assert log.sources() == {SOURCE_IP: 1}


class _Asked(Exception):
    """Stands in for the lab: what was asked for is known, and nothing is built."""


@pytest.mark.parametrize(
    ("kafka", "brokers", "state_kib"),
    [("none", "", 0), ("down", "127.0.0.1:9", 0), ("silent", "198.51.100.9:9092", 0), ("full", "127.0.0.1:9", 256)],
)
def test_the_lab_has_the_brokers_and_disks_asked_for(
    kafka: str, brokers: str, state_kib: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[LabOptions] = []

    def running_lab(options: LabOptions, *_: Any, **__: Any) -> None:
        asked.append(options)
        raise _Asked

    monkeypatch.setattr(gateway, "running_lab", running_lab)
    with pytest.raises(_Asked):
        measure_failover(FailoverOptions(name="mine", kafka=kafka))
    assert asked == [LabOptions(name="mine", kafka=brokers, state_kib=state_kib)]


def test_a_full_disk_that_a_node_does_not_report_is_a_failure() -> None:
    def failures(kafka: str, *, healthy: bool) -> list[str]:
        outage = Outage(0, 0, 1, 2, 1, {SOURCE_IP: 1})
        audit = {"worker2": {"healthy": healthy}}
        kill = Kill(1, "worker1", "worker2", "pod", outage, {SOURCE_IP: 1}, 1.0, audit=audit)
        return FailoverResult(FailoverOptions(kafka=kafka), [kill]).failures

    assert failures("full", healthy=False) == []
    (failure,) = failures("full", healthy=True)
    assert "worker2" in failure
    assert failures("none", healthy=True) == []


@pytest.mark.root
@pytest.mark.bpf
@pytest.mark.e2e
def test_a_killed_holder_is_succeeded_and_nobody_sees_a_wrong_source() -> None:
    name = f"egwt{os.getpid() % 100000}f"
    result = measure_failover(FailoverOptions(kills=1, name=name))
    (kill,) = result.kills
    assert result.failures == []
    assert kill.next_holder != kill.victim
    assert kill.outage is not None
    assert kill.outage.lost > 0
    assert set(kill.seen_outside) == {SOURCE_IP}
    assert namespaces_of(name) == []


@pytest.mark.root
@pytest.mark.bpf
@pytest.mark.e2e
def test_each_case_is_played_in_every_round_beside_the_peer() -> None:
    name = f"egwt{os.getpid() % 100000}m"
    result = measure_failover(FailoverOptions(kills=1, name=name, cases=("move", "leader"), peers_s=(0.1,)))
    assert result.failures == []
    assert [kill.case for kill in result.kills] == ["move", "leader"]
    assert all(kill.next_holder != kill.victim for kill in result.kills)
    summary = result.summary()
    assert summary["cases"]["leader"]["gap_ms"]["max"] > summary["cases"]["move"]["gap_ms"]["max"]
    assert summary["peers"]["keepalived, 0.1 s"]["gap_ms"]["median"] > 0
    assert namespaces_of(name) == []


@pytest.mark.root
@pytest.mark.bpf
@pytest.mark.e2e
def test_an_address_moves_though_no_disk_takes_a_record() -> None:
    name = f"egwt{os.getpid() % 100000}d"
    result = measure_failover(FailoverOptions(kills=1, name=name, kafka="full"))
    (kill,) = result.kills
    assert result.failures == []
    assert kill.next_holder != kill.victim
    assert set(kill.audit) == {"control1", "worker1", "worker2"}
    for audit in kill.audit.values():
        assert "No space left on device" in audit["reason"]
    assert namespaces_of(name) == []
