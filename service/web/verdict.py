"""Whether all is well, of a status document: what a person who was woken up needs first.

Pure, and tolerant: the document may be of another version of the service, so what is missing or strange is passed over.
"""

from typing import Any


def troubles(document: dict[str, Any]) -> list[str]:
    """One line for each thing that is wrong, the widest first; none where all is well, as far as this process knows."""
    return [
        *(str(line) for line in _lines(document, "troubles")),
        *_of_leases(document),
        *_of_objects(document),
        *_of_floating_ips(document),
        *_of_nodes(document),
        *_of_policies(document),
        *(f"object {line}" for line in _lines(document, "errors")),
        *_of_audit(document),
    ]


def _of_leases(document: dict[str, Any]) -> list[str]:
    keeper, electorate = _section(document, "keeper"), _section(document, "electorate")
    found = []
    if keeper.get("alive") is False:
        found.append("the lease keeper of this node does not report: what is held here ends with its leases")
    if keeper.get("majority") is False:
        found.append("no majority of electors answers: no address can move, and what is held ends with its leases")
    if electorate.get("trouble"):
        found.append(f"electors: {electorate['trouble']}")
    if not document.get("leader"):
        found.append("nobody leads: no address is assigned anew, and status in the cluster is not written")
    return found


def _of_objects(document: dict[str, Any]) -> list[str]:
    objects = _section(document, "objects")
    found = []
    if objects.get("synced") is False:
        found.append("objects have not been read yet")
    if objects.get("restoredFrom"):
        found.append(f"objects are as known at {objects['restoredFrom']}; no newer word")
    if objects.get("trouble"):
        found.append(f"objects: {objects['trouble']}")
    return found


def _of_floating_ips(document: dict[str, Any]) -> list[str]:
    return [
        f"{address} is held by no node: {row.get('reason') or _awaited(row)}"
        for address, row in _rows(document, "floatingIPs")
        if not row.get("holder")
    ]


def _awaited(row: dict[str, Any]) -> str:
    return f"{row['assigned']}, which it is assigned to, does not say that it holds it" if row.get("assigned") else "?"


def _of_nodes(document: dict[str, Any]) -> list[str]:
    states = {name: node.get("state") for name, node in _rows(document, "nodes")}
    return [f"node {name} is {state}" for name, state in states.items() if state != "Up"]


def _of_policies(document: dict[str, Any]) -> list[str]:
    return [
        f"policy {name} is not in force: " + ": ".join(str(row[key]) for key in ("reason", "message") if row.get(key))
        for name, row in _rows(document, "policies")
        if not row.get("accepted")
    ]


def _of_audit(document: dict[str, Any]) -> list[str]:
    audit = _section(document, "audit")
    return [f"audit: {audit.get('reason') or 'not healthy'}"] if audit.get("healthy") is False else []


def _section(document: dict[str, Any], name: str) -> dict[str, Any]:
    section = document.get(name)
    return section if isinstance(section, dict) else {}


def _rows(document: dict[str, Any], name: str) -> list[tuple[str, dict[str, Any]]]:
    return [(str(key), row) for key, row in _section(document, name).items() if isinstance(row, dict)]


def _lines(document: dict[str, Any], name: str) -> list[Any]:
    lines = document.get(name)
    return lines if isinstance(lines, list) else []
