"""`egressgw audit who IP:PORT`: which node had a port of a floating IP. Imports happen when they run."""

from typing import TYPE_CHECKING, Any

import click

from service.command.console import console, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.audit.coverage import Coverage
    from service.audit.port_tenure import PortTenure


def print_owner(
    known: "Sequence[PortTenure]", address: str, wall_time_ns: int, covered: "Coverage", *, as_json: bool
) -> None:
    """Say whose a port was at a time, how sure that is, and how far the records reach. `address` is of IP and port."""
    from service.audit.cloud_event import format_time

    found = next((one for one in known if one.covers(wall_time_ns)), None)
    when = format_time(wall_time_ns)
    is_proved = found is not None and found.proves(wall_time_ns) and not covered.lost
    if as_json:
        said = {"port": address, "at": when, "onRecord": found is not None, "proved": is_proved}
        print_json(said | (_document(found) if found is not None else {"node": None}))
        return
    if found is None:
        click.echo(f"no record says whose {address} was at {when}")
        begin = f"begin {format_time(known[0].begin.time_ns)}" if known else "are none"
        click.echo(f"  records of this port {begin}")
    elif is_proved:
        click.echo(f"{address} was {_whose(found)} at {when}")
        click.echo(f"  {_text(found)}")
    else:
        click.echo(f"{address} was last on record as {_whose(found)}; at {when} is not proved:")
        click.echo(f"  {_doubt(found, covered)}")
        click.echo(f"  {_text(found)}")
    _print_former(known, found)
    _print_writers(covered)


def print_owners(
    known: "Sequence[PortTenure]", address: str, span: tuple[int, int], covered: "Coverage", *, as_json: bool
) -> None:
    """Print whose a port was, one after the other, from the first wall time of `span` to the second."""
    from service.web.layout import print_table

    found = [one for one in known if one.overlaps(*span)]
    if as_json:
        print_json({"port": address, "tenures": [_document(one) for one in found]})
        return
    rows = [(_since(one), _until(one), one.node, _ports(one), _stamp(one), _begun(one), _ended(one)) for one in found]
    print_table(("FROM", "TO", "NODE", "PORTS", "STAMP", "WHY", "END"), rows, console())
    _print_writers(covered)


def _whose(tenure: "PortTenure") -> str:
    return f"{tenure.node}'s" if tenure.node else "nobody's"


def _doubt(tenure: "PortTenure", covered: "Coverage") -> str:
    if covered.lost:
        return f"{covered.lost} records are lost, and may have said otherwise"
    if tenure.since_ns is None:
        return "since when is on no record"
    if tenure.end is not None:
        return "a leader's last records are missing: the next one found it changed"
    return "no later record of a leader was read"


def _print_former(known: "Sequence[PortTenure]", found: "PortTenure | None") -> None:
    """Of a port that was nobody's: who had it last. Its connections may have gone on at the remote for a while."""
    place = next((index for index, one in enumerate(known) if one is found), 0)
    if found is not None and not found.node and place:
        click.echo(f"  last before: {known[place - 1].node}, {_text(known[place - 1])}")


def _text(tenure: "PortTenure") -> str:
    what = f"ports {_ports(tenure)}, stamp {_stamp(tenure)}, " if tenure.node else ""
    why = f" ({_begun(tenure)})" if _begun(tenure) else ""
    end = f" ({_ended(tenure)})" if _ended(tenure) else ""
    return f"{what}from {_since(tenure) or 'before the records'}{why} to {_until(tenure) or 'no end on record'}{end}"


def _ports(tenure: "PortTenure") -> str:
    run = tenure.begin.run
    return f"{run.first}-{run.last}" if run is not None and tenure.node else ""


def _stamp(tenure: "PortTenure") -> str:
    run = tenure.begin.run
    if run is None or not tenure.node or tenure.begin.node != tenure.node:
        return ""
    return f"{run.stamp.term}.{run.stamp.version}"


def _since(tenure: "PortTenure") -> str:
    from service.audit.cloud_event import format_time

    if tenure.since_ns is None:
        return ""
    return format_time(tenure.since_ns) + ("" if tenure.is_since_known else " or before")


def _until(tenure: "PortTenure") -> str:
    from service.audit.cloud_event import format_time

    if tenure.until_ns is None:
        return ""
    return format_time(tenure.until_ns) + ("" if tenure.is_until_known else " or before")


def _begun(tenure: "PortTenure") -> str:
    if tenure.begin.node != tenure.node:
        return ""
    return tenure.begin.record.reason or "as a leader read it"


def _ended(tenure: "PortTenure") -> str:
    if tenure.end is None:
        return ""
    return tenure.end.record.reason or "as a leader read it"


def _document(tenure: "PortTenure") -> dict[str, Any]:
    from service.audit.cloud_event import format_time

    return {
        "node": tenure.node or None,
        "ports": _ports(tenure) or None,
        "stamp": _stamp(tenure) or None,
        "since": format_time(tenure.since_ns) if tenure.since_ns is not None else None,
        "sinceIsExact": tenure.is_since_known,
        "until": format_time(tenure.until_ns) if tenure.until_ns is not None else None,
        "untilIsExact": tenure.until_ns is not None and tenure.is_until_known,
        "why": _begun(tenure),
        "end": _ended(tenure) or None,
    }


def _print_writers(covered: "Coverage") -> None:
    """Whose records the answer rests on: only controllers say whose ports are."""
    from service.audit.cloud_event import format_time

    read = [one for one in covered.writers if one.actor.startswith("controller/")]
    for one in read:
        span = f"{format_time(one.oldest_ns)[:19]}Z to {format_time(one.newest_ns)[:19]}Z"
        click.echo(f"  read: {one.actor}, {one.records} records, {span}")
    if not read:
        click.echo("  read: no record of a controller; only controllers record ports")
