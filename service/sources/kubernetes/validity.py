"""The validity of the statuses as a Lease: one object for all, so that not each of 500 statuses is written again.

It is created once and changed by compare-and-swap on its resourceVersion. It grants nothing: who leads, electors say.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from service.model.objects import API_GROUP
from service.model.validity import Loss, Validity
from service.sources.kubernetes.api_server import MERGE, ApiError, ApiServer
from service.sources.timestamp import microseconds_from_ns

OBJECT_NAME: Final = "egressgw-status"
_TERM = f"{API_GROUP}/leader-term"
_CONFIRMED = f"{API_GROUP}/confirmed"
_LOSS = f"{API_GROUP}/unknown-because"
_DURATION_S = 15
"""For readers; controllers measure for themselves."""


class _Metadata(msgspec.Struct):
    annotations: dict[str, str] | None = None
    version: str = msgspec.field(name="resourceVersion", default="")


class _Spec(msgspec.Struct):
    holder: str | None = msgspec.field(name="holderIdentity", default=None)


class _Lease(msgspec.Struct):
    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)


_decoder = msgspec.json.Decoder(_Lease)


class ValidityLease:
    """In one namespace of one API server."""

    def __init__(self, api: ApiServer, namespace: str, *, wall_clock: Callable[[], int]) -> None:
        """`wall_clock` is Unix time in nanoseconds."""
        self._api = api
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._wall_clock = wall_clock

    async def read(self) -> Validity | None:
        """None where there is none yet. Raises ApiError."""
        try:
            return decode(await self._api.get(f"{self._path}/{OBJECT_NAME}"))
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    async def renew(self, claim: Validity, seen: Validity | None) -> Validity | None:
        """Replace the version that was seen, or create it; None where somebody else was first. Raises ApiError."""
        document = encode(claim, now=microseconds_from_ns(self._wall_clock()))
        try:
            if seen is None:
                return decode(await self._api.create(self._path, document))
            document["metadata"]["resourceVersion"] = seen.version
            return decode(await self._api.patch(f"{self._path}/{OBJECT_NAME}", document, MERGE))
        except ApiError as error:
            # 404: deleted meanwhile; of one to be created, that there is no such namespace.
            if error.status != 409 and (error.status != 404 or seen is None):
                raise
            return None


def encode(validity: Validity, *, now: str) -> dict[str, Any]:
    """Return the whole object, without a version. `now` is RFC 3339 with microseconds."""
    annotations = {
        _TERM: str(validity.term),
        _CONFIRMED: validity.confirmed,
        # Also where it is empty: a merge patch keeps what it does not name.
        _LOSS: f"{validity.loss.reason}: {validity.loss.message}" if validity.loss else "",
    }
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": OBJECT_NAME,
            "labels": {"app.kubernetes.io/part-of": "egressgw"},
            "annotations": annotations,
        },
        "spec": {"holderIdentity": validity.speaker, "leaseDurationSeconds": _DURATION_S, "renewTime": now},
    }


def decode(body: bytes) -> Validity:
    """What somebody else has made of it is taken as far as it can be read: the next renewal mends it."""
    found = _decoder.decode(body)
    notes: Mapping[str, str] = found.metadata.annotations or {}
    term, (reason, _, message) = notes.get(_TERM, ""), notes.get(_LOSS, "").partition(": ")
    return Validity(
        found.spec.holder or "",
        int(term) if term.isascii() and term.isdigit() and len(term) < 19 else 0,
        notes.get(_CONFIRMED, ""),
        Loss(reason, message) if reason else None,
        found.metadata.version,
    )
