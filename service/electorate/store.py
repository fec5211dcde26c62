"""The Kubernetes object that holds the electorate: ConfigMap `egressgw-electorate` (leases.md, M2).

It is created once and changed by compare-and-swap on its resourceVersion, so of two who want the next epoch one gets
it. Who did not hear whether its change was made reads it again: the watch tells. Nothing in the lease path waits for
it; what was read of it is known to the keepers, who have it on disk.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

import msgspec

from service.lease.electorate import electorate_fault
from service.model.lease import Elector, Electorate
from service.sources.kubernetes.api_server import MERGE, ApiServer, connect
from service.sources.kubernetes.reflector import Reflector, ReflectorTiming
from service.sources.kubernetes.resource import Difference, Item, Resource

_log = logging.getLogger(__name__)

OBJECT_NAME = "egressgw-electorate"
_KEY = "electorate"


@dataclass(frozen=True, slots=True)
class ElectorateObject:
    """The object as it was read."""

    electorate: Electorate
    in_force: bool
    """A controller has seen a majority of the members settle in the epoch: the next one may follow."""
    version: str
    """resourceVersion."""
    begun_anew: bool = False
    """An operator began it with `egressgw electors reset` (M6): it follows no epoch before."""


class _Member(msgspec.Struct, omit_defaults=True):
    name: str
    address: str
    memory: str = ""


class _Document(msgspec.Struct):
    epoch: int
    members: list[_Member]
    previous: list[_Member] = []
    in_force: bool = msgspec.field(name="inForce", default=False)
    begun_anew: bool = msgspec.field(name="begunAnew", default=False)


class _Metadata(msgspec.Struct):
    name: str = ""
    version: str = msgspec.field(name="resourceVersion", default="")
    uid: str = ""


class _ConfigMap(msgspec.Struct):
    metadata: _Metadata
    data: dict[str, str] = {}


_decoder = msgspec.json.Decoder(_ConfigMap)


def encode(electorate: Electorate, *, in_force: bool, begun_anew: bool = False) -> dict[str, str]:
    """The object's `data`."""
    members, previous = (
        [_Member(one.name, one.host, f"{one.memory:016x}" if one.memory else "") for one in electors]
        for electors in (electorate.members, electorate.previous)
    )
    document = msgspec.json.encode(_Document(electorate.epoch, members, previous, in_force, begun_anew))
    return {_KEY: msgspec.json.format(document, indent=2).decode()}


def decode(raw: msgspec.Raw | bytes) -> ElectorateObject:
    """Raises ValueError (or msgspec.MsgspecError, which is one) where the object does not say what it should."""
    return _read(_decoder.decode(raw))


def _read(found: _ConfigMap) -> ElectorateObject:
    document = msgspec.json.decode(found.data.get(_KEY, ""), type=_Document)
    members, previous = (
        tuple(Elector(one.name, str(IPv4Address(one.address)), int(one.memory or "0", 16)) for one in electors)
        for electors in (document.members, document.previous)
    )
    electorate = Electorate(document.epoch, members, previous)
    if fault := electorate_fault(electorate):
        raise ValueError(fault)
    return ElectorateObject(electorate, document.in_force, found.metadata.version, document.begun_anew)


class ElectorateStore:
    """Follows the object, and changes it. `changed` gets it as it is now, None where there is none."""

    def __init__(
        self,
        api: ApiServer,
        namespace: str,
        *,
        changed: Callable[[ElectorateObject | None], None],
        timing: ReflectorTiming | None = None,
    ) -> None:
        self._api = api
        self._path = f"/api/v1/namespaces/{namespace}/configmaps"
        self._changed = changed
        self.current: ElectorateObject | None = None
        self.is_read = False
        """Whether the object is there or not has been learnt."""
        self.trouble = ""
        """Why the object is not taken as it is; empty where it is."""
        self.uid = ""
        """Of the object as it was read last, also of one that is not taken."""
        # By name, so that the right to this one object is enough.
        resource = Resource(self._path, self._decode, f"metadata.name={OBJECT_NAME}")
        self.reflector = Reflector(api, resource, self._take, timing=timing)

    async def run(self) -> None:
        """Follow the object until cancelled."""
        await self.reflector.run()

    async def create(self, electorate: Electorate) -> None:
        """Begin the object. Raises ApiError, 409 where it exists."""
        metadata = {"name": OBJECT_NAME, "labels": {"app.kubernetes.io/part-of": "egressgw"}}
        data = encode(electorate, in_force=False)
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
        self._note(decode(await self._api.create(self._path, body)))

    async def swap(
        self, read: ElectorateObject, electorate: Electorate, *, in_force: bool, begun_anew: bool = False
    ) -> None:
        """Change the object that was read, and only that version of it.

        Raises ApiError: 409 where it has been changed meanwhile; status 0 where it is not known whether it was made.
        """
        body: dict[str, Any] = {
            "metadata": {"resourceVersion": read.version},
            "data": encode(electorate, in_force=in_force, begun_anew=begun_anew),
        }
        self._note(decode(await self._api.patch(f"{self._path}/{OBJECT_NAME}", body, MERGE)))

    async def read(self) -> None:
        """Read the object now, without waiting for the watch. Raises ApiError."""
        self._note(decode(await self._api.get(f"{self._path}/{OBJECT_NAME}")))

    def _note(self, found: ElectorateObject) -> None:
        # The watch brings it too, but perhaps later than we look again.
        self.current = found
        self._changed(found)

    def _decode(self, raw: msgspec.Raw) -> Item[ElectorateObject | None]:
        try:
            config_map = _decoder.decode(raw)
            self.uid = config_map.metadata.uid
            found: ElectorateObject | None = _read(config_map)
            self.trouble = ""
        except ValueError as error:
            found = None
            self.trouble = f"ConfigMap {OBJECT_NAME}: {error}"
            _log.error("%s", self.trouble)
        return Item(OBJECT_NAME, found)

    async def _take(self, difference: Difference[ElectorateObject | None]) -> None:
        self.is_read |= difference.is_listed or bool(difference.upserts)
        for found in difference.upserts:
            # One that cannot be read is not one that is not there: it is neither put in force nor made anew.
            if found is not None:
                self._note(found)
        if difference.deletes:
            self.current, self.trouble = None, ""
            self._changed(None)


@asynccontextmanager
async def open_electorate(
    namespace: str, *, changed: Callable[[ElectorateObject | None], None]
) -> AsyncIterator[ElectorateStore]:
    """Follow the object for as long as the context lasts. Raises OperatorError where no credentials are found."""
    async with connect() as api, asyncio.TaskGroup() as group:
        store = ElectorateStore(api, namespace, changed=changed)
        task = group.create_task(store.run(), name="electorate object")
        try:
            yield store
        finally:
            task.cancel()
