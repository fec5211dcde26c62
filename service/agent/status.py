"""What an agent says at /v1/status: what one node knows, and what it does itself."""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any

from service.audit.outbox import Outbox
from service.audit.publisher import Publisher
from service.datapath.node_datapath import NodeDatapath
from service.datapath.reconciler import Reconciler
from service.model.gateway_node import NodeRole
from service.model.keeper_message import HeldLease, LeaseReport
from service.model.lease import HeldBy
from service.sources.intake import Intake
from service.sources.source import ObjectSource
from service.web.document import audit_status, cluster_status, electorate_status, objects_status
from service.wire.cluster_view import ClusterView


def agent_status(
    *,
    node: str,
    role: NodeRole,
    cluster: ClusterView,
    intake: Intake,
    source: ObjectSource | None,
    reconciler: Reconciler,
    datapath: NodeDatapath,
    held: Mapping[IPv4Address, HeldLease],
    report: LeaseReport | None,
    troubles: Sequence[str],
    outbox: Outbox,
    publisher: Publisher,
) -> dict[str, Any]:
    """The document. `report` is None where the keeper does not live; `source` before it is open.

    `troubles`: what is wrong in this process itself, a line each; the keeper's own follow.
    """
    # Of itself a node knows better than any table: what its keeper does not hold, it does not hold.
    locations = {
        floating_ip: HeldBy(location.node, location.token)
        for floating_ip, location in reconciler.locations.items()
        if location.node != node or floating_ip in held
    }
    return cluster_status(cluster, intake.index, intake.errors, locations) | {
        "node": node,
        "role": role.value,
        "troubles": [*troubles, *(f"keeper: {trouble}" for trouble in (report.troubles if report else ()))],
        "objects": objects_status(intake, source),
        "held": [str(floating_ip) for floating_ip in sorted(held)],
        "keeper": keeper_status(report),
        "electorate": electorate_status(report.electorate.electorate, report.trouble)
        if report and report.electorate
        else None,
        "endpoints": {str(pod_ip): phase.value for pod_ip, phase in sorted(reconciler.steering.phases().items())},
        "drops": drops_by_reason(datapath.drops()),
        "packets": datapath.counters(),
        "audit": audit_status(outbox, publisher),
    }


def keeper_status(report: LeaseReport | None) -> dict[str, Any]:
    """What the node's lease keeper says of itself; all but `alive` null where it says nothing."""
    return {
        "alive": report is not None,
        "elector": report.elector if report else None,
        "voting": report.voting if report else None,
        "majority": report.majority if report else None,
        "scheduling": report.scheduling if report else None,
    }


def drops_by_reason(drops: Mapping[tuple[str, str], int]) -> dict[str, int]:
    """Packets per reason, from packets per (reason, floating IP)."""
    totals: dict[str, int] = {}
    for (reason, _), packets in drops.items():
        totals[reason] = totals.get(reason, 0) + packets
    return totals
