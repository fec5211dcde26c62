"""What a controller says at /v1/status: what the leader, or one who would be, knows."""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any

from service.audit.outbox import Outbox
from service.audit.publisher import Publisher
from service.electorate.office import ElectorateOffice
from service.model.lease import HeldBy
from service.sources.intake import Intake
from service.sources.source import Source
from service.web.document import audit_status, cluster_status, electorate_status, objects_status
from service.wire.cluster_view import ClusterView


def controller_status(
    *,
    node: str,
    is_leading: bool,
    port_blocks: Mapping[str, Any],
    cluster: ClusterView,
    intake: Intake,
    source: Source | None,
    holders: Mapping[IPv4Address, HeldBy],
    office: ElectorateOffice,
    has_majority: bool,
    silent_s: Mapping[str, float],
    troubles: Sequence[str],
    outbox: Outbox,
    publisher: Publisher,
    untold: Sequence[str],
) -> dict[str, Any]:
    """The document. `holders` as a majority of electors names them; `source` is None before it is open.

    `silent_s`: electors that are not seen to vote, with the seconds since each last was.
    """
    return cluster_status(cluster, intake, holders) | {
        "node": node,
        "role": "controller",
        "troubles": [*troubles, *untold],
        "objects": objects_status(intake, source),
        "leading": is_leading,
        "portBlocks": port_blocks,
        "electorate": electorate_status(office.book.known, office.trouble, has_majority=has_majority, silent_s=silent_s)
        | office.standing(),
        "drops": {},
        "audit": audit_status(outbox, publisher),
    }


def explained(document: dict[str, Any], why: Mapping[IPv4Address, str]) -> dict[str, Any]:
    """Give each floating IP's row its `why`: in one sentence why it is on no node, empty where it is on one."""
    rows = document["floatingIPs"]
    return document | {"floatingIPs": {key: row | {"why": why.get(IPv4Address(key), "")} for key, row in rows.items()}}
