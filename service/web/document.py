"""The status document: one form for /v1/status and `egressgw status`, from agents and controllers alike."""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address
from typing import Any

from service.audit.outbox import Outbox
from service.audit.publisher import Publisher
from service.gossip.member import MemberState
from service.model.assignment import Assignment
from service.model.gateway_node import GatewayNode, NodeState
from service.model.lease import Electorate, HeldBy
from service.model.order import MoveOrder
from service.policy.index import PolicyIndex
from service.sources.intake import Intake
from service.sources.source import ObjectSource
from service.sources.source_state import SourceState
from service.wire.cluster_view import ClusterView, node_state


def electorate_status(
    electorate: Electorate, trouble: str, *, has_majority: bool, silent_s: Mapping[str, float]
) -> dict[str, Any]:
    """Who grants leases, who of them is not seen to vote, and what stands in the way of a change of them.

    `silent_s`: the seconds since each of those was last seen to vote.
    """
    return {
        "epoch": electorate.epoch,
        "members": {member.name: member.host for member in electorate.members},
        "trouble": trouble,
        "majority": has_majority,
        "silentSeconds": {name: round(seconds, 1) for name, seconds in sorted(silent_s.items())},
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
    intake: Intake,
    holders: Mapping[IPv4Address, HeldBy],
    heard: Mapping[IPv4Address, HeldBy] | None = None,
) -> dict[str, Any]:
    """The part that every member can tell.

    `holders` this process vouches for; `heard` is the last word on each address, however old.
    """
    leader = cluster.leader()
    nodes = intake.marked(cluster.gateway_nodes())
    return {
        "leader": leader[0] if leader else None,
        "leaderState": _leader_state(cluster, leader[0]) if leader else None,
        "term": leader[1] if leader else 0,
        "keys": cluster.keys(),
        "orders": [_order(order) for _, order in sorted(cluster.orders.moves().items())],
        "nodes": {node.name: _node(node) for node in nodes},
        "floatingIPs": _floating_ips(intake.index, cluster, holders, heard or {}, nodes),
        "policies": {
            key.name: {
                "accepted": state.accepted,
                "reason": str(state.reason),
                "message": state.message,
                "matchedPods": state.matched_pods,
                "egressSourceIP": str(state.egress_source_ip),
            }
            for key, state in sorted(intake.index.policy_states().items())
        },
        "errors": [str(error) for error in intake.errors],
        "members": {name: member.address.host for name, (member, _) in cluster.members().items()},
    }


def _order(order: MoveOrder) -> dict[str, Any]:
    return {
        "floatingIP": str(order.floating_ip),
        "from": order.source or None,
        "to": order.target or None,
        "state": order.state.value,
        "reason": order.reason,
    }


def _leader_state(cluster: ClusterView, name: str) -> str:
    """`Up`, `Down` or `Left` as gossip has the last leader; `Unknown` for one that is no member here."""
    found = cluster.members().get(name)
    if found is None:
        return "Unknown"
    state = found[0].state
    return "Left" if state is MemberState.LEFT else node_state(state).value


def _node(node: GatewayNode) -> dict[str, Any]:
    return {
        "state": node.state.value,
        "role": node.role.value,
        "ready": node.ready,
        "schedulable": node.schedulable,
        "drained": node.drained,
        "selected": node.selected,
        "segments": [f"{segment.address}/{segment.network.prefixlen}" for segment in node.segments],
    }


def _floating_ips(
    index: PolicyIndex,
    cluster: ClusterView,
    holders: Mapping[IPv4Address, HeldBy],
    heard: Mapping[IPv4Address, HeldBy],
    nodes: Iterable[GatewayNode],
) -> dict[str, Any]:
    gateway = index.gateway()
    assignments, conflicts = cluster.assignments(), cluster.conflicts()
    up = {node.name for node in nodes if node.state is NodeState.UP}
    table = {}
    for floating_ip in dict.fromkeys((*(gateway.floating_ips if gateway else ()), *sorted(assignments))):
        assignment = assignments.get(floating_ip)
        holder, token = holders.get(floating_ip, (None, None))
        # A word of before the leader's row that gives it to nobody is a word of the past.
        is_past = assignment is not None and assignment.holder is None and token and token.stamp < assignment.stamp
        # A node that gossip thinks dead may hold it all the same; the leader, who asks the electors, knows.
        last = heard.get(floating_ip)
        is_confirmed = holder in up or (assignment is not None and assignment.holder == holder)
        table[str(floating_ip)] = {
            "holder": holder if is_confirmed and not is_past else None,
            "assigned": assignment.holder if assignment else None,
            "successor": assignment.successor if assignment else None,
            "token": ".".join(map(str, token)) if token else None,
            "lastHeard": last.node if last else None,
            "reason": _reason(assignment, conflicts.get(floating_ip)),
        }
    return table


def _reason(assignment: Assignment | None, stranger: bytes | None) -> str:
    """Why nobody holds it; empty where nothing stands in the way."""
    if stranger is not None:
        return f"FloatingIPConflict: {stranger.hex(':')} answers for this address"
    return assignment.reason if assignment else "not assigned yet"
