import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.scale.program import (
    Looks,
    datagrams_sent,
    memory,
    open_files,
    parse_looks,
    processor_s,
    programs,
)
from service.lab.process import ProcessRecord
from service.model.errors import TransientError

BURNT_S = 0.3
BURN = f"import time\nwhile time.process_time() < {BURNT_S}: pass\nprint(flush=True)\ninput()"
METRICS = """# TYPE egressgw_loop_timer_lag_seconds histogram
egressgw_loop_timer_lag_seconds_bucket{le="0.01",process="agent"} 90.0
egressgw_loop_timer_lag_seconds_bucket{le="0.02",process="agent"} 95.0
egressgw_loop_timer_lag_seconds_bucket{le="+Inf",process="agent"} 100.0
egressgw_loop_timer_lag_seconds_bucket{le="0.02",process="keeper"} 7.0
egressgw_loop_timer_lag_seconds_bucket{le="+Inf",process="keeper"} 7.0
egressgw_leases_held 3.0
"""


@pytest.fixture
def burner() -> Iterator[subprocess.Popen[bytes]]:
    """A process of ours that has burnt its time, and waits."""
    with subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.communicate(b"\n")


def test_processor_time_of_a_process_is_what_it_burnt(burner: subprocess.Popen[bytes]) -> None:
    assert BURNT_S - 0.05 < processor_s(burner.pid) < BURNT_S + 1


def test_processor_time_of_children_counts_while_they_live_and_once_they_have_ended() -> None:
    before = processor_s(os.getpid())
    with subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        living = processor_s(os.getpid()) - before
        process.communicate(b"\n")
    ended = processor_s(os.getpid()) - before
    assert BURNT_S - 0.05 < living <= ended


def test_memory_of_this_process_is_partly_shared() -> None:
    found = memory(os.getpid())
    assert 0 < found.shared < found.rss
    assert 5 < found.pss <= found.rss


def test_an_open_file_counts(tmp_path: Path) -> None:
    before = open_files(os.getpid())
    with (tmp_path / "file").open("w"):
        assert open_files(os.getpid()) == before + 1
    assert open_files(os.getpid()) == before


def test_datagrams_are_those_of_the_network_that_the_process_is_in() -> None:
    before = datagrams_sent(os.getpid())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(20):
            sender.sendto(b"x", ("127.0.0.1", 9))
    assert datagrams_sent(os.getpid()) >= before + 20


@pytest.mark.parametrize("question", [processor_s, memory, open_files, datagrams_sent])
def test_a_process_that_is_gone_is_no_zero(question: object) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(TransientError, match="has ended"):
        question(process.pid)  # type: ignore[operator]


def test_looks_above_20_ms_are_late() -> None:
    looks = parse_looks(METRICS)
    assert looks == {"agent": Looks(5, 100), "keeper": Looks(0, 7)}
    assert looks["agent"].since(Looks(2, 60)) == Looks(3, 40)


def test_only_programs_of_ours_are_watched() -> None:
    def record(kind: str, member: str) -> ProcessRecord:
        return ProcessRecord(kind, member, "netns", ("x",), "log", "folder", 1, 1)

    records = [record("outside", "outside"), record("agent", "worker1"), record("controller", "controller1")]
    assert list(programs(records)) == ["agent of worker1", "controller of controller1"]
