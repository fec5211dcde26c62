"""The status document as tables for a terminal."""

from collections.abc import Callable
from functools import partial
from typing import Any

from rich.console import Console
from rich.text import Text

from service.web.explanation import Explanation, absence
from service.web.layout import plain, print_table
from service.web.verdict import troubles

_GOOD = "green"
_BAD = "red"
_SHOWN_NODES = 5
"""With most blocks of one floating IP; JSON has all."""


def print_status(document: dict[str, Any], console: Console) -> None:
    """Print a verdict, what is wrong, and every section that has rows. What is missing is shown as missing."""
    _print_verdict(troubles(document), console)
    title = Text.assemble(
        ("node ", "dim"), plain(document.get("node")), ("  role ", "dim"), plain(document.get("role"))
    )
    leader = document.get("leader")
    title.append("  leader ", "dim")
    title.append(plain(leader) if leader else "none", "" if leader else _BAD)
    title.append("  term ", "dim")
    title.append(plain(document.get("term")))
    if hooks := {str(kind) for _, kind in _members(document.get("hooks"))}:
        title.append("  hooks ", "dim")
        title.append(plain(", ".join(sorted(hooks))))
    console.print(title)
    for section, columns, row in (
        ("nodes", ("NODE", "STATE", "ROLE", "MORE"), _node_row),
        ("floatingIPs", ("FLOATING IP", "HOLDER", "SUCCESSOR", "TOKEN", "REASON"), partial(_floating_ip_row, document)),
        ("policies", ("POLICY", "ACCEPTED", "EGRESS IP", "PODS", "REASON"), _policy_row),
    ):
        _print_section(document.get(section), columns, row, console)
    _print_ports(document, console)
    drops = {reason: count for reason, count in _members(document.get("drops")) if count}
    _print_section(drops, ("DROPPED FOR", "PACKETS"), lambda reason, count: (reason, count), console)


def _print_verdict(found: list[str], console: Console) -> None:
    if not found:
        console.print(Text("healthy", _GOOD))
    for trouble in found:
        console.print(Text.assemble(("trouble ", _BAD), plain(trouble)))


def print_explanation(found: Explanation, console: Console) -> None:
    """Print the sentence, then the facts under it."""
    console.print(Text(plain(found.verdict), _GOOD if found.is_held else _BAD))
    if found.facts:
        print_table(("OF", "WHAT IS SO"), found.facts, console)


def _print_section(
    section: Any, columns: tuple[str, ...], row: Callable[[str, Any], tuple[Any, ...]], console: Console
) -> None:
    rows = [row(name, value) for name, value in _members(section)]
    if rows:
        console.print()
        print_table(columns, rows, console)


def _print_ports(document: dict[str, Any], console: Console) -> None:
    """What an agent has and uses of the ports of each floating IP, and which pod has most flows; or, of a leader, who
    has how many."""
    rows = dict(_members(document.get("portBlocks")))
    own = {address: row for address, row in rows.items() if "usableBlocks" in dict(_members(row))}
    given = {address: row for address, row in rows.items() if "blocks" in dict(_members(row))}
    columns = "PORTS OF", "BLOCKS IN USE", "PORTS IN USE", "BUSIEST REMOTE", "REFUSED"
    _print_section(own, columns, _own_ports_row, console)
    _print_section(given, ("PORTS OF", "UNOWNED", "LACKING", "BLOCKS"), _given_ports_row, console)
    flows = dict(_members(document.get("flows")))
    tables = {f"table {name}": row for name, row in _members(flows.get("tables"))}
    pod = dict(_members(flows.get("busiestPod")))
    if pod.get("pod"):
        tables[f"pod {pod['pod']}"] = {"rows": pod.get("flows"), "room": pod.get("quota")}
    _print_section(tables, ("FLOWS OF", "NOW", "AT MOST"), _flow_row, console)


def _own_ports_row(address: str, row: Any) -> tuple[Any, ...]:
    members = dict(_members(row))
    busiest = dict(_members(members.get("busiest")))
    remote = ""
    if busiest.get("remote"):
        towards = " ".join(plain(busiest[key]) for key in ("remote", "protocol") if busiest.get(key))
        remote = f"{towards}: {plain(busiest.get('portsTaken'))} of {plain(busiest.get('portsUsable'))}"
    blocks = f"{plain(members.get('blocksInUse'))} of {plain(members.get('usableBlocks'))}"
    return (address, blocks, members.get("portsInUse"), remote, _counts(members.get("refused")))


def _given_ports_row(address: str, row: Any) -> tuple[Any, ...]:
    members = dict(_members(row))
    return (address, members.get("unowned"), _counts(members.get("lacking")), _counts(members.get("blocks")))


def _flow_row(name: str, row: Any) -> tuple[Any, ...]:
    members = dict(_members(row))
    return (name, members.get("rows"), members.get("room"))


def _counts(section: Any) -> str:
    """The largest of them."""
    counts = [(name, count) for name, count in _members(section) if isinstance(count, int)]
    counts.sort(key=lambda item: -item[1])
    more = len(counts) - _SHOWN_NODES
    shown = ", ".join(f"{plain(name)} {count}" for name, count in counts[:_SHOWN_NODES])
    return shown + (f" and {more} more" if more > 0 else "")


def _members(section: Any) -> list[tuple[str, Any]]:
    return list(section.items()) if isinstance(section, dict) else []


def _node_row(name: str, node: Any) -> tuple[Any, ...]:
    members = dict(_members(node))
    state = members.pop("state", None)
    role = members.pop("role", None)
    more = ", ".join(f"{key}: {plain(value)}" for key, value in members.items() if not isinstance(value, dict | list))
    return (name, Text(plain(state), _GOOD if state == "Up" else _BAD), role, more)


def _floating_ip_row(document: dict[str, Any], address: str, row: Any) -> tuple[Any, ...]:
    members = dict(_members(row))
    holder = members.get("holder")
    shown = Text(plain(holder), _GOOD if holder else _BAD)
    reason = members.get("reason") if holder else absence(document, members)
    return (address, shown, members.get("successor"), members.get("token"), reason)


def _policy_row(name: str, policy: Any) -> tuple[Any, ...]:
    members = dict(_members(policy))
    accepted = bool(members.get("accepted"))
    reason = ": ".join(str(members[key]) for key in ("reason", "message") if members.get(key))
    shown = Text("yes" if accepted else "no", _GOOD if accepted else _BAD)
    return (name, shown, members.get("egressSourceIP"), members.get("matchedPods"), reason)
