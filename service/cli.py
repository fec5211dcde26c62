"""The command `egressgw`. Every command imports what it needs when it runs, so that the short ones start fast.

Exit status: 0 done (for the processes also: stopped by a signal), 1 the answer is bad or somebody did not answer,
2 wrong use or configuration, told in one line.
"""

import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from service.model.errors import ObjectError, OperatorError, TransientError

if TYPE_CHECKING:
    from rich.console import Console

    from service.audit.timeline import Tenure
    from service.model.audit_record import AuditRecord

log = logging.getLogger(__name__)

DEFAULT_OUTBOX = "/var/lib/egressgw/outbox"
DEFAULT_URL = "http://127.0.0.1:9642"

F = TypeVar("F", bound=Callable[..., Any])


class _Commands(click.Group):
    """Tells our own errors in one line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            failures = list(_leaves(error))
            if all(isinstance(failure, OperatorError) for failure in failures):
                raise _WrongUse(failures) from None
            if all(isinstance(failure, OperatorError | TransientError) for failure in failures):
                raise _Failure(failures) from None
            raise


class _Failure(click.ClickException):
    def __init__(self, failures: list[BaseException]) -> None:
        super().__init__("; ".join(dict.fromkeys(" ".join(str(failure).split()) for failure in failures)))

    def show(self, file: Any = None) -> None:
        click.echo(f"egressgw: {self.message}", file=file, err=file is None)


class _WrongUse(_Failure):
    exit_code = 2


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in an exception group, as task groups raise them."""
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _leaves(member)
    else:
        yield error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="egressgw", prog_name="egressgw")
def main() -> None:
    """Egress NAT gateway: floating source IPs for selected pods."""


def _process_options(command: F) -> F:
    for option in (
        click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info"),
        click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True),
        click.option("--keyring-file", metavar="FILE", help="File with one 64-digit hexadecimal key per line."),
        click.option("--run-dir", metavar="DIR", help="Promises and sockets; in shared memory."),
        click.option("--state-dir", metavar="DIR", help="Audit outbox and leader terms; durable."),
        click.option("--bind-address", metavar="IP", help="IPv4 address other members reach this process at."),
        click.option("--role", type=click.Choice(["worker", "control-plane"]), help="What the node is."),
        click.option("--source", metavar="SRC", help="`kubernetes` or `manifests:DIR`."),
        click.option("--cluster", metavar="NAME", help="Label all members share."),
        click.option("--node", metavar="NAME", help="Name of this node; else $NODE_NAME, else the host's name."),
        click.option("--config", required=True, metavar="FILE", help="YAML file of settings; flags go before it."),
    ):
        command = option(command)
    return command


@main.command()
@_process_options
def agent(**options: Any) -> None:
    """Run the agent of a node: membership, datapath, announcements."""
    _run_process("agent", **options)


@main.command()
@_process_options
def keeper(**options: Any) -> None:
    """Run the lease keeper of a node: elector and lease holder."""
    _run_process("keeper", **options)


@main.command()
@_process_options
def controller(**options: Any) -> None:
    """Run a controller: one of them leads, assigns floating IPs and writes status."""
    _run_process("controller", **options)


@main.command()
@click.option("--config", required=True, metavar="FILE", help="The settings file of the node's agent.")
def uninstall(config: str) -> None:
    """Take everything an agent put on this node away. Stop its agent and its keeper first."""
    from service.process import run_until_signalled
    from service.settings import load_settings

    settings = load_settings(config)
    module = _import("service.agent", "the agent")
    run_until_signalled(lambda: module.uninstall(settings))
    click.echo(f"{settings.node}: programs, rules, devices and pins are removed")


def _run_process(name: str, *, config: str, log_format: str, log_level: str, **overrides: Any) -> None:
    from service.process import configure_logging, run_until_signalled
    from service.settings import load_settings

    configure_logging(log_format=log_format, level=log_level)
    settings = load_settings(config, overrides)
    module = _import(f"service.{name}", f"the {name}")
    try:
        run_until_signalled(lambda: module.run(settings))
    except Exception as error:
        if not all(isinstance(failure, OperatorError | TransientError) for failure in _leaves(error)):
            # Through the log rather than as a bare traceback: whoever reads JSON lines gets it whole.
            log.critical("%s ends: %s", name, error, exc_info=True)
            sys.exit(1)
        raise


def _import(module: str, what: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise OperatorError(f"this installation lacks {what}: {error}") from error


@main.command()
@click.option("--url", default=DEFAULT_URL, show_default=True, metavar="URL", help="Agent or controller to ask.")
@click.option("--timeout", default=3.0, show_default=True, type=click.FloatRange(0.1, 60), help="Seconds to wait.")
@click.option("--json", "as_json", is_flag=True, help="Print the document as it is at /v1/status.")
def status(url: str, timeout: float, as_json: bool) -> None:
    """Show nodes, floating IPs, policies, errors and drops as one process sees them."""
    from service.web.client import fetch_status

    document = fetch_status(url, timeout_s=timeout)
    if as_json:
        _print_json(document)
        return
    from service.web.tables import print_status

    print_status(document, _console())


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="DIR|FILE...")
def validate(paths: tuple[Path, ...]) -> None:
    """Check manifests as a folder source would read them, and list every error."""
    manifests = _import("service.sources.manifests", "the manifests source")
    objects = 0
    errors: list[ObjectError] = []
    for path in paths:
        good, bad = _load_folder(manifests, path) if path.is_dir() else _load_file(manifests, path)
        objects += good
        errors.extend(bad)
    for error in errors:
        click.echo(str(error))
    click.echo(f"{objects} objects are valid, {len(errors)} errors", err=True)
    sys.exit(1 if errors else 0)


def _load_folder(manifests: Any, folder: Path) -> tuple[int, tuple[ObjectError, ...]]:
    objects, errors = manifests.load_folder(folder)
    return len(objects), errors


def _load_file(manifests: Any, path: Path) -> tuple[int, list[ObjectError]]:
    """A file is read as a folder with nothing else in it, whatever its name ends in."""
    import shutil
    import tempfile
    from dataclasses import replace

    with tempfile.TemporaryDirectory(prefix="egressgw-validate-") as folder:
        copy = Path(folder) / f"{path.stem}.yaml"
        shutil.copyfile(path, copy)
        objects, errors = _load_folder(manifests, Path(folder))
        named = {str(copy): str(path), copy.name: str(path)}
        return objects, [replace(error, origin=named.get(error.origin, error.origin)) for error in errors]


@main.group()
def audit() -> None:
    """Read the audit outboxes of one or more nodes as one history."""


_outbox_option = click.option(
    "--outbox",
    "outboxes",
    multiple=True,
    default=[DEFAULT_OUTBOX],
    show_default=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Outbox folder; give it once for each node.",
)


@audit.command()
@_outbox_option
@click.option("-n", "--lines", default=20, show_default=True, type=click.IntRange(0), help="How many; 0 for all.")
@click.option("--subject", metavar="NAME", help="Only of this floating IP, node or policy.")
@click.option("--json", "as_json", is_flag=True, help="Print CloudEvents, one per line.")
def tail(outboxes: tuple[Path, ...], lines: int, subject: str | None, as_json: bool) -> None:
    """Print the newest records, oldest first."""
    from service.audit.envelope import encode
    from service.audit.timeline import merge

    records = [record for record in merge(_read(outboxes)) if subject in (None, record.subject)]
    records = records[-lines:] if lines else records
    if as_json:
        for record in records:
            click.echo(encode(record))
        return
    from service.web.tables import print_table

    columns = ("TIME", "EVENT", "SUBJECT", "TOKEN", "HOLDER", "PREVIOUS", "SEEN BY", "REASON")
    print_table(columns, map(_record_row, records), _console())


def _record_row(record: "AuditRecord") -> tuple[str, ...]:
    from service.audit.envelope import format_time

    reason = " ".join([record.reason, *(f"{key}={value}" for key, value in record.detail.items())]).strip()
    time = f"{format_time(record.wall_time_ns)[:23]}Z"
    return (
        time,
        record.kind,
        record.subject,
        _dotted(record.token),
        record.holder,
        record.previous,
        record.node,
        reason,
    )


@audit.command()
@click.argument("floating_ip", metavar="IP")
@click.option("--at", "at", metavar="TIME", help="RFC 3339 time, UTC where it has no offset. Default: now.")
@_outbox_option
@click.option("--json", "as_json", is_flag=True)
def who(floating_ip: str, at: str | None, outboxes: tuple[Path, ...], as_json: bool) -> None:
    """Say which node held a floating IP at a time."""
    from ipaddress import IPv4Address

    from service.audit.envelope import format_time, parse_time
    from service.audit.timeline import tenures
    from service.process import wall_ns

    try:
        address = str(IPv4Address(floating_ip))
        wall_time_ns = parse_time(at) if at else wall_ns()
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    known = tenures(_read(outboxes), address)
    found = next((tenure for tenure in reversed(known) if tenure.covers(wall_time_ns)), None)
    when = format_time(wall_time_ns)
    if as_json:
        _print_json({"floatingIP": address, "at": when} | _tenure_document(found))
    elif found is not None:
        click.echo(f"{address} was held by {found.holder} at {when}")
        click.echo(f"  {_tenure_text(found)}")
    else:
        click.echo(f"{address} was held by nobody on record at {when}")
        before = [tenure for tenure in known if tenure.since_ns <= wall_time_ns]
        if before:
            click.echo(f"  last before: {before[-1].holder}, {_tenure_text(before[-1])}")


def _tenure_text(tenure: "Tenure") -> str:
    from service.audit.envelope import format_time

    text = f"token {_dotted(tenure.token)}, {tenure.begin.kind} {format_time(tenure.since_ns)}"
    if tenure.end is None or tenure.until_ns is None:
        return f"{text}, no end on record"
    reason = f" ({tenure.end.reason})" if tenure.end.reason else ""
    after = "" if tenure.end.token == tenure.token else f" by {tenure.end.holder or tenure.end.node}"
    return f"{text}, {tenure.end.kind}{after} {format_time(tenure.until_ns)}{reason}"


def _tenure_document(tenure: "Tenure | None") -> dict[str, Any]:
    from service.audit.envelope import format_time

    if tenure is None:
        return {"holder": None}
    until = format_time(tenure.until_ns) if tenure.until_ns is not None else None
    return {
        "holder": tenure.holder,
        "token": _dotted(tenure.token),
        "since": format_time(tenure.since_ns),
        "until": until,
    }


def _read(outboxes: tuple[Path, ...]) -> list["AuditRecord"]:
    """All readable records; what is missing from them is told on standard error."""
    from service.audit.journal import CorruptRecord, read_outbox
    from service.model.audit_record import RecordKind

    records: list[AuditRecord] = []
    for folder in outboxes:
        for item in read_outbox(folder):
            if isinstance(item, CorruptRecord):
                place = f"{item.path}: {item.length} bytes at {item.offset}"
                click.echo(f"egressgw: warning: {place} are not readable: {item.reason}", err=True)
                continue
            records.append(item)
            if item.kind is RecordKind.GAP:
                count = item.detail.get("records", "some")
                click.echo(f"egressgw: warning: {item.node}: {count} records are missing: {item.reason}", err=True)
    return records


@main.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
    short_help="Build a small site in network namespaces.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def lab(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Build a small site in network namespaces of this machine, with real agents and eBPF."""
    # A stand-in: the group itself is imported only when it is asked for.
    group = _import("service.lab.command", "the lab").lab
    ctx.exit(group.main(args=list(arguments), prog_name="egressgw lab", standalone_mode=False) or 0)


def _dotted(token: tuple[int, int, int] | None) -> str:
    return ".".join(str(part) for part in token) if token is not None else ""


def _print_json(document: dict[str, Any]) -> None:
    import json

    click.echo(json.dumps(document, indent=2))


def _console() -> "Console":
    from rich.console import Console

    # A pipe has no width; a table folded for 80 columns is of no use to grep.
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 240)
