"""Results as tables for a terminal and as JSON with everything that is needed to judge them."""

import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtest.audit import AuditResult
from loadtest.chaos.arena import RoundResult
from loadtest.chaos.judge import Finding
from loadtest.chaos.known import known_fault
from loadtest.chaos.planted import Outcome
from loadtest.chaos.run import ChaosOptions, ChaosResult
from loadtest.chaos.schedule import Choice
from loadtest.chaos.shorten import Shortened
from loadtest.connections import Survivors
from loadtest.driving import CASES, DrivingResult
from loadtest.failover import FailoverResult, Kill
from loadtest.failover_case import CASES as FAILOVER_CASES
from loadtest.statistics import median
from loadtest.upgrade import Upgrade
from service.version import VERSION

SHARED_MACHINE = (
    "All hosts are namespaces of this one machine, and others may be using it: compare the columns with each other, "
    "not with another run."
)


def environment() -> dict[str, Any]:
    """The machine and the versions a result depends on."""
    return {
        "egressgw": VERSION,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_average": list(os.getloadavg()),
        "python": platform.python_version(),
        "nft": _first_line("nft", "--version"),
        "iproute2": _first_line("ip", "-Version"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next(iter((done.stdout or done.stderr).splitlines()), "").strip()


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Raises OSError where it cannot be written."""
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def describe_machine(machine: dict[str, Any]) -> str:
    """In one line, below a table."""
    load = machine["load_average"][0]
    return (
        f"Linux {machine['kernel']}, {machine['cores']} cores ({machine['processor']}), load {load:.1f} at the start."
    )


# -- driving --


def driving_document(result: DrivingResult, machine: dict[str, Any]) -> dict[str, Any]:
    """Everything, the single repeats too."""
    return {
        "test": "driving",
        "environment": machine,
        "options": asdict(result.options),
        "summary": result.summary(),
        "sizes": [asdict(size) | {"ms": cases} for size, cases in result.cases.items()],
    }


def print_driving(result: DrivingResult, machine: dict[str, Any], console: Console) -> None:
    """The medians of each size."""
    options = result.options
    table = Table(title=f"ms of the event loop, {options.members} members, medians of {options.repeats}")
    for name in ("policies", "pods", *(title for _, title in CASES)):
        table.add_column(name, justify="right")
    for row in result.summary():
        table.add_row(str(row["policies"]), str(row["pods"]), *(f"{row[case]:.2f}" for case, _ in CASES))
    console.print(table)
    console.print(
        "An idle turn; then all turns from a change until nothing is left to do, without what the kernel does."
    )
    console.print(describe_machine(machine))


# -- audit --


def audit_document(result: AuditResult, machine: dict[str, Any]) -> dict[str, Any]:
    """Everything, the single rounds too."""
    return {
        "test": "audit",
        "environment": machine,
        "options": asdict(result.options),
        "broker": result.broker,
        "summary": audit_summary(result),
        "records_per_second": result.throughput,
        "latency_ms": result.latency_ms,
        "records": result.events,
        "retries": result.retries,
    }


def audit_summary(result: AuditResult) -> dict[str, float]:
    """Medians over the rounds."""
    summary = {"records_per_second": median(result.throughput)}
    for name in ("p50", "p99", "max"):
        summary[f"{name}_ms"] = median([one[name] for one in result.latency_ms])
    return summary


def print_audit(result: AuditResult, machine: dict[str, Any], console: Console) -> None:
    """Each round and the medians."""
    options = result.options
    table = Table(title=f"outbox and Kafka ({result.broker}), compression {options.compression}")
    for name in ("round", "records/s", f"p50 ms at {options.rate}/s", "p99 ms", "max ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for number, (rate, one) in enumerate(zip(result.throughput, result.latency_ms, strict=True), 1):
        table.add_row(str(number), f"{rate:.0f}", f"{one['p50']:.1f}", f"{one['p99']:.1f}", f"{one['max']:.1f}")
    row = audit_summary(result)
    values = [f"{row[name]:.1f}" for name in ("p50_ms", "p99_ms", "max_ms")]
    table.add_row("median", f"{row['records_per_second']:.0f}", *values, style="bold")
    console.print(table)
    console.print("Each record was synced to disk, then acknowledged by the broker; times run from append to there.")
    console.print(f"{result.events} records, {result.retries} rounds begun again.")
    console.print(describe_machine(machine))


# -- failover --


def kill_line(kill: Kill) -> str:
    """One kill in one line, while the run goes on."""
    head = f"{kill.case} {kill.number}: {kill.victim} -> {kill.next_holder}, "
    if kill.outage is None:
        return head + "traffic did not come back"
    wrong = f", WRONG SOURCES {kill.wrong_sources}" if kill.wrong_sources else ""
    further = [f"{gap / 1e6:.0f}" for gap in kill.outage.further_gaps_ns]
    again = f", further gaps of {', '.join(further)} ms" if further else ""
    return (
        f"{head}gap {kill.outage.gap_ns / 1e6:.1f} ms, first answer {kill.outage.kill_to_first_ns / 1e6:.1f} ms after "
        f"the kill, {kill.outage.lost} of {kill.outage.requests} requests lost{again}{wrong}"
    )


def failover_document(result: FailoverResult, machine: dict[str, Any]) -> dict[str, Any]:
    """Everything, each kill's outage too."""
    return {
        "test": "failover",
        "environment": machine,
        "options": asdict(result.options),
        "summary": result.summary(),
        "kills": [_kill_document(kill) for kill in result.kills],
    }


def _kill_document(kill: Kill) -> dict[str, Any]:
    document = asdict(kill) | {"wrong_sources": kill.wrong_sources}
    if kill.outage is not None:
        document |= {
            "gap_ms": kill.outage.gap_ns / 1e6,
            "kill_to_first_answer_ms": kill.outage.kill_to_first_ns / 1e6,
        }
    return document


def print_failover(result: FailoverResult, machine: dict[str, Any], console: Console) -> None:
    """The gaps, what was seen outside, and in red every failure."""
    summary = result.summary()
    options = result.options
    title = f"{summary['kills']} moves, profile {options.profile}: leases of {summary['lease_ms']:.0f} ms"
    table = Table("", "gap, median", "p99", "max", "first answer, median", "max", "lost, most", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    named = {FAILOVER_CASES[case].told: felt for case, felt in summary["cases"].items()}
    for name, felt in (named | summary["peers"]).items():
        first = _milliseconds(felt["kill_to_first_answer_ms"])
        table.add_row(name, *_milliseconds(felt["gap_ms"]), first[0], first[2], str(felt["lost_max"]))
    console.print(table)
    console.print(f"One request each {options.interval_ms:g} ms; kill moments from seed {options.seed}.")
    seen: dict[str, int] = {}
    for kill in result.kills:
        for source, count in kill.seen_outside.items():
            seen[source] = seen.get(source, 0) + count
    console.print(f"Seen outside: {', '.join(f'{count} requests from {source}' for source, count in seen.items())}.")
    for node, audit in (result.kills[-1].audit if result.kills else {}).items():
        published = f"{audit['published']} records published" if audit["kafka"] else "no brokers"
        console.print(f"Audit at the end, {node}: {published}; {audit['reason'] or 'healthy'}.")
    console.print(describe_machine(machine))
    for failure in summary["failures"]:
        console.print(f"FAILED: {failure}", style="bold red")


def _milliseconds(values: dict[str, float]) -> Sequence[str]:
    return [f"{values[name]:.1f} ms" if name in values else "-" for name in ("median", "p99", "max")]


# -- connections --


def print_survivors(found: Sequence[Survivors], machine: dict[str, Any], console: Console) -> None:
    """Of each fault how many of each kind live, and in red every failure."""
    kinds = list(dict.fromkeys(kind for one in found for kind in one.asked))
    table = Table("fault", "from", "to", *kinds, "ends not heard", title="connections alive, of those that were open")
    for one in found:
        cells = [f"{one.alive.get(kind, 0)}/{one.asked.get(kind, 0)}" for kind in kinds]
        table.add_row(one.fault, one.holder, one.next_holder, *cells, str(one.still_open))
    console.print(table)
    console.print(describe_machine(machine))
    for failure in [failure for one in found for failure in one.failures]:
        console.print(f"FAILED: {failure}", style="bold red")


def survivors_document(found: Sequence[Survivors], machine: dict[str, Any]) -> dict[str, Any]:
    """As JSON can say it."""
    faults = [asdict(one) | {"failures": one.failures} for one in found]
    return {"environment": machine, "faults": faults}


# -- upgrade --


def print_upgrade(result: Upgrade, machine: dict[str, Any], console: Console) -> None:
    """Of each rollout what lived through it, and in red what must never be."""
    kinds = list(dict.fromkeys(kind for step in result.steps for kind in step.asked))
    table = Table("rollout", *kinds, "opened after", title=f"from {result.options.before}: connections alive, of those")
    for step in result.steps:
        cells = [f"{step.alive.get(kind, 0)}/{step.asked.get(kind, 0)}" for kind in kinds]
        table.add_row(step.told, *cells, f"{step.alive_after}/{step.opened}")
    console.print(table)
    for step in result.steps:
        for node, stream in step.streams.items():
            told = f"{stream.lost} of {stream.sent} requests lost, longest gap {stream.gap_max_ms:.0f} ms"
            console.print(f"{step.told}, a pod on {node}: {told}")
    console.print(describe_machine(machine))
    for failure in result.failures:
        console.print(f"FAILED: {failure}", style="bold red")


def upgrade_document(result: Upgrade, machine: dict[str, Any]) -> dict[str, Any]:
    """As JSON can say it."""
    return {"environment": machine, "failures": result.failures} | asdict(result)


# -- chaos --


def chaos_document(result: ChaosResult, machine: dict[str, Any]) -> dict[str, Any]:
    """Every round with what happened, how long calm took, and what was found."""
    options = asdict(result.options)
    options["known"] = [fault.why for fault in result.options.known]
    return {
        "test": "chaos",
        "environment": machine,
        "options": options,
        "rounds": [
            {
                "number": played.round.number,
                "events": [asdict(act) for act in played.round.acts],
                "calm_s": played.calm_s,
                "findings": [_finding(one, played, result.options) for one in played.findings],
            }
            for played in result.rounds
        ],
    }


def _finding(finding: Finding, played: RoundResult, options: ChaosOptions) -> dict[str, Any]:
    known = known_fault(finding, played.rounds, options.known)
    return {"promise": str(finding.promise), "detail": finding.detail, "known": known.why if known else None}


def chaos_command(options: ChaosOptions, rounds: str) -> str:
    """What plays these rounds of the run again."""
    events = f" --events {','.join(options.events)}" if options.events else ""
    kubernetes = " --kubernetes" if options.kubernetes else ""
    return f"python -m loadtest chaos{kubernetes} --seed {options.seed}{events} --rounds {rounds}"


def print_round(played: RoundResult, options: ChaosOptions, console: Console) -> None:
    """One line, and each finding; where one is new, with the command that plays the round again."""
    faults = [known_fault(finding, played.rounds, options.known) for finding in played.findings]
    is_kept = all(faults)
    verdict = "" if is_kept else " -- NOT KEPT"
    console.print(f"{played.round}: calm after {played.calm_s:.1f} s{verdict} (load {os.getloadavg()[0]:.1f})")
    for finding, fault in zip(played.findings, faults, strict=True):
        if fault is None:
            console.print(f"  {finding.promise}: {finding.detail}")
    for why, number in Counter(fault.why for fault in faults if fault is not None).items():
        console.print(f"  known: {why} ({number} findings)")
    if not is_kept:
        console.print(f"  again: {chaos_command(options, str(played.round.number))}")


def print_shortest(rounds: str, found: Shortened[Choice], options: ChaosOptions, console: Console) -> None:
    """The shortest list that failed again, or that none did."""
    if found.failed_again:
        console.print(f"shortest that fails, after {found.tries} tries: {chaos_command(options, rounds)}")
    else:
        told = f"none of {found.tries} tries failed again; all that had happened"
        console.print(f"{told}: {chaos_command(options, rounds)}")


def print_planted(outcome: Outcome, untouched: Outcome | None, console: Console) -> None:
    """Caught or not, by which promises; and what the untouched tree shows in the same rounds."""
    told = "caught" if outcome.is_caught else "NOT CAUGHT"
    console.print(f"{outcome.planted.name} ({outcome.planted.why}): {told}: {_promises(outcome)}")
    for _, detail in outcome.findings[:2]:
        console.print(f"  e.g. {detail.splitlines()[0]}")
    if untouched is not None:
        console.print(f"  untouched: {_promises(untouched)}")


def _promises(outcome: Outcome) -> str:
    counts = Counter(promise for promise, _ in outcome.findings)
    return ", ".join(f"{number} x {promise}" for promise, number in counts.most_common()) or "nothing found"


def print_chaos(result: ChaosResult, machine: dict[str, Any], console: Console) -> None:
    """How many rounds, and which promises were not kept how often."""
    calm = sorted(played.calm_s for played in result.rounds)
    if calm:
        console.print(f"{len(calm)} rounds; calm again after {median(calm):.1f} s (median), {calm[-1]:.1f} s (longest)")
    counts: dict[str, int] = {}
    for finding in result.findings:
        counts[str(finding.promise)] = counts.get(str(finding.promise), 0) + 1
    for promise, count in sorted(counts.items()):
        console.print(f"  {promise}: {count}")
    for fault in sorted(result.faults_seen(), key=lambda fault: fault.why):
        console.print(f"  known: {fault.why}: {fault.replay}")
    if not counts:
        console.print("Every promise was kept.")
    console.print(describe_machine(machine))
