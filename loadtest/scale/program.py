"""What a running program takes of this machine, from outside: processor time, memory, open files, datagrams; and from
what it says itself, how late its event loop was.

Source: proc(5); Linux, Documentation/filesystems/proc.rst.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from service.lab.process import ProcessRecord
from service.lab.status import fetch
from service.model.errors import TransientError

KINDS = ("agent", "keeper", "controller")
_PARENT_AT, _TIMES_AT = 1, slice(11, 15)
"""In /proc/PID/stat behind the command: the parent; utime, stime, and those of children that were waited for."""
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
"""Processor time is told in these."""
_LATE_S = "0.02"
_LAG = "egressgw_loop_timer_lag_seconds"


@dataclass(frozen=True, slots=True)
class Memory:
    """In MB of 1,000,000 bytes."""

    rss: float
    """Resident, VmRSS."""
    pss: float
    """The same with each shared page divided by how many have it."""
    shared: float
    """Of `rss`: pages that others have too, such as those of the interpreter and its libraries."""


@dataclass(frozen=True, slots=True)
class Looks:
    """How often a program has looked whether its event loop was late."""

    late: int
    """By more than 20 ms."""
    all: int

    def since(self, before: "Looks") -> "Looks":
        """Those after the others."""
        return Looks(self.late - before.late, self.all - before.all)


def processor_s(pid: int) -> float:
    """Seconds of processor time since it began, of it and of all that it has started. Raises TransientError where it is
    gone."""
    ticks = _ticks(_stat(pid))
    for child in _descendants(pid):
        with suppress(TransientError):
            ticks += _ticks(_stat(child))
    return ticks * TICK_S


def memory(pid: int) -> Memory:
    """Of it alone. Raises TransientError where it is gone."""
    status, rollup = (_kilobytes(_read(pid, name)) for name in ("status", "smaps_rollup"))
    shared = rollup["Shared_Clean"] + rollup["Shared_Dirty"]
    return Memory(*(kilobytes * 1024 / 1e6 for kilobytes in (status["VmRSS"], rollup["Pss"], shared)))


def open_files(pid: int) -> int:
    """Descriptors that it has open. Raises TransientError where it is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError as error:
        raise TransientError(f"process {pid} has ended") from error


def datagrams_sent(pid: int) -> int:
    """UDP of its network namespace, whoever of it has sent them. Raises TransientError where it is gone."""
    names, values = (line.split()[1:] for line in _read(pid, "net/snmp").splitlines() if line.startswith("Udp:"))
    return int(dict(zip(names, values, strict=True))["OutDatagrams"])


def fetch_looks(netns: str, ip: str) -> dict[str, Looks]:
    """By process, as its metrics say: an agent tells of its keeper, too. Raises TransientError where none answers."""
    status, body = fetch(netns, ip, "/metrics")
    if status != 200:
        raise TransientError(f"{ip}: no metrics: {status}")
    return parse_looks(body.decode())


def parse_looks(metrics: str) -> dict[str, Looks]:
    """In the text format of Prometheus; none where there is no such metric."""
    counts: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if sample.name == f"{_LAG}_bucket":
                counts.setdefault(sample.labels["process"], {})[sample.labels["le"]] = sample.value
    return {
        process: Looks(round(buckets["+Inf"] - buckets[_LATE_S]), round(buckets["+Inf"]))
        for process, buckets in counts.items()
    }


def programs(records: Sequence[ProcessRecord]) -> dict[str, ProcessRecord]:
    """Those of ours, by a name for people."""
    return {f"{record.kind} of {record.member}": record for record in records if record.kind in KINDS}


def _ticks(fields: Sequence[str]) -> int:
    return sum(map(int, fields[_TIMES_AT]))


def _descendants(pid: int) -> Iterator[int]:
    """That live now: what has ended and was waited for is in its parent's times already."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(TransientError):
            children.setdefault(int(_stat(int(path.name))[_PARENT_AT]), []).append(int(path.name))
    waiting = list(children.get(pid, ()))
    while waiting:
        one = waiting.pop()
        yield one
        waiting += children.get(one, ())


def _stat(pid: int) -> list[str]:
    """From the state on."""
    return _read(pid, "stat").rpartition(")")[2].split()


def _kilobytes(text: str) -> dict[str, int]:
    """Name -> number of the lines that end in kB."""
    words = (line.split() for line in text.splitlines())
    return {found[0].rstrip(":"): int(found[1]) for found in words if len(found) == 3 and found[2] == "kB"}


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise TransientError(f"process {pid} has ended") from error
