"""List and watch one resource: a cache that follows the API server, and tells what changed.

Lists come in pages, a watch goes on from the list's version. Whatever ends a watch (the server's own limit, a cut or
silent connection, a restart), the next one goes on from the last version seen; only `410 Gone` lists again, and then
only what differs from the cache is told. Between objects the event loop gets its turn every few milliseconds, so that
ten thousand pods hold up nobody.
"""

import asyncio
import gc
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from time import perf_counter
from typing import Generic, TypeVar

import msgspec

from service.sources.kubernetes.api_server import ApiError, ApiServer, Status
from service.sources.kubernetes.resource import Difference, Item, Resource

_log = logging.getLogger(__name__)

V = TypeVar("V")

_PAGE_START = 200
_PAGE_BYTES = 512 << 10
"""Pages are made about this large: what one takes to split is time the loop stands still."""
_PAGE_ITEMS_MIN, _PAGE_ITEMS_MAX = 20, 500
_LINE_BYTES_MAX = 32 << 20
"""etcd stores no object larger than 1.5 MiB by default; a line beyond this is no event."""
_SLICE_S = 0.004
_BATCH = 200
"""Changes told at once; whoever takes them works on them without a pause."""


@dataclass(frozen=True, slots=True)
class ReflectorTiming:
    """How patient a reflector is. Seconds."""

    watch_s: float = 300.0
    """How long a watch is asked for; up to twice this, so that watches do not end together."""
    idle_s: float = 90.0
    """A watch without a word for so long is begun anew. Bookmarks come each minute where nothing happens."""
    backoff_min_s: float = 0.1
    backoff_max_s: float = 1.5
    """Short: an API server that is back is followed within seconds, and one that is not costs a refused connection."""
    watch_min_s: float = 1.0
    """A watch that ends sooner counts as a failure, whatever it says: else an odd server is called without pause."""
    absent_s: float = 15.0
    """How often to look whether the cluster has come to know an optional kind."""


class _ListMetadata(msgspec.Struct):
    version: str = msgspec.field(name="resourceVersion", default="")
    token: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct):
    metadata: _ListMetadata
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Metadata(msgspec.Struct):
    version: str = msgspec.field(name="resourceVersion", default="")


class _Versioned(msgspec.Struct):
    metadata: _Metadata


_page_decoder = msgspec.json.Decoder(_Page)
_event_decoder = msgspec.json.Decoder(_Event)
_versioned_decoder = msgspec.json.Decoder(_Versioned)
_status_decoder = msgspec.json.Decoder(Status)


class TimeSlice:
    """Gives the event loop its turn after every few milliseconds of work."""

    def __init__(self) -> None:
        self._until = perf_counter() + _SLICE_S

    async def pause_if_due(self) -> None:
        """Let others run if this has worked for a slice without a pause; else return at once."""
        if perf_counter() >= self._until:
            await asyncio.sleep(0)
            self._until = perf_counter() + _SLICE_S


@dataclass(slots=True)
class _Changed(Generic[V]):
    """Net changes of one piece of a watch."""

    upserts: dict[str, V] = field(default_factory=dict)
    deletes: dict[str, None] = field(default_factory=dict)

    def difference(self) -> Difference[V]:
        return Difference(tuple(self.upserts.values()), tuple(self.deletes))


class Reflector(Generic[V]):
    """Follows one resource. `deliver` may wait: then the watch waits too, and is begun anew if it fell behind."""

    def __init__(
        self,
        api: ApiServer,
        resource: Resource[V],
        deliver: Callable[[Difference[V]], Awaitable[None]],
        *,
        timing: ReflectorTiming | None = None,
    ) -> None:
        self._api = api
        self._resource = resource
        self._deliver = deliver
        self._timing = timing or ReflectorTiming()
        self._known: dict[str, V] = {}
        self._version = ""
        self._failures = 0
        self._is_paged = True
        self._page_items = _PAGE_START
        self.trouble = ""
        """Why the cache may be behind; empty while it follows."""
        self.lists = 0
        """Lists completed."""

    async def run(self) -> None:
        """Follow the resource until cancelled."""
        while True:
            try:
                if not self._version:
                    self._version = await self._list()
                    self._failures = 0
                    self._note_following()
                await self._watch()
            except ApiError as error:
                if error.status in (403, 404) and self._resource.is_optional:
                    await self._wait_for_kind(error)
                else:
                    await self._back_off(error)

    async def _wait_for_kind(self, error: ApiError) -> None:
        self._version = ""
        # A right that is lacking can be granted; that a kind is unknown is no trouble.
        if error.status == 403:
            self._tell(error)
        if self._known or not self.lists:
            gone = tuple(self._known)
            self._known.clear()
            self.lists += 1
            await self._deliver(Difference(deletes=gone, is_listed=True))
        await asyncio.sleep(self._timing.absent_s * random.uniform(0.5, 1))

    async def _list(self) -> str:
        """Bring the cache in step with all that exists; return the version it shows."""
        seen: dict[str, None] = {}
        fresh: list[V] = []
        page, pause = _Page(_ListMetadata()), TimeSlice()
        while True:
            page = await self._page(page.metadata.token)
            for raw in page.items or ():
                item = self._decode(raw)
                if item is not None:
                    seen[item.identity] = None
                    if self._is_news(item):
                        self._known[item.identity] = item.value
                        fresh.append(item.value)
                if len(fresh) >= _BATCH:
                    await self._deliver(Difference(tuple(fresh)))
                    fresh.clear()
                await pause.pause_if_due()
            if not page.metadata.token:
                break
            if not self.lists:
                # The cache is for ever, and so is what others make of it: full garbage collections, which stop the loop
                # for as long as the heap is large, need not walk it. The first time only: so what leaks is bounded.
                gc.collect(1)
                gc.freeze()
            # Before the next page, which may fail: what is in the cache has been told.
            if fresh:
                await self._deliver(Difference(tuple(fresh)))
                fresh.clear()
        gone = tuple(identity for identity in self._known if identity not in seen)
        for identity in gone:
            del self._known[identity]
        await self._deliver(Difference(tuple(fresh), gone, is_listed=True))
        self._is_paged = True
        self.lists += 1
        return page.metadata.version

    def _is_news(self, item: Item[V]) -> bool:
        # A value may well be None, as of an object that cannot be read: it is there all the same.
        return item.identity not in self._known or self._known[item.identity] != item.value

    async def _page(self, token: str) -> _Page:
        query = self._query()
        if self._is_paged:
            query["limit"] = str(self._page_items)
        if token:
            query["continue"] = token
        try:
            body = await self._api.get(self._resource.path, query)
            page = _page_decoder.decode(body)
        except ApiError as error:
            if error.status == 410 and token:
                # The list took longer than the server keeps its state: the next one in a single piece.
                self._is_paged = False
            raise
        except msgspec.MsgspecError as error:
            raise ApiError(0, "Malformed", f"the answer is no list: {error}") from error
        if page.items:
            fitting = _PAGE_BYTES * len(page.items) // len(body)
            self._page_items = max(_PAGE_ITEMS_MIN, min(_PAGE_ITEMS_MAX, fitting))
        return page

    async def _watch(self) -> None:
        """Follow changes until the server ends the watch. Raises ApiError where it failed or ended at once."""
        timing = self._timing
        started_s = perf_counter()
        query = self._query() | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(int(timing.watch_s * random.uniform(1, 2)) or 1),
        }
        rest = b""
        async with aclosing(self._api.stream(self._resource.path, query, idle_s=timing.idle_s)) as pieces:
            async for piece in pieces:
                self._note_following()
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > _LINE_BYTES_MAX:
                    raise ApiError(0, "Malformed", "the watch sent an event beyond every size")
                await self._take(lines)
        if perf_counter() - started_s < timing.watch_min_s:
            raise ApiError(0, "Ended", "the API server ends each watch at once")

    async def _take(self, lines: list[bytes]) -> None:
        changed: _Changed[V] = _Changed()
        pause = TimeSlice()
        try:
            for line in lines:
                if line.strip():
                    self._take_event(line, changed)
                await pause.pause_if_due()
        except msgspec.MsgspecError as error:
            # A version may have been lost with it.
            self._version = ""
            raise ApiError(0, "Malformed", f"the watch sent something that is no event: {error}") from error
        finally:
            # What came before an error is in the cache, so it has to be told.
            if changed.upserts or changed.deletes:
                await self._deliver(changed.difference())
        if lines:
            self._failures = 0

    def _take_event(self, line: bytes, changed: _Changed[V]) -> None:
        event = _event_decoder.decode(line)
        if event.type == "ERROR":
            status = _status_decoder.decode(event.object)
            if status.code == 410:
                self._version = ""
            raise ApiError(status.code, status.reason, status.message)
        version = _versioned_decoder.decode(event.object).metadata.version
        item = self._decode(event.object) if event.type in ("ADDED", "MODIFIED", "DELETED") else None
        if item is not None and event.type == "DELETED":
            if item.identity in self._known:
                del self._known[item.identity]
                changed.upserts.pop(item.identity, None)
                changed.deletes[item.identity] = None
        elif item is not None and self._is_news(item):
            self._known[item.identity] = item.value
            changed.deletes.pop(item.identity, None)
            changed.upserts[item.identity] = item.value
        # Last, so that an event that could not be taken is asked for again.
        self._version = version or self._version

    def _decode(self, raw: msgspec.Raw) -> Item[V] | None:
        try:
            return self._resource.decode(raw)
        except (msgspec.MsgspecError, ValueError) as error:
            # One object that makes no sense must not hold up the others.
            _log.error("%s: an object cannot be read: %s", self._resource.path, error)
            return None

    def _query(self) -> dict[str, str]:
        return {"fieldSelector": self._resource.field_selector} if self._resource.field_selector else {}

    def _note_following(self) -> None:
        if self.trouble:
            _log.info("%s: followed again", self._resource.path)
            self.trouble = ""

    async def _back_off(self, error: ApiError) -> None:
        """Wait, longer after each failure in a row, at random so that a thousand agents do not come at once."""
        timing = self._timing
        if error.status == 410:
            self._version = ""
        self._tell(error)
        delay_s = min(timing.backoff_max_s, timing.backoff_min_s * 2 ** min(self._failures, 16))
        self._failures += 1
        await asyncio.sleep(max(delay_s * random.uniform(0.5, 1), min(error.retry_after_s, timing.backoff_max_s)))

    def _tell(self, error: ApiError) -> None:
        if error.reason != self.trouble:
            _log.warning("%s: %s%s", self._resource.path, error, _hint(error))
            self.trouble = error.reason


def _hint(error: ApiError) -> str:
    if error.status == 404:
        return " (the custom resources are not installed: kubectl apply -f deploy/crds)"
    if error.status in (401, 403):
        return " (the service account lacks a right, or its token has ended)"
    return ""
