"""The status document: one form for /v1/status and `egressgw status`, from agents and controllers alike."""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address
from typing import Any

from service.audit.outbox import Outbox
from service.audit.publisher import Publisher
from service.model.assignment import Assignment
from service.model.errors import ObjectError
from service.model.gateway_node import GatewayNode, NodeState
from service.model.lease import Electorate, HeldBy
from service.policy.index import PolicyIndex
from service.sources.intake import Intake
from service.sources.source import ObjectSource
from service.sources.source_state import SourceState
from service.wire.cluster_view import ClusterView


def electorate_status(electorate: Electorate, trouble: str) -> dict[str, Any]:
    """Who grants leases, and what stands in the way of a change of them."""
    return {
        "epoch": electorate.epoch,
        "members": {member.name: member.host for member in electorate.members},
        "trouble": trouble,
    }


def objects_status(intake: Intake, source: ObjectSource | None) -> dict[str, Any]:
    """Whether the objects are known, still followed, or those of an earlier day."""
    state = source.state() if source is not None else SourceState()
    return {"synced": intake.is_synced, "trouble": state.trouble, "restoredFrom": state.restored_from or None}


def audit_status(outbox: Outbox, publisher: Publisher) -> dict[str, Any]:
    """Whether records reach the disk and the brokers, and how far behind the brokers are."""
    disk, topic = outbox.state, publisher.state
    return {
        "healthy": disk.healthy and topic.healthy,
        "reason": "; ".join(reason for reason in (disk.reason, topic.reason) if reason),
        "pending": disk.pending,
        "lost": disk.lost,
        "removedUnpublished": disk.removed,
        "kafka": topic.configured,
        "published": topic.published,
        "lagRecords": topic.lag_records,
        "lagSeconds": round(topic.lag_seconds, 3),
        "unpublishable": topic.unpublishable,
    }


def cluster_status(
    cluster: ClusterView,
    index: PolicyIndex,
    errors: Iterable[ObjectError],
    holders: Mapping[IPv4Address, HeldBy],
) -> dict[str, Any]:
    """The part that every member can tell."""
    leader = cluster.leader()
    nodes = cluster.gateway_nodes()
    return {
        "leader": leader[0] if leader else None,
        "term": leader[1] if leader else 0,
        "keys": cluster.keys(),
        "nodes": {node.name: _node(node) for node in nodes},
        "floatingIPs": _floating_ips(index, cluster, holders, nodes),
        "policies": {
            key.name: {
                "accepted": state.accepted,
                "reason": str(state.reason),
                "message": state.message,
                "matchedPods": state.matched_pods,
                "egressSourceIP": str(state.egress_source_ip),
            }
            for key, state in sorted(index.policy_states().items())
        },
        "errors": [str(error) for error in errors],
    }


def _node(node: GatewayNode) -> dict[str, Any]:
    return {
        "state": node.state.value,
        "role": node.role.value,
        "ready": node.ready,
        "schedulable": node.schedulable,
        "segments": [f"{segment.address}/{segment.network.prefixlen}" for segment in node.segments],
    }


def _floating_ips(
    index: PolicyIndex,
    cluster: ClusterView,
    holders: Mapping[IPv4Address, HeldBy],
    nodes: Iterable[GatewayNode],
) -> dict[str, Any]:
    gateway = index.gateway()
    assignments, conflicts = cluster.assignments(), cluster.conflicts()
    up = {node.name for node in nodes if node.state is NodeState.UP}
    table = {}
    for floating_ip in dict.fromkeys((*(gateway.floating_ips if gateway else ()), *sorted(assignments))):
        assignment = assignments.get(floating_ip)
        holder, token = holders.get(floating_ip, (None, None))
        # A node that gossip thinks dead may hold it all the same; the leader, who asks the electors, knows.
        is_confirmed = holder in up or (assignment is not None and assignment.holder == holder)
        table[str(floating_ip)] = {
            "holder": holder if is_confirmed else None,
            "assigned": assignment.holder if assignment else None,
            "successor": assignment.successor if assignment else None,
            "token": ".".join(map(str, token)) if token else None,
            "reason": _reason(assignment, conflicts.get(floating_ip)),
        }
    return table


def _reason(assignment: Assignment | None, stranger: bytes | None) -> str:
    """Why nobody holds it; empty where nothing stands in the way."""
    if stranger is not None:
        return f"FloatingIPConflict: {stranger.hex(':')}, which is no member, answers for this address"
    return assignment.reason if assignment else "not assigned yet"
