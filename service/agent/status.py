"""What an agent says at /v1/status: what one node knows, and what it does itself."""

from typing import TYPE_CHECKING, Any

from service.web.document import audit_status, cluster_status, electorate_status, objects_status

if TYPE_CHECKING:
    from service.agent.agent import Agent


def agent_status(agent: "Agent") -> dict[str, Any]:
    """What one node knows, and what it does itself."""
    # Of itself a node knows better than any table: what its keeper does not hold, it does not hold.
    locations = {
        floating_ip: (location.node, location.token)
        for floating_ip, location in agent.reconciler.locations.items()
        if location.node != agent.settings.node or floating_ip in agent.held
    }
    document = cluster_status(agent.cluster, agent.index, agent.intake.errors, locations)
    drops: dict[str, int] = {}
    for (reason, _), packets in agent.datapath.drops().items():
        drops[reason] = drops.get(reason, 0) + packets
    report = agent.report if agent.keeper.is_keeper_alive else None
    return document | {
        "node": agent.settings.node,
        "role": agent.role.value,
        "objects": objects_status(agent.intake, agent.source),
        "held": [str(floating_ip) for floating_ip in sorted(agent.held)],
        "keeper": {
            "alive": report is not None,
            "elector": report.elector if report else None,
            "voting": report.voting if report else None,
            "majority": report.majority if report else None,
            "scheduling": report.scheduling if report else None,
        },
        "electorate": electorate_status(report.electorate.electorate, report.trouble)
        if report and report.electorate
        else None,
        "endpoints": {str(pod_ip): phase.value for pod_ip, phase in sorted(agent.reconciler.steering.phases().items())},
        "drops": drops,
        "packets": agent.datapath.counters(),
        "audit": audit_status(agent.outbox, agent.publisher),
    }
