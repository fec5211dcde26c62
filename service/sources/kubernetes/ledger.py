"""What the API server has told, and which changes follow from it. Pure: differences in, changes out.

- A refused version of one of our objects changes nothing: the last good one stays in force, and the errors say why.
- The gateway of a cluster namespace is only remembered; the copy of it in kube-system is the one that is judged.
- `Synced` follows once, when every kind has been listed whole: before that, absence means nothing.
- What was restored from disk gives way kind by kind: when a kind has been listed, what was not in the list is deleted.
"""

from collections.abc import Iterable
from typing import Any

from service.model.errors import ObjectError
from service.model.objects import (
    ApiServers,
    Change,
    ClusterNode,
    Delete,
    Errors,
    Kind,
    Namespace,
    Object,
    ObjectKey,
    Pod,
    ServiceRange,
    Synced,
    Upsert,
)
from service.sources.kubernetes.api_object import ApiObject
from service.sources.kubernetes.custom_resource import is_custom
from service.sources.kubernetes.gateway_mirror import is_cluster_gateway
from service.sources.kubernetes.resource import Difference

Told = Pod | Namespace | ClusterNode | ServiceRange | ApiServers | ApiObject
"""What reflectors keep of an object; of ours the whole, since status and the mirror need what is not in the spec."""


class ObjectLedger:
    """Of the kinds given, everything is waited for. Give it every difference of their reflectors, in order."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self._unsynced = dict.fromkeys(kinds)
        self._seen: dict[ObjectKey, ApiObject] = {}
        """Our custom resources as last seen, refused ones too."""
        self._delivered: dict[ObjectKey, Object] = {}
        """The last good version of each of them."""
        self._errors: dict[ObjectKey, tuple[ObjectError, ...]] = {}
        self._restored: dict[Kind, dict[ObjectKey, None]] = {}
        """Objects told from the cache of which the API server has said nothing yet."""

    @property
    def is_synced(self) -> bool:
        """Whether every kind has been listed once."""
        return not self._unsynced

    def seen(self, key: ObjectKey) -> ApiObject | None:
        """One of our objects as last seen or written, refused or not; None where there is none."""
        return self._seen.get(key)

    def all_seen(self, kind: Kind) -> tuple[ApiObject, ...]:
        """All of one of our kinds, in the order in which they came."""
        return tuple(item for key, item in self._seen.items() if key.kind is kind)

    def note_written(self, item: ApiObject) -> None:
        """Remember the answer to a write of ours: the watch brings it too, but perhaps only after the next write.

        No change follows: what is in force is what the watch says.
        """
        self._seen[item.key] = item

    def take(self, kind: Kind, difference: Difference[Any]) -> tuple[Change, ...]:
        """Return what follows from what a kind's reflector tells: upserts before deletes, Errors and Synced behind."""
        errors = dict(self._errors)
        changes: list[Change] = []
        for value in difference.upserts:
            changes += self._upserted(value)
        for identity in difference.deletes:
            changes += self._deleted(object_key(kind, identity))
        if errors != self._errors:
            changes.append(Errors(tuple(error for found in self._errors.values() for error in found)))
        if difference.is_listed and kind in self._unsynced:
            changes += self._listed(kind)
        return tuple(changes)

    def restore(self, objects: Iterable[Object]) -> tuple[Change, ...]:
        """Put objects of an earlier day in force, those of kinds that have not been listed; to be called once.

        Synced follows at once, so that whoever waits for it goes on from them, and again when all has been listed.
        """
        missed = [item for item in objects if item.key.kind in self._unsynced]
        for item in missed:
            self._restored.setdefault(item.key.kind, {})[item.key] = None
            if is_custom(item.key.kind):
                self._delivered[item.key] = item
        return (*(Upsert(item) for item in missed), Synced())

    def _upserted(self, value: Told) -> list[Change]:
        key = value.key
        self._restored.get(key.kind, {}).pop(key, None)
        if not isinstance(value, ApiObject):
            return [Upsert(value)]
        self._seen[key] = value
        if is_cluster_gateway(key):
            # The leader brings it to kube-system; there it is judged.
            return []
        self._errors.pop(key, None)
        if value.decoded.errors:
            self._errors[key] = value.decoded.errors
        item = value.decoded.object
        if item is None or self._delivered.get(key) == item:
            return []
        self._delivered[key] = item
        return [Upsert(item)]

    def _deleted(self, key: ObjectKey) -> list[Change]:
        if not is_custom(key.kind):
            return [Delete(key)]
        self._seen.pop(key, None)
        self._errors.pop(key, None)
        # Refused from the first, it was never told.
        return [Delete(key)] if self._delivered.pop(key, None) is not None else []

    def _listed(self, kind: Kind) -> list[Change]:
        del self._unsynced[kind]
        gone = self._restored.pop(kind, {})
        for key in gone:
            self._delivered.pop(key, None)
        synced = [] if self._unsynced else [Synced()]
        return [*(Delete(key) for key in gone), *synced]


def object_key(kind: Kind, identity: str) -> ObjectKey:
    """Read a reflector's identity: `namespace/name`, or `name`."""
    namespace, _, name = identity.rpartition("/")
    return ObjectKey(kind, namespace, name)
