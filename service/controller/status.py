"""What a controller says at /v1/status: what the leader, or one who would be, knows."""

from typing import TYPE_CHECKING, Any

from service.web.document import audit_status, cluster_status, electorate_status, objects_status

if TYPE_CHECKING:
    from service.controller.controller import Controller


def controller_status(controller: "Controller") -> dict[str, Any]:
    """What the leader, or one who would be, knows."""
    document = cluster_status(controller.cluster, controller.index, controller.intake.errors, controller.holders())
    return document | {
        "node": controller.settings.node,
        "role": "controller",
        "objects": objects_status(controller.intake, controller.source),
        "leading": controller.term is not None,
        "electorate": electorate_status(controller.electorate, controller.electorate_trouble)
        | controller.electorate_standing(),
        "drops": {},
        "audit": audit_status(controller.outbox, controller.publisher),
    }
