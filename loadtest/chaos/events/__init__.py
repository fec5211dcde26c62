"""The catalogue: every event by its name."""

from loadtest.chaos.event import Event
from loadtest.chaos.events import cluster, links, netfilter, objects, pods, processes, segment, strangers

_MODULES = (netfilter, links, segment, pods, objects, processes, strangers)
CATALOGUE: dict[str, type[Event]] = {event.name: event for module in _MODULES for event in module.EVENTS}
"""By name, in a lab without Kubernetes."""
_ALSO_IN_A_CLUSTER = (
    *("conntrack-flush", "conntrack-timeouts", "forward-deny", "invalid-drop", "mark-set"),
    *("carrier-lost", "silent-cut", "second-address", "mtu", "unlike-mtus", "mac"),
    *("forged-garp", "stranger-answers", "switch-forgets", "device-churn", "forged-source", "flood"),
    *("unrelated-cidr", "policy-address", "policy-removed", "many-cidrs", "address-removed"),
    *("idle-http", "garbage", "scan", "replays"),
)
CLUSTER_CATALOGUE: dict[str, type[Event]] = {
    **{name: CATALOGUE[name] for name in _ALSO_IN_A_CLUSTER},
    **{event.name: event for event in cluster.EVENTS},
}
"""By name, in a real cluster."""
ALL: dict[str, type[Event]] = CATALOGUE | CLUSTER_CATALOGUE
