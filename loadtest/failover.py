"""Kill the node that holds a floating IP, again and again, and measure the gap a client of a selected pod feels.

Beside that, in turns, what else moves an address (`failover_case`), and the same kill of keepalived (`keepalived`).
Each kill: a pod on a node that survives asks the outside server through the floating IP every 2 ms. At a random moment
the links of the holder go silent (nobody is told; both its ends stay up) and its agent and keeper get SIGKILL: to all
others that is a machine that lost its power. The gap runs from the last answer before to the first one after. Then the
node is healed and restarted, and the next kill waits until every agent sees the cluster whole, with a successor for
every floating IP.

The outside server's log tells the source of every request, also of those that were never answered: any other source
than the policy's floating IP breaks a promise, and the run fails.
"""

import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loadtest import gateway, slow_broker
from loadtest.failover_case import CASES, Act
from loadtest.keepalived import kill_master, running_pair
from loadtest.outage import Outage, find_outage, summarize
from loadtest.station import Station
from loadtest.traffic import boot_time_ns
from service.lab.lab import Lab
from service.lab.plan import UDP_PORT, LabOptions, PlannedPod
from service.lab.status import wait_for
from service.model.errors import OperatorError, TransientError
from service.model.lease import LEASE_PROFILES, ProfileName

LEAD_S = 0.4
"""Traffic before a kill, at the least."""
BACK_REQUESTS = 100
"""Requests that reach the outside after a kill before its stream ends: traffic is back for good."""
CUT_NS = 50_000_000
"""Requests may still get out so long after the kill began: cutting the links takes the tools some milliseconds."""
BACK_TIMEOUT_S = 20.0
_PUBLISHED_TIMEOUT_S = 60.0


KAFKA = ("none", "down", "silent", "slow", "full")
"""What may become of the audit records: see FailoverOptions."""
_DOWN = "127.0.0.1:9"
"""Within a lab: a port of the node itself where nothing listens."""
_SILENT = "198.51.100.9:9092"
"""An address that nobody has."""
_FULL_KIB = 256
"""Room for the small files of a member's state, not for one segment of an outbox: no record ever reaches the disk."""


@dataclass(frozen=True, slots=True)
class FailoverOptions:
    """What a run is asked for. `seed` draws the kill moments and the pods."""

    kills: int = 10
    profile: str = "default"
    interval_ms: float = 2.0
    seed: int = 0
    name: str = "load"
    on_bridge: bool = True
    keep: bool = False
    cases: tuple[str, ...] = ("crash",)
    """Of `failover_case.CASES`: each of them once in every round of `kills`."""
    peers_s: tuple[float, ...] = ()
    """Intervals of keepalived's advertisements: one kill of each in every round."""
    kafka: str = "none"
    """`none`, or where the audit records go: to brokers that are `down` (refuse), `silent` (never answer) or `slow` (a
    real one, seconds away), or nowhere, since the disks of their outboxes are `full` (and brokers down)."""


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill and what came of it."""

    number: int
    victim: str
    next_holder: str
    pod: str
    outage: Outage | None
    """None: traffic did not come back in time."""
    seen_outside: dict[str, int]
    """Source -> requests, from the outside server's log."""
    whole_s: float
    """From the restart of the victim to the whole cluster."""
    defect: str = ""
    """Why the cluster did not become whole again; the run ends then."""
    case: str = "crash"
    audit: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Node -> what it says of its audit records once the cluster is whole again."""

    @property
    def wrong_sources(self) -> dict[str, int]:
        """Sources other than the policy's, seen outside or named in answers: each breaks a promise."""
        seen = Counter(self.seen_outside)
        seen.update(self.outage.sources if self.outage else {})
        return {source: count for source, count in seen.items() if source != gateway.SOURCE_IP}


@dataclass(slots=True)
class FailoverResult:
    """The kills so far. A run ends early where the cluster does not become whole again."""

    options: FailoverOptions
    kills: list[Kill] = field(default_factory=list)
    peers: dict[float, list[Outage]] = field(default_factory=dict)
    """Of keepalived, by the interval of its advertisements in seconds."""

    @property
    def failures(self) -> list[str]:
        """Why the run has failed; empty where it has not."""
        found = []
        for kill in self.kills:
            if kill.outage is None:
                found.append(f"kill {kill.number}: traffic was not back within {BACK_TIMEOUT_S:.0f} s")
            if kill.wrong_sources:
                found.append(f"kill {kill.number}: seen outside as {kill.wrong_sources}")
            if kill.defect:
                found.append(f"kill {kill.number}: {kill.defect}")
            if self.options.kafka == "full":
                deceived = [node for node, audit in kill.audit.items() if audit["healthy"]]
                found += [f"kill {kill.number}: {node} says that records reach its full disk" for node in deceived]
        return found

    def summary(self) -> dict[str, Any]:
        """Of the kills after which traffic came back; `failures` tells of the others."""
        peers = {f"keepalived, {interval_s:g} s": outages for interval_s, outages in self.peers.items()}
        return {
            "kills": len(self.kills),
            "lease_ms": LEASE_PROFILES[ProfileName(self.options.profile)].lease_ns / 1e6,
            "cases": {case: _felt(self.outages(case)) for case in self.options.cases},
            "peers": {name: _felt(outages) for name, outages in peers.items()},
            "failures": self.failures,
        }

    def outages(self, case: str) -> list[Outage]:
        """Of the kills of that case after which traffic came back."""
        return [kill.outage for kill in self.kills if kill.case == case and kill.outage is not None]


def _felt(outages: Sequence[Outage]) -> dict[str, Any]:
    return {
        "gap_ms": summarize([outage.gap_ns for outage in outages]),
        "kill_to_first_answer_ms": summarize([outage.kill_to_first_ns for outage in outages]),
        "lost": sum(outage.lost for outage in outages),
        "lost_max": max((outage.lost for outage in outages), default=0),
        "requests": sum(outage.requests for outage in outages),
    }


def measure_failover(
    options: FailoverOptions,
    report: gateway.Report = lambda line: None,
    advance: Callable[[Kill], None] = lambda kill: None,
) -> FailoverResult:
    """Build a lab, kill, clear the lab. `advance` is called after each kill.

    Raises TransientError where the cluster does not become whole before the first kill; later that is a result.
    """
    result = FailoverResult(options)
    chance = random.Random(options.seed)
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(_running_lab(options, report))
        pairs = {
            interval_s: stack.enter_context(running_pair(f"{options.name}{number}", interval_s))
            for number, interval_s in enumerate(options.peers_s)
        }
        gateway.apply_policy(lab, (f"{gateway.OUTSIDE}/32",))
        report("waiting until the floating IPs are held")
        holder = _holder(gateway.wait_until_whole(lab))
        for number in range(1, options.kills + 1):
            for case in options.cases:
                report(f"{number} of {options.kills}: {CASES[case].told} ({holder})")
                kill = _kill(lab, options, number, case, holder, chance)
                result.kills.append(kill)
                advance(kill)
                if kill.defect:
                    return result
                holder = kill.next_holder
            for interval_s, pair in pairs.items():
                report(f"{number} of {options.kills}: keepalived, {interval_s:g} s")
                outage = kill_master(pair, options.interval_ms / 1e3, chance.uniform(0, interval_s))
                result.peers.setdefault(interval_s, []).extend([outage] if outage is not None else [])
    return result


@contextlib.contextmanager
def _running_lab(options: FailoverOptions, report: gateway.Report) -> Iterator[Lab]:
    """The lab, with the brokers and disks that were asked for."""
    lab_options = LabOptions(name=options.name, profile=options.profile)
    with contextlib.ExitStack() as stack:
        match options.kafka:
            case "down":
                lab_options = replace(lab_options, kafka=_DOWN)
            case "silent":
                lab_options = replace(lab_options, kafka=_SILENT)
            case "full":
                lab_options = replace(lab_options, kafka=_DOWN, state_kib=_FULL_KIB)
            case "slow":
                report("starting a Kafka broker (the first time it is fetched)")
                broker = stack.enter_context(slow_broker.running_broker())
                lab_options = replace(lab_options, kafka=broker.address)
        lab = stack.enter_context(gateway.running_lab(lab_options, report, keep=options.keep))
        if options.kafka == "slow":
            stack.enter_context(slow_broker.slow_down(lab, broker))
            report("waiting until the first records have come through to the slow broker")
            wait_for("records to be published", lambda: _is_published(lab), timeout_s=_PUBLISHED_TIMEOUT_S)
        yield lab


def _holder(document: dict[str, Any]) -> str:
    holder: str = document["floatingIPs"][gateway.SOURCE_IP]["holder"]
    return holder


def _kill(lab: Lab, options: FailoverOptions, number: int, case: str, victim: str, chance: random.Random) -> Kill:
    survivor = chance.choice([node.name for node in lab.plan.nodes if node.name != victim])
    pod = gateway.selected_pod(lab, survivor, on_bridge=options.on_bridge)
    gateway.wait_until_translated(lab, pod)
    log = OutsideLog(lab.outside_log)
    outage = _break(lab, options, CASES[case].prepare(lab, victim), pod, log, chance)
    restarted_s = time.monotonic()
    next_holder, audit, defect = _mend(lab, case, victim)
    return Kill(
        number=number,
        victim=victim,
        next_holder=next_holder,
        pod=pod.full_name,
        outage=outage,
        seen_outside=log.sources(),
        whole_s=time.monotonic() - restarted_s,
        defect=defect,
        case=case,
        audit=audit,
    )


def _break(
    lab: Lab, options: FailoverOptions, act: Act, pod: PlannedPod, log: "OutsideLog", chance: random.Random
) -> Outage | None:
    """Act while the pod talks; what its client felt, None where traffic was not back in time."""
    profile = LEASE_PROFILES[ProfileName(options.profile)]
    with Station(pod.netns) as station:
        station.tell("stream", destination=gateway.OUTSIDE, port=UDP_PORT, interval_ns=int(options.interval_ms * 1e6))
        station.answer()
        # Anywhere within a lease and a renewal, so that no phase of the protocol is favoured.
        time.sleep(LEAD_S + chance.uniform(0, profile.lease_ns + profile.renew_ns) / 1e9)
        kill_ns = boot_time_ns()
        act()
        _wait_until_back(log, kill_ns)
        station.end()
        streamed = station.answer()
    with contextlib.suppress(ValueError):
        return find_outage(kill_ns, streamed["sent"], streamed["answers"])
    return None


def _mend(lab: Lab, case: str, victim: str) -> tuple[str, dict[str, dict[str, Any]], str]:
    """Bring the victim back; (holder, audit, defect) once the cluster is whole, or as far as it came."""
    CASES[case].mend(lab, victim)
    holder = ""
    try:
        holder = _holder(gateway.wait_until_whole(lab))
        return holder, _audit(lab), ""
    except (OperatorError, TransientError) as error:
        return holder, {}, str(error)


def _is_published(lab: Lab) -> bool:
    return any(audit["published"] for audit in _audit(lab).values())


def _audit(lab: Lab) -> dict[str, dict[str, Any]]:
    """What each node says of its audit records. Raises TransientError where one does not answer."""
    return {node.name: gateway.status(lab, node.name)["audit"] for node in lab.plan.nodes}


def _wait_until_back(log: "OutsideLog", kill_ns: int) -> None:
    """Until enough requests have come since the kill, or time is up: that is then a result, no error."""
    with contextlib.suppress(TransientError):
        wait_for(
            "traffic to be back", lambda: log.count_since(kill_ns + CUT_NS) >= BACK_REQUESTS, timeout_s=BACK_TIMEOUT_S
        )


class OutsideLog:
    """What the outside server saw since this was made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size
        self._calls: list[dict[str, Any]] = []

    def count_since(self, since_ns: int) -> int:
        """Calls stamped after that moment (CLOCK_BOOTTIME ns)."""
        self._read()
        return sum(1 for call in self._calls if call["time_ns"] > since_ns)

    def sources(self) -> dict[str, int]:
        """Calls by the source they were seen from."""
        self._read()
        return dict(Counter(call["source"] for call in self._calls))

    def _read(self) -> None:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                # The last line may be only half there yet.
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                self._calls.append(json.loads(line))
