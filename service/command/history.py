"""`egressgw audit who` and `moves`: who held an address, what moved and why. Imports happen when they run."""

from typing import TYPE_CHECKING, Any

import click

from service.command.console import console, print_json
from service.command.logs import Logs, dotted, log_options, read
from service.command.port_history import print_owner, print_owners

if TYPE_CHECKING:
    from service.audit.coverage import Coverage
    from service.audit.move import Move
    from service.audit.timeline import Tenure

_SOURCES_SHOWN = 8


@click.command()
@click.argument("address", metavar="IP[:PORT]")
@click.option(
    "--at", "at", metavar="TIME", help="12h (ago), 03:12 (UTC, the last one), or an RFC 3339 time. Default: now."
)
@click.option("--since", "--from", "since", metavar="TIME", help="Print every tenure from this time on.")
@click.option("--to", "until", metavar="TIME", help="And until this time. Default: now.")
@log_options
def who(logs: Logs, address: str, at: str | None, since: str | None, until: str | None, as_json: bool) -> None:
    """Say which node held a floating IP at a time, or in a span of time one after the other.

    With a port, or an ICMP id, say which node it was given to: from there its connections came.
    """
    from service.audit.coverage import coverage
    from service.audit.port_tenure import port_tenures
    from service.audit.timeline import tenures
    from service.command.moment import parse_moment
    from service.host.clock import wall_ns

    now_ns = wall_ns()
    is_span = since is not None or until is not None
    if at and is_span:
        raise click.UsageError("give --at, or --since and --to")
    try:
        floating_ip, port = _endpoint(address)
        wall_time_ns = parse_moment(at or until or "", now_ns=now_ns) if at or until else now_ns
        since_ns = parse_moment(since, now_ns=now_ns) if since else 0
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    records = [entry.record for entry in read(logs)]
    covered = coverage(records)
    if port is not None:
        ports, name = port_tenures(records, floating_ip, port), f"{floating_ip}:{port}"
        if is_span:
            print_owners(ports, name, (since_ns, wall_time_ns), covered, as_json=as_json)
        else:
            print_owner(ports, name, wall_time_ns, covered, as_json=as_json)
        return
    known = tenures(records, floating_ip)
    if is_span:
        _print_span(
            [one for one in known if one.overlaps(since_ns, wall_time_ns)], floating_ip, covered, as_json=as_json
        )
    else:
        _print_holder(known, floating_ip, wall_time_ns, covered, as_json=as_json)


def _endpoint(text: str) -> tuple[str, int | None]:
    """An address, and its port where there is one. Raises ValueError."""
    from ipaddress import IPv4Address

    from service.audit.port_run import PORTS_MAX, PORTS_MIN

    host, colon, port = text.partition(":")
    address = str(IPv4Address(host))
    if not colon:
        return address, None
    if not (port.isascii() and port.isdecimal()) or int(port) > PORTS_MAX:
        raise ValueError(f"{port!r} is no port")
    if int(port) < PORTS_MIN:
        raise ValueError(f"ports below {PORTS_MIN} are given to no node: no connection of a pod has one")
    return address, int(port)


def _print_span(found: "list[Tenure]", address: str, covered: "Coverage", *, as_json: bool) -> None:
    if as_json:
        tenures = [_tenure_document(tenure) for tenure in found]
        print_json({"floatingIP": address, "tenures": tenures, **_coverage_document(covered)})
        return
    from service.audit.cloud_event import format_time
    from service.web.layout import print_table

    rows = [
        (
            format_time(tenure.since_ns),
            format_time(tenure.until_ns) if tenure.until_ns is not None else "",
            tenure.holder,
            dotted(tenure.token),
            tenure.begin.reason,
            _end_text(tenure),
        )
        for tenure in found
    ]
    print_table(("FROM", "TO", "HOLDER", "TOKEN", "WHY", "END"), rows, console())
    _print_coverage(covered)


def _print_holder(
    known: "list[Tenure]", address: str, wall_time_ns: int, covered: "Coverage", *, as_json: bool
) -> None:
    from service.audit.cloud_event import format_time
    from service.audit.timeline import holder_at

    found = holder_at(known, wall_time_ns)
    when = format_time(wall_time_ns)
    is_proved = found is not None and covered.proves(found, wall_time_ns)
    if as_json:
        said = {"floatingIP": address, "at": when} | _tenure_document(found) | {"proved": is_proved}
        print_json(said | _coverage_document(covered))
        return
    if found is not None and is_proved:
        click.echo(f"{address} was held by {found.holder} at {when}")
        click.echo(f"  {_tenure_text(found)}")
    elif found is not None:
        click.echo(f"{address} was last on record as held by {found.holder}; at {when} is not proved:")
        click.echo(f"  {_reach_text(found, covered)}")
        click.echo(f"  {_tenure_text(found)}")
    else:
        click.echo(f"{address} was held by nobody on record at {when}")
        before = [tenure for tenure in known if tenure.since_ns <= wall_time_ns]
        if before:
            click.echo(f"  last before: {before[-1].holder}, {_tenure_text(before[-1])}")
    _print_coverage(covered)


def _reach_text(tenure: "Tenure", covered: "Coverage") -> str:
    """Why the records do not show that this tenure went on."""
    from service.audit.cloud_event import format_time

    reached_ns = covered.reaches_ns(tenure.holder)
    if reached_ns is None:
        return f"no record of {tenure.holder} itself was read"
    if tenure.until_ns is not None:
        return "its own end is not on record, only that of the next holder's beginning"
    return f"records of {tenure.holder} reach to {format_time(reached_ns)[:19]}Z, without an end of it"


def _print_coverage(covered: "Coverage") -> None:
    """Whose records the answer rests on, and whose it does not."""
    from service.audit.cloud_event import format_time

    shown = covered.writers[:_SOURCES_SHOWN]
    for writer in shown:
        click.echo(
            f"  read: {writer.actor}, {writer.records} records, {format_time(writer.oldest_ns)[:19]}Z to "
            f"{format_time(writer.newest_ns)[:19]}Z"
        )
    if len(covered.writers) > len(shown):
        click.echo(f"  read: {len(covered.writers) - len(shown)} more processes")
    if not shown:
        click.echo("  read: no record at all")
    if covered.unread:
        more = len(covered.unread) - _SOURCES_SHOWN
        named = ", ".join(covered.unread[:_SOURCES_SHOWN]) + (f" and {more} more" if more > 0 else "")
        click.echo(f"  not read, and may know more: {named}")


def _coverage_document(covered: "Coverage") -> dict[str, Any]:
    from service.audit.cloud_event import format_time

    return {
        "read": [
            {
                "actor": writer.actor,
                "records": writer.records,
                "from": format_time(writer.oldest_ns),
                "to": format_time(writer.newest_ns),
            }
            for writer in covered.writers
        ],
        "notRead": list(covered.unread),
        "lostRecords": covered.lost,
    }


def _tenure_text(tenure: "Tenure") -> str:
    from service.audit.cloud_event import format_time

    why = f" ({tenure.begin.reason})" if tenure.begin.reason else ""
    begin = f"token {dotted(tenure.token)}, {tenure.begin.kind} {format_time(tenure.since_ns)}{why}"
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
        "token": dotted(tenure.token),
        "since": format_time(tenure.since_ns),
        "until": until,
        "why": tenure.begin.reason,
        "end": {"kind": str(tenure.end.kind), "reason": tenure.end.reason} if tenure.end else None,
    }


@click.command()
@click.option("--since", default="12h", show_default=True, metavar="TIME", help="As for `audit who`.")
@click.option("--to", "until", metavar="TIME", help="And until this time. Default: now.")
@log_options
def moves(logs: Logs, since: str, until: str | None, as_json: bool) -> None:
    """Say what moved in a span of time, and why: each change of a holder, and what found no node."""
    from service.audit.coverage import coverage
    from service.audit.move import moves as find_moves
    from service.command.moment import parse_moment
    from service.host.clock import wall_ns

    now_ns = wall_ns()
    try:
        since_ns = parse_moment(since, now_ns=now_ns)
        until_ns = parse_moment(until, now_ns=now_ns) if until else now_ns
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    records = [entry.record for entry in read(logs)]
    _print_moves(find_moves(records, since_ns=since_ns, until_ns=until_ns), coverage(records), as_json=as_json)


def _print_moves(found: "list[Move]", covered: "Coverage", *, as_json: bool) -> None:
    from service.audit.cloud_event import format_time

    if as_json:
        print_json({"moves": [_move_document(move) for move in found], **_coverage_document(covered)})
        return
    from service.web.layout import print_table

    rows = [
        (f"{format_time(move.wall_time_ns)[:19]}Z", move.floating_ip, move.before, move.after, move.reason)
        for move in found
    ]
    if rows:
        print_table(("TIME", "FLOATING IP", "FROM", "TO", "WHY"), rows, console())
    else:
        click.echo("nothing moved, as far as the records tell")
    _print_coverage(covered)


def _move_document(move: "Move") -> dict[str, Any]:
    from service.audit.cloud_event import format_time

    return {
        "time": format_time(move.wall_time_ns),
        "floatingIP": move.floating_ip,
        "from": move.before or None,
        "to": move.after or None,
        "token": dotted(move.token),
        "why": move.reason,
    }
