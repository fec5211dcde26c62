"""The commands `egressgw audit ...`: one history out of outboxes and the topic. Imports happen when they run.

Exit status: 0 the answer is good, 1 `verify` found something or a broker did not answer, 2 wrong use.
"""

import sys
from typing import TYPE_CHECKING, Any

import click

from service.command.console import console, print_json
from service.command.history import moves, who
from service.command.logs import Logs, dotted, log_options, read, warn

if TYPE_CHECKING:
    from service.audit.consumer import Entry, Item
    from service.audit.verification import Verdict
    from service.model.audit_record import AuditRecord

_COLUMNS = ("TIME", "EVENT", "SUBJECT", "TOKEN", "HOLDER", "PREVIOUS", "SEEN BY", "REASON")
_WIDTHS = (24, 16, 15, 12, 12, 12, 12, 0)
"""Of a table whose rows come one by one."""
_FACT_CHARS_MAX = 120


@click.group()
def audit() -> None:
    """Read audit records as one history: from the outboxes of nodes, from Kafka, or from both."""


@audit.command()
@click.option("-n", "--lines", default=20, show_default=True, type=click.IntRange(0), help="How many; 0 for all.")
@click.option("--subject", metavar="NAME", help="Only of this floating IP, node or policy.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, as it comes.")
@log_options
def tail(logs: Logs, lines: int, subject: str | None, follow: bool, as_json: bool) -> None:
    """Print the newest records, oldest first."""
    if follow:
        _follow(logs, lines, subject, as_json=as_json)
        return
    entries = _ordered([entry for entry in read(logs) if subject in (None, entry.record.subject)])
    entries = entries[-lines:] if lines else entries
    if as_json:
        for entry in entries:
            click.echo(entry.payload)
        return
    from service.web.layout import print_table

    print_table(_COLUMNS, (_record_row(entry.record) for entry in entries), console())


def _ordered(entries: "list[Entry]") -> "list[Entry]":
    """Without copies, by token and time. As they came: a later version's record is not encoded anew."""
    from service.audit.timeline import merge

    by_record = {id(entry.record): entry for entry in entries}
    return [by_record[id(record)] for record in merge(entry.record for entry in entries)]


def _follow(logs: Logs, lines: int, subject: str | None, *, as_json: bool) -> None:
    import asyncio
    from contextlib import suppress

    from service.audit.consumer import follow_all

    tail = _LiveTail(lines, subject, as_json=as_json)
    if not as_json:
        _print_live(_COLUMNS)
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
            warn(item)
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
        if self._as_json:
            click.echo(entry.payload)
        else:
            _print_live(_record_row(entry.record))


def _print_live(row: tuple[str, ...]) -> None:
    from service.web.layout import print_row

    print_row(_COLUMNS, row, _WIDTHS, console())


def _record_row(record: "AuditRecord") -> tuple[str, ...]:
    from service.audit.cloud_event import format_time

    # Instants of a boot's clock are for programs, and a table of ports may have a thousand rows.
    facts = [f"{key}={_cut(value)}" for key, value in record.detail.items() if not key.endswith("BootTimeNs")]
    reason = " ".join([record.reason, *facts]).strip()
    time = f"{format_time(record.wall_time_ns)[:23]}Z"
    return (
        time,
        record.kind,
        record.subject,
        dotted(record.token),
        record.holder,
        record.previous,
        record.node,
        reason,
    )


def _cut(text: str) -> str:
    return text if len(text) <= _FACT_CHARS_MAX else f"{text[:_FACT_CHARS_MAX]}..."


@audit.command()
@click.option(
    "--clock-error",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0, 3600),
    metavar="SECONDS",
    help="How far wall clocks of two nodes may be apart.",
)
@log_options
def verify(logs: Logs, clock_error: float, as_json: bool) -> None:
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
    from service.web.layout import print_table

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


audit.add_command(who)
audit.add_command(moves)
