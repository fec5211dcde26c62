"""Why an address is on no node, and what the electors do: sentences made of a status document.

Pure, and tolerant: the document may be of another version of the service, so what is missing or strange is passed over.
Whoever is asked, the answer is never empty: a process that does not know says so, and who may.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, NetmaskValueError
from typing import Any

_MINUTE_S = 60
_HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one process knows of one address."""

    address: str
    is_held: bool
    verdict: str
    """One sentence: who holds it, or why nobody does."""
    facts: tuple[tuple[str, str], ...]
    """What that follows from: (of what, what is so), in the order in which to look at it."""


def explain(document: dict[str, Any], address: str) -> Explanation:
    """Say who holds an address, or why nobody does, with the facts beside it."""
    table = section(document, "floatingIPs")
    row = section(table, address)
    if address not in table:
        listed = ", ".join(map(str, table)) or "none"
        verdict = f"{address} is no floating IP here: the gateway lists {listed}"
        return Explanation(address, False, verdict, tuple(_electors(document)))
    holder = row.get("holder")
    if holder:
        verdict = f"{address} is held by {holder}" + (f", token {row['token']}" if row.get("token") else "")
    else:
        verdict = f"{address} is held by no node: {absence(document, row)}"
    return Explanation(address, bool(holder), verdict, tuple(_facts(document, address, row)))


def absence(document: dict[str, Any], row: dict[str, Any]) -> str:
    """Why nobody holds the address of this row of `floatingIPs`; never empty."""
    if row.get("why"):
        return str(row["why"])
    causes = [str(row["reason"])] if row.get("reason") else []
    if lost_majority(document):
        causes.insert(0, "not known here, no majority of electors answers")
    elif section(document, "keeper").get("alive") is False:
        causes.insert(0, "not known here, the lease keeper of this node does not report")
    if not causes:
        causes.append(_awaited(document, row))
    if row.get("lastHeard"):
        causes.append(f"last heard of on {row['lastHeard']}")
    return "; ".join(causes)


def lost_majority(document: dict[str, Any]) -> str:
    """That no majority of electors answers, with who is silent and for how long; empty while one answers."""
    said = section(document, "electorate").get("majority"), section(document, "keeper").get("majority")
    if False not in said:
        return ""
    silent = ", ".join(f"{name} {text}" for name, text in silence(document))
    return f"no majority of electors answers ({silent or 'who of them is silent is not known'})"


def silence(document: dict[str, Any]) -> list[tuple[str, str]]:
    """(elector, how long it has been silent), in the order of the document."""
    silent = section(section(document, "electorate"), "silentSeconds")
    return [
        (str(name), f"silent for {duration(seconds)}")
        for name, seconds in silent.items()
        if isinstance(seconds, int | float)
    ]


def duration(seconds: float) -> str:
    """A span of time in its two largest units."""
    whole = int(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S} s"
    return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S} min"


def section(document: dict[str, Any], name: str) -> dict[str, Any]:
    """A mapping in the document; empty where there is none."""
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def rows(document: dict[str, Any], name: str) -> list[tuple[str, dict[str, Any]]]:
    """The rows of a mapping of mappings, by name."""
    return [(str(key), row) for key, row in section(document, name).items() if isinstance(row, dict)]


def _awaited(document: dict[str, Any], row: dict[str, Any]) -> str:
    assigned = row.get("assigned")
    if not assigned:
        return "why is not known here; ask a controller"
    node = section(section(document, "nodes"), str(assigned))
    if node and node.get("state") != "Up":
        return f"{assigned}, which it is assigned to, is {node.get('state') or 'unknown'}"
    if node and node.get("ready") is False:
        return f"{assigned}, which it is assigned to, is not ready"
    return f"{assigned}, which it is assigned to, does not say that it holds it"


def _facts(document: dict[str, Any], address: str, row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for label, key in (("assigned to", "assigned"), ("successor", "successor")):
        yield label, str(row.get(key) or "nobody")
    if row.get("holder") and row.get("reason"):
        yield "it stays there", str(row["reason"])
    for name, node in rows(document, "nodes"):
        yield f"node {name}", _fitness(node, address)
    yield from _electors(document)
    for name, policy in rows(document, "policies"):
        if str(policy.get("egressSourceIP")) == address:
            said = "in force" if policy.get("accepted") else f"not in force: {policy.get('reason') or '?'}"
            yield f"policy {name}", f"{said}, selects {policy.get('matchedPods', '?')} pods"


def _electors(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    electorate, silent = section(document, "electorate"), dict(silence(document))
    for name in section(electorate, "members"):
        yield f"elector {name}", silent.get(str(name), "answers")


def _fitness(node: dict[str, Any], address: str) -> str:
    """Whether a node could hold the address, or what keeps it from that."""
    against = [
        text
        for is_so, text in (
            (node.get("state") != "Up", str(node.get("state") or "of unknown state")),
            (node.get("ready") is False, "not ready"),
            (node.get("drained") is True, "drained (egressgw undrain ends that)"),
            (node.get("selected") is False, "not selected by spec.nodeSelector"),
            (node.get("schedulable") is False and not node.get("drained"), "cordoned or draining"),
            (not _is_near(node, address), "no interface on its subnet"),
        )
        if is_so
    ]
    return ", ".join(against) or "can hold it"


def _is_near(node: dict[str, Any], address: str) -> bool:
    segments = node.get("segments")
    try:
        return any(
            IPv4Address(address) in IPv4Interface(str(one)).network
            for one in (segments if isinstance(segments, list) else ())
        )
    except (AddressValueError, NetmaskValueError):
        return False
