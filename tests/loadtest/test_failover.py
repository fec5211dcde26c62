import json
import os
from pathlib import Path

import pytest

from loadtest.failover import FailoverOptions, OutsideLog, measure_failover
from loadtest.gateway import SOURCE_IP
from service.lab.namespace import namespaces_of


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
