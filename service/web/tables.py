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
