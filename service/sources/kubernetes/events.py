"""Kubernetes Events on the objects they concern, each said once and then counted.

An Event's name is made of what it says and of the object's uid: a leader that says it again, also another leader, meets
the Event that is there and counts it up.
"""

import hashlib
from collections.abc import Callable
from typing import Any, Final

import msgspec

from service.model.object_event import ObjectEvent
from service.model.objects import API_GROUP, API_VERSION, Kind
from service.sources.kubernetes.api_server import MERGE, ApiError, ApiServer
from service.sources.kubernetes.custom_resource import FIELD_MANAGER
from service.sources.timestamp import microseconds_from_ns

REPORTING_CONTROLLER: Final = f"{API_GROUP}/{FIELD_MANAGER}"
_EVENTS = "/apis/events.k8s.io/v1"
_NOTE_MAX = 1000
"""Bytes; the API server takes 1024."""
_REPORTER_MAX = 128
"""Characters of reportingInstance that the API server takes."""
_NAME_MAX = 200
"""Characters of the object's name; with the digest behind them they stay under the 253 of a name."""


class EventPoster:
    """Posts to one API server. `reporter` is this process, as `kubectl describe` names it."""

    def __init__(self, api: ApiServer, *, reporter: str, wall_clock: Callable[[], int]) -> None:
        """`wall_clock` is Unix time in nanoseconds."""
        self._api = api
        self._reporter = reporter
        self._wall_clock = wall_clock

    async def post(self, event: ObjectEvent, *, uid: str) -> None:
        """Create the Event, or count it up where it exists. `uid`: the object's, empty where it is not known.

        Raises TransientError.
        """
        document = event_document(event, uid=uid, reporter=self._reporter, now=self._now())
        path = f"{_EVENTS}/namespaces/{document['metadata']['namespace']}/events"
        try:
            await self._api.create(path, document)
        except ApiError as error:
            if error.status != 409:
                raise
            await self._count_up(f"{path}/{document['metadata']['name']}")

    async def _count_up(self, path: str) -> None:
        try:
            found = msgspec.json.decode(await self._api.get(path))
        except ApiError as error:
            if error.status == 403:
                # An object in a namespace of the users', where Events may be made but not changed: it has been said.
                return
            raise
        count = (found.get("series") or {}).get("count", 1)
        series = {"count": count + 1, "lastObservedTime": self._now()}
        await self._api.patch(path, {"series": series}, MERGE)

    def _now(self) -> str:
        return microseconds_from_ns(self._wall_clock())


def event_document(event: ObjectEvent, *, uid: str, reporter: str, now: str) -> dict[str, Any]:
    """Return the Event as events.k8s.io/v1 has it. `now` is RFC 3339 with microseconds."""
    key = event.regarding
    regarding = {
        "apiVersion": "v1" if key.kind is Kind.CONFIG_MAP else API_VERSION,
        "kind": str(key.kind),
        "name": key.name,
        "namespace": key.namespace,
        "uid": uid,
    }
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        # Events of cluster-scoped objects live in `default`.
        "metadata": {"name": event_name(event, uid), "namespace": key.namespace or "default"},
        "eventTime": now,
        "reportingController": REPORTING_CONTROLLER,
        "reportingInstance": reporter[:_REPORTER_MAX],
        "action": event.action,
        "reason": event.reason,
        "note": _shortened(event.note),
        "type": "Warning" if event.is_warning else "Normal",
        "regarding": {field: value for field, value in regarding.items() if value},
    }


def event_name(event: ObjectEvent, uid: str) -> str:
    """Return a name that is equal for what says the same of the same object, and of no other."""
    key = event.regarding
    content = "\0".join((str(key.kind), str(key), uid, event.reason, event.note))
    return f"{key.name[:_NAME_MAX]}.{hashlib.blake2s(content.encode(), digest_size=8).hexdigest()}"


def _shortened(note: str) -> str:
    data = note.encode()
    return note if len(data) <= _NOTE_MAX else data[:_NOTE_MAX].decode("utf-8", "ignore") + "..."
