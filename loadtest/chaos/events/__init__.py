"""The catalogue: every event by its name."""

from loadtest.chaos.event import Event
from loadtest.chaos.events import links, netfilter, objects, pods, processes, segment, strangers

_MODULES = (netfilter, links, segment, pods, objects, processes, strangers)
CATALOGUE: dict[str, type[Event]] = {event.name: event for module in _MODULES for event in module.EVENTS}
"""By name."""
