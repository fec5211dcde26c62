"""Kubernetes as a source: objects by list and watch, status by server-side apply, Events.

Agents follow of pods only those of their own node, and of gateways only the one in kube-system; controllers follow
everything.
Status is written by the leader, with its term: the resource definitions refuse one of a lower term, so that a leader
that was stopped in the middle of a write cannot undo what its successor has said.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic_ns, time_ns
from typing import Any

import msgspec

from service.model.errors import InvariantError, ObjectError
from service.model.object_event import ObjectEvent
from service.model.objects import (
    API_GROUP,
    API_VERSION,
    GATEWAY_NAMESPACE,
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
from service.sources.kubernetes.api_object import (
    ApiObject,
    ClusterSwitch,
    decode_cluster,
    decode_cluster_node,
    decode_namespace,
    decode_own,
    decode_pod,
    decode_service_range,
)
from service.sources.kubernetes.api_server import APPLY, JSON_PATCH, MERGE, ApiError, ApiServer, connect
from service.sources.kubernetes.gateway_mirror import (
    CLUSTERS_PATH,
    GATEWAY,
    MIRRORED_FROM,
    SWITCH,
    Withdraw,
    is_cluster_gateway,
    mirror_step,
)
from service.sources.kubernetes.object_cache import ObjectCache
from service.sources.kubernetes.reflector import Difference, Reflector, ReflectorTiming, Resource
from service.sources.kubernetes.status_document import complete_status
from service.sources.source_state import SourceState
from service.sources.timestamp import timestamp_from_ns

_log = logging.getLogger(__name__)

FIELD_MANAGER = "egressgw-controller"
REPORTING_CONTROLLER = f"{API_GROUP}/{FIELD_MANAGER}"
_PLURALS = {
    Kind.GATEWAY: "anthosnetworkgateways",
    Kind.NODE: "anthosnetworkgatewaynodes",
    Kind.POLICY: "egressnatpolicies",
}
_EVENTS = "/apis/events.k8s.io/v1"
_SERVICE_RANGES = "/apis/networking.k8s.io/v1/servicecidrs"
"""From Kubernetes 1.33 on; older servers do not know them."""
_QUEUE_MAX = 64
"""Batches between the watches and whoever takes them; when it is full the watches wait."""
_STALE_TERM_NS = 20_000_000_000
"""Longer than every lease: who still leads after this is no old leader."""
RESTORE_AFTER_S = 3.0
"""How long an agent that starts waits for the API server before it goes on from what it knew last; a keeper gives its
addresses up later than that (`lease.agent_grace_ms`)."""
_NOTE_MAX = 1000
"""Bytes; the API server takes 1024."""


class KubernetesSource:
    """One API server's objects. `node` names the one whose pods are followed; None follows everything."""

    def __init__(
        self,
        api: ApiServer,
        *,
        node: str | None,
        reporter: str = "",
        timing: ReflectorTiming | None = None,
        cache: ObjectCache | None = None,
    ) -> None:
        self._api = api
        self._node = node
        self._reporter = reporter or node or FIELD_MANAGER
        self._queue: asyncio.Queue[tuple[Change, ...]] = asyncio.Queue(_QUEUE_MAX)
        self._own: dict[ObjectKey, ApiObject] = {}
        """Our custom resources as last seen, refused ones too."""
        self._delivered: dict[ObjectKey, Object] = {}
        """The last good version of each of them."""
        self._errors: dict[ObjectKey, tuple[ObjectError, ...]] = {}
        self._switches: dict[str, ClusterSwitch] = {}
        """Cluster objects by namespace and name."""
        self._cache = cache
        self._restored: dict[Kind, dict[ObjectKey, None]] = {}
        """Objects told from the cache of which the API server has said nothing yet."""
        self._restored_ns = 0
        self._refused_ns: dict[ObjectKey, int] = {}
        """Since when our status is refused as an older leader's."""
        self.reflectors = self._make_reflectors(timing)
        self._unsynced = set(self.reflectors)
        self._switch_reflector = self._make_switch_reflector(timing)
        self._are_switches_known = False

    def _make_reflectors(self, timing: ReflectorTiming | None) -> dict[Kind, Reflector[Any]]:
        # An agent looks at one gateway object and its own pods: what it reads does not grow with the cluster.
        is_agent = self._node is not None
        gateways = _collection(Kind.GATEWAY, GATEWAY_NAMESPACE if is_agent else "")
        pods = f"spec.nodeName={self._node}" if is_agent else ""
        resources: dict[Kind, Resource[Any]] = {
            Kind.NAMESPACE: Resource("/api/v1/namespaces", decode_namespace),
            Kind.GATEWAY: Resource(gateways, partial(decode_own, kind=Kind.GATEWAY)),
            Kind.POLICY: Resource(_collection(Kind.POLICY), partial(decode_own, kind=Kind.POLICY)),
            Kind.POD: Resource("/api/v1/pods", decode_pod, pods),
            Kind.CLUSTER_NODE: Resource("/api/v1/nodes", decode_cluster_node),
            Kind.SERVICE_RANGE: Resource(_SERVICE_RANGES, decode_service_range, is_optional=True),
        }
        if not is_agent:
            path = _collection(Kind.NODE, GATEWAY_NAMESPACE)
            resources[Kind.NODE] = Resource(path, partial(decode_own, kind=Kind.NODE))
        return {
            kind: Reflector(self._api, resource, partial(self._deliver, kind), timing=timing)
            for kind, resource in resources.items()
        }

    def _make_switch_reflector(self, timing: ReflectorTiming | None) -> Reflector[ClusterSwitch]:
        decode = partial(decode_cluster, annotation=SWITCH)
        resource = Resource(CLUSTERS_PATH, decode, is_optional=True)
        return Reflector(self._api, resource, self._take_switches, timing=timing)

    async def run(self) -> None:
        """Follow every resource until cancelled."""
        async with asyncio.TaskGroup() as group:
            for kind, reflector in self.reflectors.items():
                group.create_task(reflector.run(), name=f"follow {kind}")
            if self._node is None:
                group.create_task(self._switch_reflector.run(), name="follow Cluster")
            if self._cache is not None:
                group.create_task(self._cache.run(), name="write the object cache")
                group.create_task(self._restore(self._cache), name="read the object cache")

    async def _restore(self, cache: ObjectCache) -> None:
        """Tell what was known last, of each kind of which the API server has said nothing so far."""
        remembered = await asyncio.to_thread(cache.load)
        await asyncio.sleep(RESTORE_AFTER_S)
        if remembered is None or not self._unsynced:
            return
        missed = [item for item in remembered.objects if item.key.kind in self._unsynced]
        for item in missed:
            self._restored.setdefault(item.key.kind, {})[item.key] = None
            if item.key.kind in _PLURALS:
                self._delivered[item.key] = item
        self._restored_ns = remembered.written_ns
        _log.warning("the API server does not answer: going on from the %d objects known last", len(missed))
        changes: tuple[Change, ...] = (*(Upsert(item) for item in missed), Synced())
        cache.note(changes, is_news=False)
        await self._queue.put(changes)

    def state(self) -> SourceState:
        """Whether what was told is still true."""
        troubles = {kind: reflector.trouble for kind, reflector in self.reflectors.items() if reflector.trouble}
        trouble = "; ".join(f"{kind}: {said}" for kind, said in troubles.items())
        is_restored = self._restored_ns and self._unsynced
        return SourceState(trouble, timestamp_from_ns(self._restored_ns) if is_restored else "")

    async def changes(self) -> AsyncGenerator[tuple[Change, ...], None]:
        """Yield everything once, in batches, ending in Synced; then changes as they come. Needs `run` beside it."""
        while True:
            yield await self._queue.get()
            # A full queue never waits: the others get their turn between two batches all the same.
            await asyncio.sleep(0)

    async def write_status(self, key: ObjectKey, status: dict[str, Any], *, created: str = "", term: int = 0) -> None:
        """Apply an object's status. Raises TransientError; an object that is gone needs none.

        An AnthosNetworkGatewayNode is created where it is missing.
        """
        live = self._own.get(key)
        if live is None and key.kind is not Kind.NODE:
            return
        document = _manifest(key, live.uid if live else "")
        generation = live.generation if live else 1
        before = live.status if live else {}
        document["status"] = complete_status(status, before, generation=generation, term=term, now=_now())
        try:
            await self._apply(key, document, term)
        except ApiError as error:
            if error.status != 404:
                raise
            if key.kind is Kind.NODE:
                await self._api.patch(_path(key), _manifest(key), APPLY, _APPLY_QUERY)
                document["metadata"].pop("uid", None)
                await self._apply(key, document, term)

    async def _apply(self, key: ObjectKey, document: dict[str, Any], term: int) -> None:
        try:
            body = await self._api.patch(f"{_path(key)}/status", document, APPLY, _APPLY_QUERY)
        except ApiError as error:
            if error.status == 422 and "leaderTerm" in error.message:
                await self._supersede(key, term, error)
            raise
        self._refused_ns.pop(key, None)
        # The watch will bring it too, but perhaps only after the next write.
        self._own[key] = decode_own(msgspec.Raw(body), key.kind).value

    async def _supersede(self, key: ObjectKey, term: int, error: ApiError) -> None:
        """Remove a status of a higher term than ours, once it is certain that no living leader wrote it.

        Terms start again where every elector lost its disk. Whoever still leads after the longest lease is the leader.
        """
        since_ns = self._refused_ns.setdefault(key, monotonic_ns())
        if monotonic_ns() - since_ns < _STALE_TERM_NS:
            return
        live = self._own.get(key)
        recorded = live.status.get("leaderTerm") if live else None
        if not isinstance(recorded, int) or recorded <= term:
            return
        _log.warning("%s %s: its status is of term %d, we lead in term %d: removed", key.kind, key, recorded, term)
        steps = [
            {"op": "test", "path": "/status/leaderTerm", "value": recorded},
            {"op": "remove", "path": "/status"},
        ]
        await self._api.patch(f"{_path(key)}/status", steps, JSON_PATCH)

    def recorded_nodes(self) -> tuple[ObjectKey, ...]:
        """The AnthosNetworkGatewayNode objects as last seen."""
        return tuple(key for key in self._own if key.kind is Kind.NODE)

    async def delete_status(self, key: ObjectKey) -> None:
        """The object is gone, and its status with it; a node's object is nothing else. Raises TransientError."""
        if key.kind is Kind.NODE:
            await self._api.delete(_path(key))

    async def mirror_gateway(self) -> None:
        """Bring the gateway in kube-system in step with the cluster namespace's. Raises TransientError."""
        if self._unsynced or not self._are_switches_known:
            return
        gateways = [item for key, item in self._own.items() if key.kind is Kind.GATEWAY]
        switches: dict[str, bool] = {}
        for cluster in self._switches.values():
            switches[cluster.namespace] = switches.get(cluster.namespace, True) and cluster.is_on
        step = mirror_step(gateways, switches)
        if step is None:
            return
        if isinstance(step, Withdraw):
            _log.info("%s %s: removed, as the one it followed is gone or switched off", GATEWAY.kind, GATEWAY)
            await self._api.delete(_path(GATEWAY), uid=step.uid)
            return
        document = _manifest(GATEWAY)
        document["metadata"]["annotations"] = {MIRRORED_FROM: step.namespace}
        document["spec"] = step.spec
        body = await self._api.patch(_path(GATEWAY), document, APPLY, _APPLY_QUERY)
        _log.info("%s %s: follows the one in %s", GATEWAY.kind, GATEWAY, step.namespace)
        self._own[GATEWAY] = decode_own(msgspec.Raw(body), Kind.GATEWAY).value

    async def post_event(self, event: ObjectEvent) -> None:
        """Create the Event, or count it up where it exists. Raises TransientError.

        Its name is made of what it says, so another leader that says the same counts up the same Event.
        """
        live = self._own.get(event.regarding)
        document = self._event(event, live.uid if live else "")
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
        series = {"count": count + 1, "lastObservedTime": _now()}
        await self._api.patch(path, {"series": series}, MERGE)

    def _event(self, event: ObjectEvent, uid: str) -> dict[str, Any]:
        key = event.regarding
        content = "\0".join((str(key.kind), str(key), uid, event.reason, event.note))
        name = f"{key.name[:200]}.{hashlib.blake2s(content.encode(), digest_size=8).hexdigest()}"
        regarding = {"apiVersion": API_VERSION, "kind": str(key.kind), "name": key.name, "uid": uid}
        if key.namespace:
            regarding["namespace"] = key.namespace
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            # Events of cluster-scoped objects live in `default`.
            "metadata": {"name": name, "namespace": key.namespace or "default"},
            "eventTime": _now(),
            "reportingController": REPORTING_CONTROLLER,
            "reportingInstance": self._reporter[:128],
            "action": event.action,
            "reason": event.reason,
            "note": _shortened(event.note),
            "type": "Warning" if event.is_warning else "Normal",
            "regarding": {field: value for field, value in regarding.items() if value},
        }

    async def _take_switches(self, difference: Difference[ClusterSwitch]) -> None:
        for cluster in difference.upserts:
            self._switches[cluster.identity] = cluster
        for identity in difference.deletes:
            self._switches.pop(identity, None)
        self._are_switches_known |= difference.is_listed

    # -- from reflectors to changes --

    async def _deliver(self, kind: Kind, difference: Difference[Any]) -> None:
        errors = dict(self._errors)
        changes: list[Change] = []
        for value in difference.upserts:
            changes += self._take(value)
        for identity in difference.deletes:
            changes += self._drop(_key(kind, identity))
        if errors != self._errors:
            changes.append(Errors(tuple(error for found in self._errors.values() for error in found)))
        if difference.is_listed and kind in self._unsynced:
            self._unsynced.discard(kind)
            for key in self._restored.pop(kind, {}):
                self._delivered.pop(key, None)
                changes.append(Delete(key))
            if not self._unsynced:
                changes.append(Synced())
        if changes:
            if self._cache is not None:
                self._cache.note(changes)
            await self._queue.put(tuple(changes))

    def _take(self, value: Pod | Namespace | ClusterNode | ServiceRange | ApiObject) -> list[Change]:
        key = value.key
        self._restored.get(key.kind, {}).pop(key, None)
        if not isinstance(value, ApiObject):
            return [Upsert(value)]
        self._own[key] = value
        if is_cluster_gateway(key):
            # The leader brings it to kube-system; there it is judged.
            return []
        self._errors.pop(key, None)
        if value.decoded.errors:
            self._errors[key] = value.decoded.errors
        item = value.decoded.object
        # A refused version changes nothing: the last good one stays in force.
        if item is None or self._delivered.get(key) == item:
            return []
        self._delivered[key] = item
        return [Upsert(item)]

    def _drop(self, key: ObjectKey) -> list[Change]:
        if key.kind not in _PLURALS:
            return [Delete(key)]
        self._own.pop(key, None)
        self._errors.pop(key, None)
        self._refused_ns.pop(key, None)
        return [Delete(key)] if self._delivered.pop(key, None) is not None else []


@asynccontextmanager
async def open_kubernetes(
    *, node: str | None, reporter: str, cache: ObjectCache | None = None
) -> AsyncIterator[KubernetesSource]:
    """Follow the API server for as long as the context lasts. Raises OperatorError where no credentials are found."""
    async with connect() as api, asyncio.TaskGroup() as group:
        source = KubernetesSource(api, node=node, reporter=reporter, cache=cache)
        task = group.create_task(source.run(), name="kubernetes source")
        try:
            yield source
        finally:
            task.cancel()


_APPLY_QUERY = {"fieldManager": FIELD_MANAGER, "force": "true"}


def _collection(kind: Kind, namespace: str = "") -> str:
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{API_VERSION}{scope}/{_PLURALS[kind]}"


def _path(key: ObjectKey) -> str:
    if key.kind not in _PLURALS:
        raise InvariantError(f"{key.kind} {key} is not ours to write")
    return f"{_collection(key.kind, key.namespace)}/{key.name}"


def _key(kind: Kind, identity: str) -> ObjectKey:
    namespace, _, name = identity.rpartition("/")
    return ObjectKey(kind, namespace, name)


def _manifest(key: ObjectKey, uid: str = "") -> dict[str, Any]:
    metadata = {"name": key.name, "namespace": key.namespace, "uid": uid}
    return {
        "apiVersion": API_VERSION,
        "kind": str(key.kind),
        "metadata": {field: value for field, value in metadata.items() if value},
    }


def _now() -> str:
    """RFC 3339 with microseconds, as Events want it."""
    return f"{timestamp_from_ns(time_ns())[:-4]}Z"


def _shortened(note: str) -> str:
    data = note.encode()
    return note if len(data) <= _NOTE_MAX else data[:_NOTE_MAX].decode("utf-8", "ignore") + "..."
