"""Whether a site is whole: every kind of flow of every pod works, every process says so, and nothing has grown."""

import contextlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from loadtest.chaos.client import boot_ns
from loadtest.chaos.site import ChaosSite
from loadtest.gateway import FLOATING_IPS, defect
from service.datapath.bpf_map import BpfMap
from service.datapath.layout import MapName
from service.lab.configuration import member_folder
from service.lab.process import ProcessRecord
from service.model.errors import OperatorError, TransientError
from service.network.bpf_call import open_object
from service.web.verdict import troubles

RECENT_NS = 1_500_000_000
"""A flow works that was answered so shortly ago."""
KINDS = ("udp-stream", "tcp-stream", "tcp-push", "udp", "tcp", "ping")
_POLL_S = 0.2
_FAILED = re.compile(r" task .+: .+; .*\bagain\b")
"""The line of a task that failed (service/host/supervisor.py)."""
_FILES_SPARE = 24
_LEVEL_MAPS = frozenset(
    (MapName.SELECTED, MapName.RULES, MapName.CLUSTER, MapName.FLOATING_IPS, MapName.LEASE_DEADLINES)
)
"""Maps that say what is wanted, so that the same wishes give as many entries. The others learn and forget in time, and
blocks are leased as nodes need ports, and given back much later."""
_RULES = f"entries of {MapName.RULES}"
_INHERITS_S = 32.0
"""So old an agent has let go of what it has inherited from the one before it (service/agent/agent.py), and a little."""
_RSS_SPARE_KB = 40_000


class FlowLogs:
    """What flows say, read on from where it was read last."""

    def __init__(self, site: ChaosSite) -> None:
        self._site = site
        self._positions: dict[str, int] = {}
        self._last_ok: dict[tuple[str, str], int] = {}
        self.lines: list[dict[str, object]] = []
        """Since `begin`."""

    def begin(self) -> None:
        """Forget the lines; a round begins."""
        self.lines = []

    def read(self) -> None:
        """Take what is new."""
        for name in self._site.flow_names:
            start = self._positions.get(name, 0)
            path = self._site.flows_log(name)
            if not path.exists():
                continue
            with path.open("rb") as log:
                log.seek(start)
                whole, newline, _ = log.read().rpartition(b"\n")
            self._positions[name] = start + len(whole) + len(newline)
            for text in whole.splitlines():
                line = json.loads(text)
                self.lines.append(line)
                if line["what"] == "ok":
                    self._last_ok[line["pod"], line["kind"]] = line["t"]

    def broken(self, since_ns: int) -> str:
        """A flow that has not worked since then, or does not now; empty where all do."""
        oldest_ns = max(since_ns, boot_ns() - RECENT_NS)
        wanted = [(self._site.word(pod), kind) for pod in self._site.pods for kind in KINDS]
        wanted += [(node.name, "inbound") for node in self._site.nodes]
        still = [key for key in wanted if self._last_ok.get(key, 0) < oldest_ns]
        if not still:
            return ""
        return f"{len(still)} of {len(wanted)} flows are dead: {', '.join(f'{pod} {kind}' for pod, kind in still[:4])}"


class ProgramLogs:
    """What our programs print, read on from where it was read last."""

    def __init__(self, site: ChaosSite) -> None:
        self._site = site
        self._positions: dict[str, int] = {}

    def errors(self) -> list[str]:
        """Tasks that failed since the last call, as their supervisor tells it: in words that no event explains."""
        found = []
        for record in self._site.lab.state.processes:
            if record.kind not in ("agent", "keeper", "controller"):
                continue
            with contextlib.suppress(FileNotFoundError), Path(record.log).open("rb") as log:
                log.seek(self._positions.get(record.log, 0))
                text = log.read().decode("utf-8", "replace")
                self._positions[record.log] = log.tell()
                found += [
                    f"{record.kind} of {record.member}: {line}" for line in text.splitlines() if _FAILED.search(line)
                ]
        return found


def unrest(site: ChaosSite, flows: FlowLogs, since_ns: int) -> str:
    """What is not as it should be now; empty where everything is, and every flow has worked since then."""
    flows.read()
    if said := flows.broken(since_ns):
        return said
    names = tuple(node.name for node in site.nodes)
    try:
        for name in names:
            document = site.status(name)
            if said := defect(document, names) or site.missed_beat(document):
                return f"{name}: {said}"
        statuses = {name: site.status(name) for name in site.controllers}
    except TransientError as error:
        return str(error)
    for name, document in statuses.items():
        if said := site.missed_beat(document):
            return f"{name}: {said}"
    leading = sum(bool(status["leading"]) for status in statuses.values())
    return "" if leading == 1 else f"{leading} controllers lead"


def wait_for_calm(site: ChaosSite, flows: FlowLogs, *, timeout_s: float) -> tuple[float, str]:
    """(seconds from now until everything worked again, what is still wrong at the end or empty)."""
    started_s, since_ns = time.monotonic(), boot_ns()
    while True:
        wrong = unrest(site, flows, since_ns)
        taken_s = time.monotonic() - started_s
        if not wrong or taken_s > timeout_s:
            return taken_s, wrong
        time.sleep(_POLL_S)


def answers(site: ChaosSite, member: str) -> bool:
    """Whether the member answers over HTTP."""
    try:
        return bool(site.status(member))
    except TransientError:
        return False


def trouble_seen(site: ChaosSite, member: str, text: str) -> bool:
    """Whether the member says now, in what `egressgw status` begins with, something with this text."""
    try:
        return any(text.lower() in line.lower() for line in troubles(site.status(member)))
    except TransientError:
        return False


def still_told(site: ChaosSite, *, timeout_s: float) -> list[str]:
    """What members of a site that is whole still call wrong at the end of that time; none as soon as none does."""
    deadline_s = time.monotonic() + timeout_s
    members = [*(node.name for node in site.nodes), *site.controllers]
    while True:
        told = []
        for member in members:
            try:
                told += [f"{member}: {line}" for line in troubles(site.status(member))]
            except TransientError as error:
                told.append(str(error))
        if not told or time.monotonic() > deadline_s:
            return told
        time.sleep(_POLL_S)


def drop_totals(site: ChaosSite) -> dict[str, int]:
    """Packets dropped by all nodes so far, by reason. Raises TransientError where an agent does not answer."""
    totals: Counter[str] = Counter()
    for node in site.nodes:
        totals.update(site.status(node.name)["drops"])
    return dict(totals)


def grown(before: dict[str, int], after: dict[str, int]) -> str:
    """How much more there is of each reason, the most first."""
    more = Counter(after)
    more.subtract(before)
    return ", ".join(f"{count} {reason}" for reason, count in more.most_common() if count > 0) or "nothing"


class Footprint:
    """What a site takes: files and memory of each program; rules, filters, pins and map entries of each node."""

    def __init__(self, site: ChaosSite) -> None:
        self.rules = {node.name: _kernel_state(site, node.name) for node in site.nodes}
        self.inheriting = {
            record.member
            for record in site.lab.state.processes
            if record.kind == "agent" and (age_s := _age_s(record.pid)) is not None and age_s < _INHERITS_S
        }
        """Nodes whose agent goes on with what the one before it knew."""
        self.programs = {
            (record.kind, record.member): _program(record)
            for record in site.lab.state.processes
            if record.kind in ("agent", "keeper", "controller")
        }

    def grown(self, now: "Footprint") -> Iterator[str]:
        """What has grown since this was taken."""
        for node, before in self.rules.items():
            for what, count in now.rules[node].items():
                # Of a policy as it was when its agent ended: it is known anew before it is let go.
                is_inherited = what == _RULES and node in now.inheriting
                if count != before.get(what) and not (is_inherited and count > before.get(what, 0)):
                    yield f"{node}: {before.get(what)} {what} are {count} now"
        for key, (files, rss_kb) in self.programs.items():
            files_now, rss_now_kb = now.programs.get(key, (0, 0))
            if files_now > files + _FILES_SPARE:
                yield f"{' of '.join(key)}: {files} open files are {files_now} now"
            if rss_now_kb > 1.5 * rss_kb + _RSS_SPARE_KB:
                yield f"{' of '.join(key)}: {rss_kb} kB of memory are {rss_now_kb} now"


def still_grown(site: ChaosSite, before: Footprint, *, timeout_s: float) -> list[str]:
    """What has grown and still has at the end of that time; none as soon as nothing has."""
    deadline_s = time.monotonic() + timeout_s
    while (grown := list(before.grown(Footprint(site)))) and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)
    return grown


def _age_s(pid: int) -> float | None:
    """How long the process has been there; None where it is not."""
    try:
        began = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(began) / os.sysconf("SC_CLK_TCK")


def _program(record: ProcessRecord) -> tuple[int, int]:
    """(open files, resident kB); zero of one that is gone."""
    try:
        files = len(os.listdir(f"/proc/{record.pid}/fd"))
        status = Path(f"/proc/{record.pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0, 0
    return files, next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)


def _kernel_state(site: ChaosSite, node: str) -> dict[str, int]:
    def lines(*command: str) -> int:
        try:
            return len(site.on(node, *command).splitlines())
        except OperatorError:
            return -1

    pins = member_folder(site.lab.folder, node) / "bpf"
    return {
        "ip rules": lines("ip", "rule"),
        "routes of other tables": lines("ip", "route", "show", "table", "all", "type", "unicast"),
        "nft chains": lines("nft", "list", "chains"),
        "qdiscs": lines("tc", "qdisc"),
        "pins": sum(1 for path in pins.rglob("*") if path.is_file()),
        **{f"entries of {path.name}": _entries(path) for path in pins.rglob("*") if path.name in _LEVEL_MAPS},
    }


def _entries(pin: Path) -> int:
    opened = BpfMap(open_object(str(pin)))
    try:
        count = len(opened.keys())
    finally:
        opened.close()
    # Each node keeps one for every address that it has ever held: no more than there are.
    return max(0, count - len(FLOATING_IPS)) if pin.name == MapName.LEASE_DEADLINES else count
