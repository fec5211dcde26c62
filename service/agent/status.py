"""What an agent says at /v1/status: what one node knows, and what it does itself."""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any

from service.agent.port_blocks import PortBlocks
from service.audit.outbox import Outbox
from service.audit.publisher import Publisher
from service.datapath.desired import LocalUplink
from service.datapath.flow_table import FlowTable
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
    now_ns: int,
    intake: Intake,
    source: ObjectSource | None,
    reconciler: Reconciler,
    datapath: NodeDatapath,
    held: Mapping[IPv4Address, HeldLease],
    report: LeaseReport | None,
    port_blocks: PortBlocks,
    transports: Mapping[str, Mapping[str, str]],
    troubles: Sequence[str],
    outbox: Outbox,
    publisher: Publisher,
) -> dict[str, Any]:
    """The document. `now_ns` is CLOCK_BOOTTIME.

    `report` is None where the keeper does not live; `source` before it is open.

    `troubles`: what is wrong in this process itself, a line each; the keeper's own follow.
    """
    held = _still_held(held, report, now_ns)
    heard = {address: HeldBy(location.node, location.token) for address, location in reconciler.locations.items()}
    holders = _holders(node, heard, held, report)
    shared, drops = cluster_status(cluster, intake, holders, heard), datapath.drops()
    return shared | {
        "policies": with_traffic(shared["policies"], datapath.flows, drops),
        "node": node,
        "role": role.value,
        "troubles": [
            *troubles,
            *(f"keeper: {trouble}" for trouble in (report.troubles if report else ())),
            *_dead_links(datapath.uplinks),
            *datapath.hooks.troubles(),
        ],
        "objects": objects_status(intake, source),
        "held": [str(floating_ip) for floating_ip in sorted(held)],
        "keeper": keeper_status(report),
        "electorate": _electorate(report),
        "pods": {str(pod_ip): phase.value for pod_ip, phase in sorted(reconciler.steering.phases().items())},
        **_fill_status(port_blocks, datapath, drops),
        "transports": transports,
        "hooks": datapath.hooks.kinds(),
        "drops": drops_by_reason(drops),
        "packets": datapath.counters(),
        "audit": audit_status(outbox, publisher),
    }


def _fill_status(
    port_blocks: PortBlocks, datapath: NodeDatapath, drops: Mapping[tuple[str, str], int]
) -> dict[str, Any]:
    """How much there is of what new flows and pods need, and how much of it is taken."""
    fill = datapath.pool.fill()
    return {
        "portBlocks": port_blocks.status(drops),
        "flows": port_blocks.flow_status(),
        "maps": {name: {"entries": entries, "room": room} for name, (entries, room) in sorted(fill.items())},
    }


def _electorate(report: LeaseReport | None) -> dict[str, Any] | None:
    if report is None or report.electorate is None:
        return None
    return electorate_status(
        report.electorate.electorate,
        report.trouble,
        has_majority=report.majority,
        silent_s={name: (report.at_ns - since_ns) / 1e9 for name, since_ns in report.silent},
    )


def _dead_links(uplinks: Iterable[LocalUplink]) -> list[str]:
    return [
        f"uplink {uplink.name} has no carrier: this node can hold no address of {uplink.address.network}"
        for uplink in uplinks
        if not uplink.carrier
    ]


def _still_held(
    held: Mapping[IPv4Address, HeldLease], report: LeaseReport | None, now_ns: int
) -> dict[IPv4Address, HeldLease]:
    """What the keeper says that it holds; of one that says nothing any more, what its last word still covers."""
    return {address: lease for address, lease in held.items() if report is not None or lease.deadline_ns > now_ns}


def _holders(
    node: str,
    heard: Mapping[IPv4Address, HeldBy],
    held: Mapping[IPv4Address, HeldLease],
    report: LeaseReport | None,
) -> dict[IPv4Address, HeldBy]:
    """Who has each address, as far as this node can vouch for it.

    Of itself a node knows better than any table: what its keeper does not hold, it does not hold. Of others it knows
    the last word, which is worth nothing when no majority of electors answers, or nobody here asks them.
    """
    sees_majority = report is not None and report.majority
    return {address: by for address, by in heard.items() if address in held or (sees_majority and by.node != node)}


def keeper_status(report: LeaseReport | None) -> dict[str, Any]:
    """What the node's lease keeper says of itself; all but `alive` null where it says nothing."""
    return {
        "alive": report is not None,
        "elector": report.elector if report else None,
        "voting": report.voting if report else None,
        "majority": report.majority if report else None,
        "scheduling": report.scheduling if report else None,
    }


def with_traffic(
    policies: Mapping[str, Mapping[str, Any]], flows: FlowTable, drops: Mapping[tuple[str, str], int]
) -> dict[str, Any]:
    """Give each policy what passed by it on this node, and what was dropped, by floating IP (rule B6).

    `drops`: packets per (reason, floating IP).
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for (policy, packed), account in sorted(flows.traffic.items()):
        total, floating_ip = account.total, IPv4Address(packed)
        found.setdefault(policy, {})[str(floating_ip)] = {
            "packetsOut": total.out_packets,
            "bytesOut": total.out_bytes,
            "packetsIn": total.in_packets,
            "bytesIn": total.in_bytes,
            "flowsOpened": total.flows,
            "flows": account.flows,
            "drops": {
                reason: packets
                for (reason, address), packets in sorted(drops.items())
                if address == str(floating_ip) and flows.policy_of(floating_ip) == policy
            },
        }
    return {name: {**row, "traffic": found.get(name, {})} for name, row in policies.items()}


def drops_by_reason(drops: Mapping[tuple[str, str], int]) -> dict[str, int]:
    """Packets per reason, from packets per (reason, floating IP)."""
    totals: dict[str, int] = {}
    for (reason, _), packets in drops.items():
        totals[reason] = totals.get(reason, 0) + packets
    return totals
