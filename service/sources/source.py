"""Where objects come from and where their status goes: the same for Kubernetes and for a folder of manifests.

Agents read only. What writes is apart, so that whoever is handed an `ObjectSource` cannot.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Protocol

from service.model.errors import OperatorError
from service.model.object_event import ObjectEvent
from service.model.objects import Change, ObjectKey
from service.model.validity import Validity, WrittenStatus
from service.settings import Settings
from service.sources.kubernetes.object_cache import FILE_NAME, ObjectCache
from service.sources.manifests.source import ManifestsSource
from service.sources.source_state import SourceState

_MANIFESTS = "manifests:"


class ObjectSource(Protocol):
    """What is read."""

    def changes(self) -> AsyncIterator[tuple[Change, ...]]:
        """First everything that exists, ending in Synced; then a batch per change. Ends only by cancellation."""

    def state(self) -> SourceState:
        """Whether what was told is still true."""

    def server_address(self) -> IPv4Address | None:
        """Of the server that is asked, where it is named by its address; None where there is none."""


class StatusSink(Protocol):
    """Where a leader says what is so. What raises TransientError may be tried again; part of it may have been done."""

    async def write_status(self, key: ObjectKey, status: dict[str, Any], *, created: str, term: int = 0) -> None:
        """Write an object's status where its owner looks for it. Raises TransientError where that fails for now.

        A leader names its term: where the source can tell, one of a lower term replaces nothing. `created` is the
        object's creation time as delivered, for sources that keep no time of their own.
        """

    async def recorded(self) -> tuple[ObjectKey, ...]:
        """What has a status that only a leader can delete, whoever wrote it; nothing where that cannot be told now."""

    async def delete_status(self, key: ObjectKey) -> None:
        """The object is gone. Raises TransientError where that fails for now."""

    async def read_validity(self) -> Validity | None:
        """Who answers for the statuses; None where nobody ever did. Raises TransientError."""

    async def renew_validity(self, claim: Validity, seen: Validity | None) -> Validity | None:
        """Write who answers for the statuses from now on, if what was seen still is what is there (rule V2).

        Returns it with its version; None, and nothing has changed, where somebody else was first. Raises
        TransientError: then it may have been written.
        """

    async def written_statuses(self) -> tuple[WrittenStatus, ...]:
        """Every status that there is, and every object that could have one, as far as the source can tell."""

    async def replace_status(self, written: WrittenStatus) -> None:
        """Write a status if the object is still the version that `written` names; else nothing (rule V3).

        Raises TransientError.
        """

    async def mirror_gateway(self) -> None:
        """Leader's duty: keep the gateway object in force in step with the one users edit. Raises TransientError."""

    async def post_event(self, event: ObjectEvent) -> None:
        """Tell the object's owner what happened to it. Raises TransientError where that fails for now."""


class Source(ObjectSource, StatusSink, Protocol):
    """Both, as controllers need it."""


@asynccontextmanager
async def open_source(settings: Settings, *, everything: bool = False) -> AsyncIterator[Source]:
    """Open the configured source; `everything`, for controllers: the pods of all nodes.

    Raises OperatorError where it cannot be used at all.
    """
    if settings.source.startswith(_MANIFESTS):
        folder = Path(settings.source.removeprefix(_MANIFESTS))
        if not await asyncio.to_thread(_may_be_folder, folder):
            raise OperatorError(f"source: {folder} is not a folder; make it, or name another as manifests:DIR")
        # Pods of all nodes, also for agents: a folder is small, and `egressgw status` counts matches anywhere.
        yield ManifestsSource(folder)
        return
    # Lazily: hosts without Kubernetes do without its client.
    from service.sources.kubernetes.source import open_kubernetes

    if everything:
        async with open_kubernetes(node=None, reporter=settings.node, namespace=settings.namespace) as source:
            yield source
        return
    cache = ObjectCache(Path(settings.state_dir) / FILE_NAME, owner=f"{settings.cluster}/{settings.node}")
    async with open_kubernetes(
        node=settings.node, reporter=settings.node, namespace=settings.namespace, cache=cache
    ) as source:
        yield source


def _may_be_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        # Not permitted, or a disk that fails: a state, which whoever reads the folder tells of and tries again.
        return True
