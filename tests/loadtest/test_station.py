"""The near end of a traffic process: commands, answers, and its end, whatever becomes of it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest.station import Station
from service.lab.status import wait_for
from service.model.errors import TransientError


def children() -> dict[int, str]:
    """Processes that this one has started, with their command lines."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == os.getpid() and state != "Z":
                found[int(path.parent.name)] = (path.parent / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


def traffic() -> list[int]:
    return [pid for pid, command in children().items() if "loadtest.traffic" in command]


def the_process() -> int:
    """Known by its command line once the interpreter runs."""

    def find() -> int | None:
        return next(iter(traffic()), None)

    return wait_for("the traffic process", find, timeout_s=10)


def test_it_is_alive_while_it_is_entered_and_no_longer() -> None:
    with Station(None):
        the_process()
    assert traffic() == []


def test_it_ends_with_what_fails_meanwhile_though_it_is_busy() -> None:
    def fail_while_it_streams() -> None:
        with Station(None) as station:
            station.tell("stream", destination="127.0.0.1", port=29011, interval_ns=1_000_000)
            station.answer()
            the_process()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_while_it_streams()
    assert traffic() == []


def test_answers_come_one_by_one_in_order() -> None:
    with Station(None) as station:
        station.tell("stream", destination="127.0.0.1", port=29012, interval_ns=1_000_000)
        station.end()
        assert station.answer() == {"ready": True}
        assert set(station.answer()) == {"sent", "answers"}


def test_the_word_that_ends_nothing_is_passed_over() -> None:
    with Station(None) as station:
        station.end()
        with pytest.raises(TransientError, match="traffic in this namespace: ConnectionRefusedError"):
            station.ask("rr_ask", destination="127.0.0.1", port=29013, duration_s=0.01)


def test_an_answer_that_does_not_come_is_not_waited_for_for_ever() -> None:
    with (
        Station(None) as station,
        pytest.raises(TransientError, match="no answer from the traffic process in this namespace within 0 s"),
    ):
        station.answer(timeout_s=0.01)


@pytest.mark.parametrize("use", [lambda station: station.answer(), lambda station: station.ask("rr_serve", port=1)])
def test_a_process_that_is_gone_is_told(use: Callable[[Station], object]) -> None:
    with Station(None) as station:
        os.kill(the_process(), signal.SIGKILL)
        wait_for("its end", lambda: not traffic(), timeout_s=10)
        with pytest.raises(TransientError, match="the traffic process in this namespace ended"):
            use(station)


@pytest.mark.parametrize("module", ["traffic", "spray", "conversation"])
def test_traffic_needs_only_the_standard_library(module: str) -> None:
    """So that it starts quickly."""
    program = f"import sys, loadtest.{module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    strangers = {"service", "aiohttp", "msgspec", "rich", "pyroute2", "uvloop"} & set(done.stdout.split())
    assert strangers == set()
