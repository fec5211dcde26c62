"""Proof by the outside server: calls from a pod, marked with a word, and the source its log has for that word."""

import json
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from service.lab.client import ask_tcp, ask_udp, find_call, new_word, ping
from service.lab.lab import Lab
from service.lab.namespace import inside
from service.lab.outside import read_calls
from service.lab.plan import PlannedPod
from service.lab.process import marked_environment
from service.model.errors import TransientError

PROTOCOLS = ("tcp", "udp", "ping")
CALL_TIMEOUT_S = 1.5
LOG_TIMEOUT_S = 0.3
STREAM_END_S = 10.0


@dataclass(frozen=True, slots=True)
class Check:
    """One claim, and what the outside server (or another witness) says of it."""

    claim: str
    expected: str
    seen: str
    holds: bool


def same(claim: str, expected: str, seen: str) -> Check:
    """A claim that holds where exactly the expected was seen."""
    return Check(claim, expected, seen, expected == seen)


def look(lab: Lab, pod: PlannedPod, proto: str, destination: str, *, timeout_s: float = CALL_TIMEOUT_S) -> str:
    """The source of one call as the outside server logged it; `nothing came` where it did not log it.

    A call that came but was not answered is marked so: it reached the server with an address no reply finds.
    """
    word, start = new_word(), lab.outside_log.stat().st_size
    answered = inside(pod.netns, lambda: _call(proto, destination, word, timeout_s))
    call = find_call(lab.outside_log, word, start=start, timeout_s=LOG_TIMEOUT_S)
    if call is None:
        return "nothing came"
    return str(call["source"]) if answered else f"{call['source']}, no answer"


def _call(proto: str, destination: str, word: str, timeout_s: float) -> bool:
    try:
        if proto == "tcp":
            ask_tcp(destination, word=word, timeout_s=timeout_s)
        elif proto == "udp":
            ask_udp(destination, word=word, timeout_s=timeout_s)
        else:
            ping(destination, word=word, timeout_s=timeout_s)
    except OSError:
        return False
    return True


def check_pod(lab: Lab, pod: PlannedPod, destination: str, expected: str) -> Check:
    """The pod is seen as `expected` at that destination, by TCP, UDP and ping."""
    seen = {proto: look(lab, pod, proto, destination) for proto in PROTOCOLS}
    sources = list(dict.fromkeys(seen.values()))
    told = sources[0] if len(sources) == 1 else ", ".join(f"{proto}: {source}" for proto, source in seen.items())
    return same(f"{pod.full_name} to {destination}", expected, told)


class PodStream:
    """A stream of requests from a pod, in a program of its own; ends with `report` or, unasked, with `close`."""

    def __init__(self, lab: Lab, pod: PlannedPod, proto: str, destination: str, *, interval_ms: float) -> None:
        self.pod, self.proto = pod, proto
        command = lab.client_command(pod, "stream", destination, "--proto", proto, "--interval", str(interval_ms))
        environment = marked_environment(lab.folder)
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def report(self) -> dict[str, Any]:
        """End it and return what it measured (`traffic.stream.Tally.report`). Raises TransientError if it died."""
        self._process.send_signal(signal.SIGTERM)
        try:
            printed, complaint = self._process.communicate(timeout=STREAM_END_S)
        except subprocess.TimeoutExpired as error:
            raise TransientError(f"the {self.proto} stream of {self.pod.full_name} does not end") from error
        if self._process.returncode != 0:
            raise TransientError(f"the {self.proto} stream of {self.pod.full_name}: {complaint.strip()}")
        measured: dict[str, Any] = json.loads(printed)
        return measured

    def close(self) -> None:
        """Kill it if it still runs; what it measured is lost. Fine after `report`."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def wait_for_calls(lab: Lab, proto: str, source: str, count: int, *, timeout_s: float) -> None:
    """Wait until the outside server has logged so many calls more from `source`. Raises TransientError if it has not.

    The log only grows, so what was there before is skipped by its length.
    """
    start = lab.outside_log.stat().st_size
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        calls = read_calls(lab.outside_log, start)
        if sum((call["proto"], call["source"]) == (proto, source) for call in calls) >= count:
            return
        time.sleep(0.02)
    raise TransientError(f"the outside server did not see {count} {proto} calls from {source} within {timeout_s:.0f} s")
