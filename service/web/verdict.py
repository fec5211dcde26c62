"""Whether all is well, of a status document: what a person who was woken up needs first.

Pure, and tolerant: the document may be of another version of the service, so what is missing or strange is passed over.
"""

from typing import Any

from service.web.explanation import absence, lost_majority, rows, section, silence


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
    keeper, electorate = section(document, "keeper"), section(document, "electorate")
    found = []
    if keeper.get("alive") is False:
        found.append(
            "the lease keeper of this node does not report: what is held here ends with its leases, and whether a "
            "majority of electors votes, and anybody leads, is not known here"
        )
    lost = lost_majority(document)
    if lost:
        found.append(f"{lost}: no address can move, and what is held ends with its leases")
    else:
        found += [f"elector {name} does not vote, {text}" for name, text in silence(document)]
    if electorate.get("trouble"):
        found.append(f"electors: {electorate['trouble']}")
    return found + _of_leader(document, is_majority_lost=bool(lost))


def _of_leader(document: dict[str, Any], *, is_majority_lost: bool) -> list[str]:
    if document.get("begun") is False:
        # A process that has not begun knows of none, and that is not the same as that there is none.
        return []
    if document.get("role") == "witness":
        return []
    leader, state = document.get("leader"), document.get("leaderState")
    consequence = "no address is assigned anew, and status in the cluster is not written"
    if not leader:
        return [f"nobody leads: {consequence}"]
    if is_majority_lost:
        return [f"nobody can lead without a majority; the last leader known is {leader}: {consequence}"]
    if leader == document.get("node") and document.get("leading") is False:
        return [f"nobody leads, {leader} does not any more: {consequence}"]
    if state is not None and state != "Up":
        return [f"the leader {leader} cannot be reached, it is {state}: {consequence}"]
    return []


def _of_objects(document: dict[str, Any]) -> list[str]:
    objects = section(document, "objects")
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
        f"{address} is held by no node: {absence(document, row)}"
        for address, row in rows(document, "floatingIPs")
        if not row.get("holder")
    ]


def _of_nodes(document: dict[str, Any]) -> list[str]:
    found = []
    for name, node in rows(document, "nodes"):
        if node.get("state") != "Up":
            found.append(f"node {name} is {node.get('state')}")
        elif node.get("ready") is False:
            found.append(f"node {name} is not ready: it is given no address")
    return found


def _of_policies(document: dict[str, Any]) -> list[str]:
    found = []
    for name, row in rows(document, "policies"):
        why = ": ".join(str(row[key]) for key in ("reason", "message") if row.get(key))
        if not row.get("accepted"):
            found.append(f"policy {name} is not in force: {why}")
        elif row.get("message"):
            # In force, and its packets are dropped rather than sent from another address.
            found.append(f"policy {name}: {why}")
    return found


def _of_audit(document: dict[str, Any]) -> list[str]:
    audit = section(document, "audit")
    return [f"audit: {audit.get('reason') or 'not healthy'}"] if audit.get("healthy") is False else []


def _lines(document: dict[str, Any], name: str) -> list[Any]:
    lines = document.get(name)
    return lines if isinstance(lines, list) else []
