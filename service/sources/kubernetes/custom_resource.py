"""Our custom resources as requests name them: paths, and the part of a document that says which object is meant. Pure.

They are written by server-side apply, by one field manager whichever controller leads: so the next leader owns the
fields of the one before, and `force` takes them from anybody else.
"""

from typing import Any, Final

from service.model.errors import InvariantError
from service.model.objects import API_VERSION, Kind, ObjectKey

FIELD_MANAGER: Final = "egressgw-controller"
APPLY_QUERY: Final = {"fieldManager": FIELD_MANAGER, "force": "true"}
_PLURALS = {
    Kind.GATEWAY: "anthosnetworkgateways",
    Kind.NODE: "anthosnetworkgatewaynodes",
    Kind.POLICY: "egressnatpolicies",
}


def is_custom(kind: Kind) -> bool:
    """Whether it is one of our own definitions, and so has a spec that may be refused and a status."""
    return kind in _PLURALS


def collection_path(kind: Kind, namespace: str = "") -> str:
    """Where objects of one of our kinds are listed; of all namespaces, or of a cluster-scoped kind, without one."""
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{API_VERSION}{scope}/{_PLURALS[kind]}"


def object_path(key: ObjectKey) -> str:
    """Where one object is. Raises InvariantError for a kind that is not ours to write."""
    if not is_custom(key.kind):
        raise InvariantError(f"{key.kind} {key} is not ours to write")
    return f"{collection_path(key.kind, key.namespace)}/{key.name}"


def manifest(key: ObjectKey, uid: str = "") -> dict[str, Any]:
    """Return what every document begins with. With `uid` the API server refuses it for an object made anew since."""
    metadata = {"name": key.name, "namespace": key.namespace, "uid": uid}
    return {
        "apiVersion": API_VERSION,
        "kind": str(key.kind),
        "metadata": {field: value for field, value in metadata.items() if value},
    }
