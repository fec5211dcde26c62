"""Kubernetes as a source: objects by list and watch, status by server-side apply, Events.

Agents follow of pods only those of their own node, and of gateways only the one in kube-system; controllers follow
everything. This file joins the pieces: reflectors tell differences, the ledger makes changes of them, a queue hands
them to whoever asks. What is written goes by the status, the mirror and the events of the same API server.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import IPv4Address
from time import monotonic_ns, time_ns
from typing import Any

from service.model.object_event import ObjectEvent
from service.model.objects import Change, Kind, ObjectKey
from service.model.validity import Validity, WrittenStatus
from service.sources.kubernetes.api_server import ApiServer, connect
from service.sources.kubernetes.custom_resource import FIELD_MANAGER
from service.sources.kubernetes.events import EventPoster
from service.sources.kubernetes.followed import followed_resources, followed_switches
from service.sources.kubernetes.ledger import ObjectLedger, object_key
from service.sources.kubernetes.mirror import GatewayMirror
from service.sources.kubernetes.object_cache import ObjectCache
from service.sources.kubernetes.reflector import Reflector, ReflectorTiming
from service.sources.kubernetes.resource import Difference
from service.sources.kubernetes.status import StatusApplier
from service.sources.kubernetes.validity import ValidityLease
from service.sources.source_state import SourceState
from service.sources.timestamp import timestamp_from_ns

_log = logging.getLogger(__name__)

_QUEUE_MAX = 64
"""Batches between the watches and whoever takes them; when it is full the watches wait."""
RESTORE_AFTER_S = 3.0
"""How long an agent that starts waits for the API server before it goes on from what it knew last; a keeper gives its
addresses up later than that (`lease.agent_grace_ms`)."""


class KubernetesSource:
    """One API server's objects. `node` names the one whose pods are followed; None follows everything.

    `namespace` is where the validity of the statuses is kept.
    """

    def __init__(
        self,
        api: ApiServer,
        *,
        node: str | None,
        reporter: str = "",
        namespace: str = "egressgw-system",
        timing: ReflectorTiming | None = None,
        cache: ObjectCache | None = None,
        clock: Callable[[], int] = monotonic_ns,
        wall_clock: Callable[[], int] = time_ns,
    ) -> None:
        """`reporter` is how Events name this process. `clock` never steps; both count nanoseconds."""
        self._api = api
        self._node = node
        self._queue: asyncio.Queue[tuple[Change, ...]] = asyncio.Queue(_QUEUE_MAX)
        self._cache = cache
        self._restored_ns = 0
        """When what was restored from the cache had been written; 0 where nothing was."""
        resources = followed_resources(node)
        self._ledger = ObjectLedger(resources)
        self._status = StatusApplier(api, self._ledger, clock=clock, wall_clock=wall_clock)
        self._validity = ValidityLease(api, namespace, wall_clock=wall_clock)
        self._mirror = GatewayMirror(api, self._ledger)
        self._events = EventPoster(api, reporter=reporter or node or FIELD_MANAGER, wall_clock=wall_clock)
        self.reflectors = {
            kind: Reflector(api, resource, partial(self._deliver, kind), timing=timing)
            for kind, resource in resources.items()
        }
        self._switches = Reflector(api, followed_switches(), self._mirror.take_switches, timing=timing)

    async def run(self) -> None:
        """Follow every resource until cancelled."""
        async with asyncio.TaskGroup() as group:
            for kind, reflector in self.reflectors.items():
                group.create_task(reflector.run(), name=f"follow {kind}")
            if self._node is None:
                group.create_task(self._switches.run(), name="follow Cluster")
            if self._cache is not None:
                group.create_task(self._cache.run(), name="write the object cache")
                group.create_task(self._restore(self._cache), name="read the object cache")

    async def _restore(self, cache: ObjectCache) -> None:
        """Tell what was known last, of each kind of which the API server has said nothing so far."""
        remembered = await asyncio.to_thread(cache.load)
        await asyncio.sleep(RESTORE_AFTER_S)
        if remembered is None or self._ledger.is_synced:
            return
        changes = self._ledger.restore(remembered.objects)
        self._restored_ns = remembered.written_ns
        _log.warning("the API server does not answer: going on from the %d objects known last", len(changes) - 1)
        cache.note(changes, is_news=False)
        await self._queue.put(changes)

    async def _deliver(self, kind: Kind, difference: Difference[Any]) -> None:
        for identity in difference.deletes:
            self._status.forget(object_key(kind, identity))
        changes = self._ledger.take(kind, difference)
        if changes:
            if self._cache is not None:
                self._cache.note(changes)
            await self._queue.put(changes)

    def state(self) -> SourceState:
        """Whether what was told is still true."""
        troubles = {kind: reflector.trouble for kind, reflector in self.reflectors.items() if reflector.trouble}
        trouble = "; ".join(f"{kind}: {said}" for kind, said in troubles.items())
        is_restored = self._restored_ns and not self._ledger.is_synced
        return SourceState(trouble, timestamp_from_ns(self._restored_ns) if is_restored else "")

    def server_address(self) -> IPv4Address | None:
        """The API server's, where it is named by its address."""
        return self._api.address

    async def changes(self) -> AsyncGenerator[tuple[Change, ...], None]:
        """Yield everything once, in batches, ending in Synced; then changes as they come. Needs `run` beside it."""
        while True:
            yield await self._queue.get()
            # A full queue never waits: the others get their turn between two batches all the same.
            await asyncio.sleep(0)

    async def write_status(self, key: ObjectKey, status: dict[str, Any], *, created: str = "", term: int = 0) -> None:
        """Apply an object's status. Raises TransientError; an object that is gone needs none.

        An AnthosNetworkGatewayNode is created where it is missing. `created` is the API server's own affair.
        """
        await self._status.write(key, status, term=term)

    async def recorded(self) -> tuple[ObjectKey, ...]:
        """The AnthosNetworkGatewayNode objects as last seen; other statuses go with their objects."""
        return tuple(item.key for item in self._ledger.all_seen(Kind.NODE))

    async def delete_status(self, key: ObjectKey) -> None:
        """The object is gone, and its status with it; a node's object is nothing else. Raises TransientError."""
        await self._status.delete(key)

    async def read_validity(self) -> Validity | None:
        """Who answers for the statuses, by the Lease; None where there is none yet. Raises TransientError."""
        return await self._validity.read()

    async def renew_validity(self, claim: Validity, seen: Validity | None) -> Validity | None:
        """Replace the Lease that was seen; None where somebody else was first. Raises TransientError."""
        return await self._validity.renew(claim, seen)

    async def written_statuses(self) -> tuple[WrittenStatus, ...]:
        """The statuses as last seen."""
        return self._status.written()

    async def replace_status(self, written: WrittenStatus) -> None:
        """Apply a status if the object is still the version that it names. Raises TransientError."""
        await self._status.replace(written)

    async def mirror_gateway(self) -> None:
        """Bring the gateway in kube-system in step with the cluster namespace's. Raises TransientError."""
        await self._mirror.step()

    async def post_event(self, event: ObjectEvent) -> None:
        """Create the Event, or count it up where it exists. Raises TransientError."""
        live = self._ledger.seen(event.regarding)
        await self._events.post(event, uid=event.uid or (live.uid if live else ""))


@asynccontextmanager
async def open_kubernetes(
    *, node: str | None, reporter: str, namespace: str, cache: ObjectCache | None = None
) -> AsyncIterator[KubernetesSource]:
    """Follow the API server for as long as the context lasts. Raises OperatorError where no credentials are found."""
    async with connect() as api, asyncio.TaskGroup() as group:
        source = KubernetesSource(api, node=node, reporter=reporter, namespace=namespace, cache=cache)
        task = group.create_task(source.run(), name="kubernetes source")
        try:
            yield source
        finally:
            task.cancel()
