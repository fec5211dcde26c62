"""The commands `egressgw audit ...`: one history out of outboxes and the topic. Imports happen when they run.

Exit status: 0 the answer is good, 1 `verify` found something or a broker did not answer, 2 wrong use.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from service.command.console import console, print_json

if TYPE_CHECKING:
    from service.audit.consumer import AuditSource, Entry, Item, Unreadable
    from service.audit.timeline import Tenure
    from service.audit.verification import Verdict
    from service.model.audit_record import AuditRecord

DEFAULT_STATE = "/var/lib/egressgw"
_OUTBOXES = ("outbox", "keeper-outbox")
_COLUMNS = ("TIME", "EVENT", "SUBJECT", "TOKEN", "HOLDER", "PREVIOUS", "SEEN BY", "REASON")

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def audit() -> None:
    """Read audit records as one history: from the outboxes of nodes, from Kafka, or from both."""


@dataclass(frozen=True, slots=True)
class _Logs:
    """Where to read, as the options say."""

    outboxes: tuple[Path, ...]
    kafka: str | None
    topic: str | None
    config: str | None

    def sources(self) -> "list[AuditSource]":
        """Outboxes first: what they hold is then in the topic, or not there yet."""
        from service.audit.consumer import KafkaSource, OutboxSource
        from service.settings import KafkaSettings, load_settings

        kafka, outboxes = KafkaSettings(), self.outboxes
        if self.config:
            settings = load_settings(self.config)
            kafka = settings.kafka
            if not outboxes and not self.kafka and not kafka.bootstrap_servers:
                outboxes = _outboxes_of(Path(settings.state_dir))
        if self.kafka:
            kafka = _changed(kafka, bootstrap_servers=tuple(filter(None, self.kafka.split(","))))
        if self.topic:
            kafka = _changed(kafka, topic=self.topic)
        if not outboxes and not kafka.bootstrap_servers:
            outboxes = _outboxes_of(Path(DEFAULT_STATE))
        sources: list[AuditSource] = [OutboxSource(folder) for folder in outboxes]
        if kafka.bootstrap_servers:
            sources.append(KafkaSource(kafka))
        return sources


def _outboxes_of(state: Path) -> tuple[Path, ...]:
    """Those of a node's processes; where there is none, the agent's, so that it is told which one is missing."""
    return tuple(state / name for name in _OUTBOXES if (state / name).is_dir()) or (state / _OUTBOXES[0],)


def _changed(settings: Any, **changes: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(settings, **changes)


def _log_options(command: F) -> F:
    def with_logs(
        *, outboxes: tuple[Path, ...], kafka: str | None, topic: str | None, config: str | None, **more: Any
    ) -> Any:
        return command(_Logs(outboxes, kafka, topic, config), **more)

    with_logs.__doc__, with_logs.__name__ = command.__doc__, command.__name__
    wrapped: Any = with_logs
    wrapped.__click_params__ = getattr(command, "__click_params__", [])
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("--config", metavar="FILE", help="Settings file, for how to reach Kafka (TLS, SASL)."),
        click.option("--topic", metavar="NAME", help="Default: egress-gateway.assignments."),
        click.option("--kafka", metavar="HOST:PORT,...", help="Read the topic from these brokers."),
        click.option(
            "--outbox",
            "outboxes",
            multiple=True,
            type=click.Path(path_type=Path),
            metavar="DIR",
            help=f"Outbox folder; give it once for each. Default: those in {DEFAULT_STATE} where no Kafka is given.",
        ),
    ):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


@audit.command()
@click.option("-n", "--lines", default=20, show_default=True, type=click.IntRange(0), help="How many; 0 for all.")
@click.option("--subject", metavar="NAME", help="Only of this floating IP, node or policy.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, as it comes.")
@_log_options
def tail(logs: _Logs, lines: int, subject: str | None, follow: bool, as_json: bool) -> None:
    """Print the newest records, oldest first."""
    if follow:
        _follow(logs, lines, subject, as_json=as_json)
        return
    entries = _ordered([entry for entry in _read(logs) if subject in (None, entry.record.subject)])
    entries = entries[-lines:] if lines else entries
    if as_json:
        for entry in entries:
            click.echo(entry.payload)
        return
    from service.web.tables import print_table

    print_table(_COLUMNS, (_record_row(entry.record) for entry in entries), console())


def _ordered(entries: "list[Entry]") -> "list[Entry]":
    """Without copies, by token and time. As they came: a later version's record is not encoded anew."""
    from service.audit.timeline import merge

    by_record = {id(entry.record): entry for entry in entries}
    return [by_record[id(record)] for record in merge(entry.record for entry in entries)]


def _follow(logs: _Logs, lines: int, subject: str | None, *, as_json: bool) -> None:
    import asyncio
    from contextlib import suppress

    from service.audit.consumer import follow_all

    tail = _LiveTail(lines, subject, as_json=as_json)
    if not as_json:
        click.echo("  ".join(_padded(_COLUMNS)))
    with suppress(KeyboardInterrupt):
        asyncio.run(follow_all(logs.sources(), tail.take))


class _LiveTail:
    """Holds records back until all logs have caught up, shows the newest of them in order, then each as it comes."""

    def __init__(self, lines: int, subject: str | None, *, as_json: bool) -> None:
        from service.audit.consumer import Deduplicator

        self._lines = lines
        self._subject = subject
        self._as_json = as_json
        self._waiting: list[Entry] | None = []
        self._deduplicator = Deduplicator()

    def take(self, item: "Item") -> None:
        from service.audit.consumer import CaughtUp, Unreadable

        if isinstance(item, Unreadable):
            _warn(item)
        elif isinstance(item, CaughtUp):
            newest = _ordered(self._waiting or [])
            self._waiting = None
            for entry in newest[-self._lines :] if self._lines else newest:
                self._show(entry)
        elif self._subject in (None, item.record.subject):
            is_new = self._deduplicator.is_new(item.record)
            if self._waiting is not None:
                self._waiting.append(item)
            elif is_new:
                self._show(item)

    def _show(self, entry: "Entry") -> None:
        click.echo(entry.payload if self._as_json else "  ".join(_padded(_record_row(entry.record))))


def _padded(row: tuple[str, ...]) -> tuple[str, ...]:
    from service.web.tables import plain

    widths = (24, 16, 15, 12, 12, 12, 12, 0)
    return tuple(plain(value).ljust(width) for value, width in zip(row, widths, strict=True))


def _record_row(record: "AuditRecord") -> tuple[str, ...]:
    from service.audit.cloud_event import format_time

    # Instants of a boot's clock are for programs.
    facts = [f"{key}={value}" for key, value in record.detail.items() if not key.endswith("BootTimeNs")]
    reason = " ".join([record.reason, *facts]).strip()
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
@click.option(
    "--at", "at", metavar="TIME", help="12h (ago), 03:12 (UTC, the last one), or an RFC 3339 time. Default: now."
)
@click.option("--since", "--from", "since", metavar="TIME", help="Print every tenure from this time on.")
@click.option("--to", "until", metavar="TIME", help="And until this time. Default: now.")
@_log_options
def who(logs: _Logs, floating_ip: str, at: str | None, since: str | None, until: str | None, as_json: bool) -> None:
    """Say which node held a floating IP at a time, or in a span of time one after the other."""
    from ipaddress import IPv4Address

    from service.audit.timeline import tenures
    from service.command.moment import parse_moment
    from service.host.clock import wall_ns

    now_ns = wall_ns()
    is_span = since is not None or until is not None
    if at and is_span:
        raise click.UsageError("give --at, or --since and --to")
    try:
        address = str(IPv4Address(floating_ip))
        wall_time_ns = parse_moment(at or until or "", now_ns=now_ns) if at or until else now_ns
        since_ns = parse_moment(since, now_ns=now_ns) if since else 0
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    known = tenures([entry.record for entry in _read(logs)], address)
    if is_span:
        _print_span([tenure for tenure in known if tenure.overlaps(since_ns, wall_time_ns)], address, as_json=as_json)
    else:
        _print_holder(known, address, wall_time_ns, as_json=as_json)


def _print_span(found: "list[Tenure]", address: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"floatingIP": address, "tenures": [_tenure_document(tenure) for tenure in found]})
        return
    from service.audit.cloud_event import format_time
    from service.web.tables import print_table

    rows = [
        (
            format_time(tenure.since_ns),
            format_time(tenure.until_ns) if tenure.until_ns is not None else "",
            tenure.holder,
            _dotted(tenure.token),
            tenure.begin.reason,
            _end_text(tenure),
        )
        for tenure in found
    ]
    print_table(("FROM", "TO", "HOLDER", "TOKEN", "WHY", "END"), rows, console())


def _print_holder(known: "list[Tenure]", address: str, wall_time_ns: int, *, as_json: bool) -> None:
    from service.audit.cloud_event import format_time
    from service.audit.timeline import holder_at

    found = holder_at(known, wall_time_ns)
    when = format_time(wall_time_ns)
    if as_json:
        print_json({"floatingIP": address, "at": when} | _tenure_document(found))
    elif found is not None:
        click.echo(f"{address} was held by {found.holder} at {when}")
        click.echo(f"  {_tenure_text(found)}")
    else:
        click.echo(f"{address} was held by nobody on record at {when}")
        before = [tenure for tenure in known if tenure.since_ns <= wall_time_ns]
        if before:
            click.echo(f"  last before: {before[-1].holder}, {_tenure_text(before[-1])}")


def _tenure_text(tenure: "Tenure") -> str:
    from service.audit.cloud_event import format_time

    why = f" ({tenure.begin.reason})" if tenure.begin.reason else ""
    begin = f"token {_dotted(tenure.token)}, {tenure.begin.kind} {format_time(tenure.since_ns)}{why}"
    return f"{begin}, {_end_text(tenure)}"


def _end_text(tenure: "Tenure") -> str:
    from service.audit.cloud_event import format_time

    if tenure.end is None or tenure.until_ns is None:
        return "no end on record"
    reason = f" ({tenure.end.reason})" if tenure.end.reason else ""
    after = "" if tenure.end.token == tenure.token else f" by {tenure.end.holder or tenure.end.node}"
    return f"{tenure.end.kind}{after} {format_time(tenure.until_ns)}{reason}"


def _tenure_document(tenure: "Tenure | None") -> dict[str, Any]:
    from service.audit.cloud_event import format_time

    if tenure is None:
        return {"holder": None}
    until = format_time(tenure.until_ns) if tenure.until_ns is not None else None
    return {
        "holder": tenure.holder,
        "token": _dotted(tenure.token),
        "since": format_time(tenure.since_ns),
        "until": until,
        "why": tenure.begin.reason,
        "end": {"kind": str(tenure.end.kind), "reason": tenure.end.reason} if tenure.end else None,
    }


@audit.command()
@click.option(
    "--clock-error",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0, 3600),
    metavar="SECONDS",
    help="How far wall clocks of two nodes may be apart.",
)
@_log_options
def verify(logs: _Logs, clock_error: float, as_json: bool) -> None:
    """Check from the records alone that nothing was lost, doubled or altered, and no address had two holders at once.

    Given outboxes and Kafka together, it also checks that what the outboxes hold is in the topic.
    """
    import asyncio

    from service.audit.consumer import read_each
    from service.audit.verification import Verification

    sources = logs.sources()
    verification = Verification(clock_error_ns=int(clock_error * 1e9))
    asyncio.run(read_each(sources, verification.take))
    verdict = verification.verdict([extent for source in sources for extent in source.extents])
    if as_json:
        print_json(_verdict_document(verdict))
    else:
        _print_verdict(verdict)
    sys.exit(0 if verdict.is_good else 1)


def _print_verdict(verdict: "Verdict") -> None:
    from service.audit.cloud_event import format_time
    from service.web.tables import print_table

    if verdict.findings:
        rows = [(str(one.fault), one.subject, one.message) for one in verdict.findings]
        print_table(("FINDING", "OF", "WHAT"), rows, console())
    for note in verdict.notes:
        click.echo(f"note: {note}")
    if verdict.first_ns is not None and verdict.last_ns is not None:
        click.echo(
            f"{verdict.events} events in {verdict.records} records of {verdict.chains} chains, "
            f"{verdict.copies} copies, {verdict.tenures} tenures, "
            f"{format_time(verdict.first_ns)} to {format_time(verdict.last_ns)}"
        )
    click.echo(verdict.summary())


def _verdict_document(verdict: "Verdict") -> dict[str, Any]:
    from service.audit.cloud_event import format_time

    return {
        "good": verdict.is_good,
        "summary": verdict.summary(),
        "events": verdict.events,
        "records": verdict.records,
        "copies": verdict.copies,
        "chains": verdict.chains,
        "tenures": verdict.tenures,
        "first": format_time(verdict.first_ns) if verdict.first_ns is not None else None,
        "last": format_time(verdict.last_ns) if verdict.last_ns is not None else None,
        "findings": [
            {"fault": str(one.fault), "of": one.subject, "message": one.message, "records": one.records}
            for one in verdict.findings
        ],
        "notes": list(verdict.notes),
    }


def _read(logs: _Logs) -> "list[Entry]":
    """All readable records; what is missing from them is told on standard error."""
    import asyncio

    from service.audit.consumer import Unreadable, read_all
    from service.model.audit_record import RecordKind

    entries = []
    for item in asyncio.run(read_all(logs.sources())):
        if isinstance(item, Unreadable):
            _warn(item)
            continue
        entries.append(item)
        record = item.record
        if record.kind is RecordKind.GAP:
            count = record.detail.get("records", "some")
            click.echo(f"egressgw: warning: {record.node}: {count} records are missing: {record.reason}", err=True)
    return entries


def _warn(item: "Unreadable") -> None:
    click.echo(f"egressgw: warning: bytes at {item.place} are not readable: {item.reason}", err=True)


def _dotted(token: tuple[int, int, int] | None) -> str:
    return ".".join(str(part) for part in token) if token is not None else ""
