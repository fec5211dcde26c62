"""The folder of manifests as a source of changes: watched, with a slow rescan for what a watch does not see."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from ipaddress import IPv4Address
from pathlib import Path
from time import monotonic_ns
from typing import Any

from service.model.errors import ObjectError, OperatorError
from service.model.object_event import ObjectEvent
from service.model.objects import Change, Delete, Errors, Kind, Object, ObjectKey, Pod, Synced, Upsert
from service.model.validity import Validity, WrittenStatus
from service.sources.manifests.folder import FolderView, ManifestFolder
from service.sources.manifests.folder_watch import watch_folder
from service.sources.manifests.status_file import CreationTimes, StatusFolder
from service.sources.source_state import SourceState

RESCAN_NS = 2_000_000_000
"""Watches miss changes behind symbolic links, on network file systems, and a folder that was replaced."""
_TICK_S = 0.25
"""How often pending removals are looked at."""
_ORDER = (Kind.NAMESPACE, Kind.GATEWAY, Kind.POLICY, Kind.POD)

log = logging.getLogger(__name__)


class ManifestsSource:
    """One folder. Where `node` is given, only the pods of that node are delivered, as agents need no others."""

    def __init__(self, folder: Path, *, node: str | None = None, clock: Callable[[], int] = monotonic_ns) -> None:
        """`clock` never steps; nanoseconds."""
        self._clock = clock
        self._folder = folder
        self._node = node
        self._status = StatusFolder(folder)
        self._ages = CreationTimes(self._status)
        self._writing = asyncio.Lock()

    async def changes(self) -> AsyncGenerator[tuple[Change, ...], None]:
        """Yield everything once, ending in Synced, then each change of the folder as one batch.

        Raises OperatorError if there is no such folder at the start, OSError where it may not be looked at now. A
        folder lost later is an error in `Errors`, and the last good state stays in force.
        """
        state = ManifestFolder(await asyncio.to_thread(_existing, self._folder), self._ages)
        view = await asyncio.to_thread(state.scan, self._clock())
        delivered, errors = self._chosen(view), view.errors
        yield (*_difference({}, delivered), Errors(errors), Synced())
        # The first tick scans in any case: the watch begins only now.
        scanned_ns = self._clock() - RESCAN_NS
        async with aclosing(watch_folder(self._folder, _TICK_S)) as ticks:
            async for is_changed in ticks:
                now_ns = self._clock()
                if not (is_changed or view.is_pending or now_ns - scanned_ns >= RESCAN_NS):
                    continue
                scanned_ns = now_ns
                view = await asyncio.to_thread(state.scan, now_ns)
                chosen = self._chosen(view)
                batch = _difference(delivered, chosen)
                if view.errors != errors:
                    batch.append(Errors(view.errors))
                delivered, errors = chosen, view.errors
                if batch:
                    yield tuple(batch)

    def state(self) -> SourceState:
        """Always followed: a folder that is lost is among the errors."""
        return SourceState()

    def server_address(self) -> IPv4Address | None:
        """None: a folder has no server."""
        return None

    async def write_status(self, key: ObjectKey, status: dict[str, Any], *, created: str, term: int = 0) -> None:
        """Write DIR/status/<kind>.<namespace>.<name>.yaml if it changed. Raises TransientError where it cannot.

        `created` is the policy's creation time as delivered; it keeps the age of a policy over restarts.
        """
        async with self._writing:
            await asyncio.to_thread(self._status.write, key, status, created=created, term=term)

    async def recorded(self) -> tuple[ObjectKey, ...]:
        """Every status file."""
        return await asyncio.to_thread(self._status.recorded)

    async def delete_status(self, key: ObjectKey) -> None:
        """Remove the status of an object that is gone. Raises TransientError where it cannot."""
        async with self._writing:
            await asyncio.to_thread(self._status.delete, key)

    async def read_validity(self) -> Validity | None:
        """Who answers for the statuses, by DIR/status/.validity. Raises TransientError where it cannot be read."""
        return await asyncio.to_thread(self._status.validity)

    async def renew_validity(self, claim: Validity, seen: Validity | None) -> Validity | None:
        """Replace what was seen; None where somebody else was first. Raises TransientError."""
        async with self._writing:
            return await asyncio.to_thread(self._status.renew, claim, seen)

    async def written_statuses(self) -> tuple[WrittenStatus, ...]:
        """Every status file that can be read. Raises TransientError."""
        return await asyncio.to_thread(self._status.written)

    async def replace_status(self, written: WrittenStatus) -> None:
        """Replace a status file if it is still what `written` names. Raises TransientError."""
        async with self._writing:
            await asyncio.to_thread(self._status.replace, written)

    async def mirror_gateway(self) -> None:
        """A folder has one gateway object, the one in force."""

    async def post_event(self, event: ObjectEvent) -> None:
        """A folder has no Events: the log has to do."""
        level = logging.WARNING if event.is_warning else logging.INFO
        log.log(level, "%s %s: %s: %s", event.regarding.kind, event.regarding, event.reason, event.note)

    def _chosen(self, view: FolderView) -> dict[ObjectKey, Object]:
        if self._node is None:
            return view.objects
        return {key: item for key, item in view.objects.items() if not isinstance(item, Pod) or item.node == self._node}


def load_folder(folder: Path) -> tuple[tuple[Object, ...], tuple[ObjectError, ...]]:
    """Read a folder once: the good objects sorted by key, and all errors. Raises OperatorError where it is absent."""
    state = ManifestFolder(_existing(folder), CreationTimes(StatusFolder(folder)))
    view = state.scan(monotonic_ns())
    return tuple(view.objects[key] for key in sorted(view.objects)), view.errors


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise OperatorError(f"source: there is no folder {folder}; create it, or name another with manifests:DIR")
    return folder


def _difference(old: dict[ObjectKey, Object], new: dict[ObjectKey, Object]) -> list[Change]:
    """What leads from old to new: upserts before deletes, so that an update has no gap."""
    batch: list[Change] = [
        Upsert(item) for key, item in new.items() if (known := old.get(key)) is not item and known != item
    ]
    batch.sort(key=lambda change: _ORDER.index(change.object.key.kind) if isinstance(change, Upsert) else 0)
    return batch + [Delete(key) for key in old if key not in new]
