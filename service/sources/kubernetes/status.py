"""Status of our objects by server-side apply, under the term of the leader that says it.

The resource definitions refuse a status of a lower term than the one recorded, so that a leader that was stopped in the
middle of a write cannot undo what its successor has said. Terms start again only where every elector lost its disk:
whoever is still refused after longer than any lease has outlived every old leader, and removes what one has left.
"""

import logging
from collections.abc import Callable
from typing import Any

import msgspec

from service.model.objects import Kind, ObjectKey
from service.model.validity import WrittenStatus
from service.sources.kubernetes.api_object import decode_own
from service.sources.kubernetes.api_server import APPLY, JSON_PATCH, ApiError, ApiServer
from service.sources.kubernetes.custom_resource import APPLY_QUERY, manifest, object_path
from service.sources.kubernetes.gateway_mirror import GATEWAY
from service.sources.kubernetes.ledger import ObjectLedger
from service.sources.kubernetes.status_document import complete_status
from service.sources.timestamp import microseconds_from_ns

_log = logging.getLogger(__name__)

_STALE_TERM_NS = 20_000_000_000
"""Longer than every lease: who still leads after this is no old leader."""


class StatusApplier:
    """Writes into one API server. `ledger` says what is there, and is told what was written."""

    def __init__(
        self, api: ApiServer, ledger: ObjectLedger, *, clock: Callable[[], int], wall_clock: Callable[[], int]
    ) -> None:
        """Both clocks in nanoseconds: `clock` never steps, `wall_clock` is Unix time and gives transition times."""
        self._api = api
        self._ledger = ledger
        self._clock = clock
        self._wall_clock = wall_clock
        self._refused_ns: dict[ObjectKey, int] = {}
        """Since when our status is refused as an older leader's."""

    def forget(self, key: ObjectKey) -> None:
        """The object is gone: one made anew under its name has refused nothing."""
        self._refused_ns.pop(key, None)

    async def write(self, key: ObjectKey, status: dict[str, Any], *, term: int) -> None:
        """Apply an object's status. Raises TransientError; an object that is gone needs none.

        An AnthosNetworkGatewayNode is created where it is missing: it is nothing but its status.
        """
        live = self._ledger.seen(key)
        if live is None and key.kind is not Kind.NODE:
            return
        document = manifest(key, live.uid if live else "")
        generation = live.generation if live else 1
        before = live.status if live else {}
        now = microseconds_from_ns(self._wall_clock())
        document["status"] = complete_status(status, before, generation=generation, term=term, now=now)
        try:
            await self._apply(key, document, term)
        except ApiError as error:
            if error.status != 404:
                raise
            if key.kind is Kind.NODE:
                await self._api.patch(object_path(key), manifest(key), APPLY, APPLY_QUERY)
                # The uid is of the object that was there before.
                document["metadata"].pop("uid", None)
                await self._apply(key, document, term)

    async def replace(self, written: WrittenStatus) -> None:
        """Apply a status to the version of the object that `written` names. Raises TransientError.

        Nothing happens where the object has changed since, or is gone (rule V3). The recorded term stays: nobody leads.
        """
        key, live = written.key, self._ledger.seen(written.key)
        if live is None:
            return
        document = manifest(key, live.uid)
        document["metadata"]["resourceVersion"] = written.version
        recorded = live.status.get("leaderTerm")
        term, now = recorded if isinstance(recorded, int) else 0, microseconds_from_ns(self._wall_clock())
        document["status"] = complete_status(
            written.status, live.status, generation=live.generation, term=term, now=now
        )
        try:
            await self._send(key, document)
        except ApiError as error:
            # 422: of a leader whose status has not come here yet.
            if error.status not in (404, 409, 422):
                raise

    def written(self) -> tuple[WrittenStatus, ...]:
        """The statuses as last seen, of the objects that a leader reports on."""
        return tuple(
            WrittenStatus(item.key, item.status, item.version)
            for kind in (Kind.GATEWAY, Kind.POLICY, Kind.NODE)
            for item in self._ledger.all_seen(kind)
            if kind is not Kind.GATEWAY or item.key == GATEWAY
        )

    async def delete(self, key: ObjectKey) -> None:
        """The object is gone, and its status with it; a node's object is nothing else. Raises TransientError."""
        if key.kind is Kind.NODE:
            await self._api.delete(object_path(key))

    async def _apply(self, key: ObjectKey, document: dict[str, Any], term: int) -> None:
        try:
            await self._send(key, document)
        except ApiError as error:
            if error.status == 422 and "leaderTerm" in error.message:
                await self._supersede(key, term)
            raise
        self._refused_ns.pop(key, None)

    async def _send(self, key: ObjectKey, document: dict[str, Any]) -> None:
        body = await self._api.patch(f"{object_path(key)}/status", document, APPLY, APPLY_QUERY)
        self._ledger.note_written(decode_own(msgspec.Raw(body), key.kind).value)

    async def _supersede(self, key: ObjectKey, term: int) -> None:
        """Remove a status of a higher term than ours, once it is certain that no living leader wrote it."""
        now_ns = self._clock()
        since_ns = self._refused_ns.setdefault(key, now_ns)
        if now_ns - since_ns < _STALE_TERM_NS:
            return
        live = self._ledger.seen(key)
        recorded = live.status.get("leaderTerm") if live else None
        if not isinstance(recorded, int) or recorded <= term:
            return
        _log.warning("%s %s: its status is of term %d, we lead in term %d: removed", key.kind, key, recorded, term)
        steps = [
            # Only that very status: one that was written meanwhile is a living leader's.
            {"op": "test", "path": "/status/leaderTerm", "value": recorded},
            {"op": "remove", "path": "/status"},
        ]
        await self._api.patch(f"{object_path(key)}/status", steps, JSON_PATCH)
