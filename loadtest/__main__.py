"""`python -m loadtest`: failover, datapath, costs by size, driving, audit, chaos and others.

Exit status: 0 done, 1 a promise was broken or a step failed, 2 wrong use, 130 interrupted.
"""

import contextlib
import random
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest.audit import AuditOptions, measure_audit
from loadtest.audit import steps as audit_steps
from loadtest.chaos.arena import RoundResult
from loadtest.chaos.events import CATALOGUE, CLUSTER_CATALOGUE
from loadtest.chaos.planted import PLANTED, try_planted
from loadtest.chaos.run import ChaosOptions, ChaosResult, run_chaos, shortest
from loadtest.chaos.schedule import parse_rounds
from loadtest.connections import FAULTS, measure_connections
from loadtest.datapath import DATAPATH_ROWS, measure_datapath
from loadtest.driving import DrivingOptions, measure_driving, sizes
from loadtest.failover import KAFKA, FailoverOptions, Kill, measure_failover
from loadtest.failover_case import CASES as FAILOVER_CASES
from loadtest.gap_plot import draw_gaps
from loadtest.goal import Row
from loadtest.keepalived import require_keepalived
from loadtest.report import (
    audit_document,
    chaos_document,
    driving_document,
    environment,
    failover_document,
    kill_line,
    print_audit,
    print_chaos,
    print_driving,
    print_failover,
    print_planted,
    print_round,
    print_shortest,
    print_survivors,
    print_upgrade,
    survivors_document,
    upgrade_document,
    write_json,
)
from loadtest.report_rows import datapath_document, print_datapath, print_scale, row_line, scale_document
from loadtest.row_table import chosen_rows
from loadtest.rows.options import DatapathOptions
from loadtest.scale.options import ScaleOptions, ScaleSizes
from loadtest.scale.plot import draw_plots, require_matplotlib
from loadtest.scale.table import SCALE_ROWS, measure_scale_rows
from loadtest.upgrade import UpgradeOptions, measure_upgrade
from loadtest.variant import PATHS, POLICY_PATH
from service.lab.plan import CNIS, PLAIN_BRIDGE, PROXY_MODES
from service.model.errors import OperatorError, TransientError
from service.model.lease import ProfileName

F = TypeVar("F", bound=Callable[..., Any])
_WIDTH = 160
"""Of a table that goes to a file or a pipe."""


def _common_options(command: F) -> F:
    for option in (
        click.option("--json", "json_file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path)),
        click.option(
            "--name",
            default="load",
            show_default=True,
            help="What the labs' names begin with; labs of these names are replaced.",
        ),
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure the gateway in labs of its own on this machine (root, Linux); the host's network is not touched."""
    # A terminated run clears its labs like an interrupted one; and a shell's background job can be interrupted too.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@main.command()
@click.option("--kills", default=10, show_default=True, type=click.IntRange(1, 1000), help="How often.")
@click.option("--profile", type=click.Choice([str(name) for name in ProfileName]), default="default", show_default=True)
@click.option(
    "--interval", default=2.0, show_default=True, type=click.FloatRange(0.5, 100), help="Request each so many ms."
)
@click.option("--seed", type=int, help="Of the kill moments; a random one if not given.")
@click.option(
    "--pod", type=click.Choice(["bridge", "veth"]), default="bridge", show_default=True, help="How it is attached."
)
@click.option(
    "--kafka",
    type=click.Choice(KAFKA),
    default="none",
    show_default=True,
    help="Brokers for audit records; full: the disks of their outboxes are.",
)
@click.option(
    "--case",
    "cases",
    multiple=True,
    type=click.Choice(list(FAILOVER_CASES)),
    default=("crash",),
    show_default=True,
    help="Each once in every round; may be given again.",
)
@click.option(
    "--peer",
    "peers",
    multiple=True,
    type=click.FloatRange(0.01, 40),
    metavar="SECONDS",
    help="Beside it keepalived with advertisements each so many seconds; may be given again.",
)
@click.option("--plot", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="The gaps as SVG.")
@click.option("--keep", is_flag=True, help="Leave the lab up at the end.")
@_common_options
def failover(
    kills: int,
    profile: str,
    interval: float,
    seed: int | None,
    pod: str,
    kafka: str,
    cases: tuple[str, ...],
    peers: tuple[float, ...],
    plot: Path | None,
    keep: bool,
    json_file: Path | None,
    name: str,
) -> None:
    """Kill the holder of a floating IP again and again; measure the gap a client feels."""
    options = FailoverOptions(
        kills=kills,
        profile=profile,
        interval_ms=interval,
        seed=random.randrange(1 << 32) if seed is None else seed,
        name=name,
        on_bridge=pod == "bridge",
        keep=keep,
        kafka=kafka,
        cases=tuple(dict.fromkeys(cases)),
        peers_s=tuple(dict.fromkeys(peers)),
    )
    with _told():
        if peers:
            require_keepalived()
        if plot is not None:
            require_matplotlib()
    console = _console()
    machine = environment()
    with _told(), _progress(console, kills * len(options.cases)) as (report, step):

        def advance(kill: Kill) -> None:
            console.print(kill_line(kill))
            step()

        result = measure_failover(options, report, advance)
    print_failover(result, machine, console)
    _write(json_file, failover_document(result, machine), console)
    if plot is not None:
        with _told():
            draw_gaps(result, plot)
    if result.failures:
        sys.exit(1)


@main.command()
@click.option("--count", default=1000, show_default=True, type=click.IntRange(8, 20_000), help="Of all kinds together.")
@click.option(
    "--fault", "faults", multiple=True, type=click.Choice([*FAULTS, "all"]), default=("crash",), help="Which."
)
@_common_options
def connections(count: int, faults: tuple[str, ...], json_file: Path | None, name: str) -> None:
    """Open connections of every kind, let something happen to their gateway node, count the survivors."""
    chosen = tuple(FAULTS) if "all" in faults else tuple(dict.fromkeys(faults))
    console = _console()
    machine = environment()
    found = []
    with _told(), _progress(console, len(chosen)) as (report, step):
        for fault in chosen:
            found.append(measure_connections(fault, count, name, report))
            step()
    print_survivors(found, machine, console)
    _write(json_file, survivors_document(found, machine), console)
    if any(one.failures for one in found):
        sys.exit(1)


@main.command()
@click.option("--before", required=True, metavar="COMMIT", help="The earlier version: a commit or tag.")
@click.option("--count", default=1000, show_default=True, type=click.IntRange(8, 20_000), help="Of all kinds together.")
@click.option("--cni", type=click.Choice(CNIS), default=PLAIN_BRIDGE, show_default=True)
@click.option("--proxy-mode", type=click.Choice(PROXY_MODES), default=PROXY_MODES[0], show_default=True)
@_common_options
def upgrade(before: str, count: int, cni: str, proxy_mode: str, json_file: Path | None, name: str) -> None:
    """Roll a real cluster from an earlier version to this one and back under open connections; count what is lost."""
    options = UpgradeOptions(before, count, name, cni, proxy_mode)
    console = _console()
    machine = environment()
    with _told(), _progress(console, None) as (report, _step):
        result = measure_upgrade(options, report)
    print_upgrade(result, machine, console)
    _write(json_file, upgrade_document(result, machine), console)
    if result.failures:
        sys.exit(1)


@main.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 100))
@click.option(
    "--duration", default=1.0, show_default=True, type=click.FloatRange(0.05, 60), help="Seconds of a measurement."
)
@click.option("--only", default="", metavar="NAME,...", help=f"Of the rows: {', '.join(DATAPATH_ROWS)}.")
@click.option(
    "--path",
    "paths",
    multiple=True,
    type=click.Choice(PATHS),
    default=(POLICY_PATH,),
    show_default=True,
    help="Of established flows; may be given twice.",
)
@click.option("--bulk/--no-bulk", default=True, show_default=True, help="Measure one TCP stream too.")
@_common_options
def datapath(
    rounds: int,
    duration: float,
    only: str,
    paths: tuple[str, ...],
    bulk: bool,
    json_file: Path | None,
    name: str,
) -> None:
    """Measure everything that is promised of the datapath, each number beside its goal.

    What costs time is measured beside plain routing and nft maps, in interleaved rounds.
    """
    names = tuple(filter(None, only.split(",")))
    options = DatapathOptions(rounds, duration, name, bulk, names, tuple(dict.fromkeys(paths)))
    console = _console()
    with _told():
        rows = chosen_rows(DATAPATH_ROWS, options)
        machine = environment()
        with _progress(console, len(rows)) as (report, step):

            def advance(row: Row) -> None:
                console.print(row_line(row))
                step()

            result = measure_datapath(options, report, advance)
    print_datapath(result, machine, console)
    _write(json_file, datapath_document(result, machine), console)
    if result.failures:
        sys.exit(1)


@main.command()
@click.option("--only", default="", metavar="NAME,...", help=f"Of the rows: {', '.join(SCALE_ROWS)}.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1, 1000), help="At each size.")
@click.option(
    "--churn-minutes", default=1.0, show_default=True, type=click.FloatRange(0.1, 24 * 60), help="Length of row churn."
)
@click.option(
    "--plots", metavar="DIR", type=click.Path(file_okay=False, path_type=Path), help="Draw the curves into it, as SVG."
)
@click.option("--json", "json_file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", default="scale", show_default=True, help="What the labs' names begin with.")
def scale(only: str, repeats: int, churn_minutes: float, plots: Path | None, json_file: Path | None, name: str) -> None:
    """Measure what everything costs by how much there is, each number beside its goal, with slopes."""
    names = tuple(filter(None, only.split(",")))
    options = ScaleOptions(repeats, name, names, ScaleSizes(churn_s=60 * churn_minutes))
    console = _console()
    with _told():
        if plots is not None:
            require_matplotlib()
        rows = chosen_rows(SCALE_ROWS, options)
        machine = environment()
        with _progress(console, len(rows)) as (report, step):

            def advance(row: Row) -> None:
                console.print(row_line(row))
                step()

            result = measure_scale_rows(options, report, advance)
    print_scale(result, machine, console)
    document = scale_document(result, machine)
    _write(json_file, document, console)
    for file in draw_plots(document, plots) if plots is not None else ():
        console.print(f"Plot: {file}")
    if result.failures:
        sys.exit(1)


@main.command()
@click.option(
    "--policies", default="1,1000,10000", show_default=True, metavar="N,...", help="So many, one after another."
)
@click.option("--pods", default="100,1000,5000", show_default=True, metavar="N,...", help="Of this node, with each.")
@click.option("--members", default=1000, show_default=True, type=click.IntRange(2, 4000), help="Of the cluster.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1, 1000))
@click.option("--json", "json_file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
def driving(policies: str, pods: str, members: int, repeats: int, json_file: Path | None) -> None:
    """Measure what an agent's turn costs its event loop, by how much there is. Needs no root and no lab."""
    options = DrivingOptions(_numbers(policies, "--policies"), _numbers(pods, "--pods"), members, repeats)
    console = _console()
    machine = environment()
    with _told(), _progress(console, len(sizes(options))) as (report, step):
        result = measure_driving(options, report, step)
    print_driving(result, machine, console)
    _write(json_file, driving_document(result, machine), console)


def _numbers(text: str, option: str) -> tuple[int, ...]:
    try:
        numbers = tuple(map(int, text.split(",")))
    except ValueError as error:
        raise click.BadParameter("write N or N,N,...", param_hint=option) from error
    if min(numbers) < 1:
        raise click.BadParameter("at least 1", param_hint=option)
    return numbers


@main.command()
@click.option("--rate", default=1000, show_default=True, type=click.IntRange(1, 20_000), help="Records/s for latency.")
@click.option("--duration", default=5.0, show_default=True, type=click.FloatRange(1, 600), help="Seconds at that rate.")
@click.option("--records", default=50_000, show_default=True, type=click.IntRange(1000, 10_000_000), help="At once.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 100))
@click.option(
    "--compression", type=click.Choice(["none", "gzip", "snappy", "lz4", "zstd"]), default="lz4", show_default=True
)
@click.option("--brokers", default="", metavar="HOST:PORT", help="Use these; otherwise a broker is started (Java).")
@click.option("--json", "json_file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
def audit(
    rate: int, duration: float, records: int, rounds: int, compression: str, brokers: str, json_file: Path | None
) -> None:
    """Measure records/s through outbox and Kafka, and the time until a record is acknowledged. Needs no root."""
    options = AuditOptions(rate, duration, records, rounds, compression, brokers)
    console = _console()
    machine = environment()
    with _told(), _progress(console, audit_steps(options)) as (report, step):
        result = measure_audit(options, report, step)
    print_audit(result, machine, console)
    _write(json_file, audit_document(result, machine), console)


@main.command()
@click.option("--minutes", default=4.0, show_default=True, type=click.FloatRange(0.1, 24 * 60), help="How long.")
@click.option("--seed", type=int, help="Of the events and their moments; a random one if not given.")
@click.option("--events", default="", metavar="NAME,...", help="Only these of the catalogue; `list` names them all.")
@click.option("--rounds", default="", metavar="N,...", help="Only these rounds of the seed; N:EVENT one event of it.")
@click.option("--kubernetes", is_flag=True, help="In a real cluster, with the events that make sense there.")
@click.option(
    "--shorten", default=5.0, show_default=True, metavar="MINUTES", help="To look for fewer events that fail."
)
@click.option("--strict", is_flag=True, help="Known faults count too.")
@click.option("--json", "json_file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", default="chaos", show_default=True, help="Of the lab; one of that name is replaced.")
def chaos(
    minutes: float,
    seed: int | None,
    events: str,
    rounds: str,
    kubernetes: bool,
    shorten: float,
    strict: bool,
    json_file: Path | None,
    name: str,
) -> None:
    """Let happen to a lab under traffic what happens in the field; judge by captures and the outside server."""
    names = tuple(filter(None, events.split(",")))
    catalogue = CLUSTER_CATALOGUE if kubernetes else CATALOGUE
    if names == ("list",):
        for kind, event in sorted(catalogue.items()):
            click.echo(f"{kind:22}{(event.__doc__ or '').splitlines()[0]}")
        return
    if unknown := [one for one in names if one not in catalogue]:
        raise click.BadParameter(f"no event {', '.join(unknown)}; `--events list` names them", param_hint="--events")
    options = replace(_chaos_options(minutes, seed, names, rounds, name), kubernetes=kubernetes)
    if strict:
        options = replace(options, known=())
    console = _console()
    machine = environment()
    console.print(f"seed {options.seed}")
    with _told(), _progress(console, len(options.rounds) or None) as (report, step):

        def done(result: RoundResult) -> None:
            print_round(result, options, console)
            step()

        result = run_chaos(options, report, done)
        _shorten(result, report, console, shorten)
    print_chaos(result, machine, console)
    _write(json_file, chaos_document(result, machine), console)
    if result.findings:
        sys.exit(1)


@main.command()
@click.option("--only", default="", metavar="NAME,...", help="Of the planted faults; all if not given.")
@click.option("--sound", is_flag=True, help="Play the same rounds in the untouched tree too.")
def planted(only: str, sound: bool) -> None:
    """Take a line out of a copy of the product, again and again; chaos must find each one."""
    names = tuple(filter(None, only.split(",")))
    chosen = [one for one in PLANTED if not names or one.name in names]
    console = _console()
    missed = 0
    with _told(), _progress(console, len(chosen)) as (report, step):
        for one in chosen:
            outcome = try_planted(one, report)
            untouched = try_planted(one, report, is_planted=False) if sound else None
            print_planted(outcome, untouched, console)
            missed += not outcome.is_caught
            step()
    console.print(f"{len(chosen) - missed} of {len(chosen)} caught")
    if missed:
        sys.exit(1)


def _shorten(result: ChaosResult, report: Callable[[str], None], console: Console, minutes: float) -> None:
    """For the first round that found something new."""
    failed = next((played for played in result.rounds if result.news(played)), None)
    if failed is not None and minutes > 0:
        rounds, found = shortest(result, failed, report, minutes=minutes)
        print_shortest(rounds, found, result.options, console)


def _chaos_options(minutes: float, seed: int | None, names: tuple[str, ...], rounds: str, lab: str) -> ChaosOptions:
    try:
        chosen = parse_rounds(rounds) if rounds else ()
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--rounds") from error
    return ChaosOptions(random.randrange(1 << 32) if seed is None else seed, minutes, names, chosen, name=lab)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Tell our own errors in one line instead of a traceback."""
    try:
        yield
    except OperatorError as error:
        click.echo(f"loadtest: {error}", err=True)
        sys.exit(2)
    except TransientError as error:
        click.echo(f"loadtest: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("loadtest: interrupted; the labs are cleared", err=True)
        sys.exit(130)


@contextlib.contextmanager
def _progress(console: Console, total: int | None) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
    """(report, step): what is being done now, and one more step done."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=total)

        def report(line: str) -> None:
            progress.update(task, description=line)

        def step() -> None:
            progress.advance(task)

        yield report, step


def _console() -> Console:
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _WIDTH)


def _write(json_file: Path | None, document: dict[str, Any], console: Console) -> None:
    if json_file is None:
        return
    try:
        write_json(json_file, document)
    except OSError as error:
        raise click.ClickException(f"--json: {json_file}: {error.strerror}") from error
    console.print(f"All numbers: {json_file}")


if __name__ == "__main__":
    main(prog_name="python -m loadtest")
