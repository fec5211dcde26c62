"""What a status says when nobody answers for it any more. Pure."""

from typing import Any

from service.model.objects import Kind
from service.model.validity import Validity
from service.report.condition import condition

_ALWAYS = {Kind.GATEWAY: ("Ready",), Kind.POLICY: ("Accepted", "Ready"), Kind.NODE: ("Ready",)}
"""Conditions that an object has in any case, also one that nobody has reported on yet."""
_LAST_MAX = 10
_LAST = "; last known: "


def unknown_status(kind: Kind, status: dict[str, Any], validity: Validity) -> dict[str, Any]:
    """Every condition is Unknown; whatever else was said is left out, since nobody knows whether it is still true.

    `status` is the one that was written last, without term and times in the answer. `validity` must have a loss.
    """
    assert validity.loss is not None
    reason, message = validity.loss.reason, _message(validity)
    types = dict.fromkeys((*_ALWAYS.get(kind, ()), *_types(status)))
    conditions = [condition(name, reason, message, is_true=None) for name in types]
    held = _last_held(kind, status)
    if held and conditions:
        conditions[0] |= {"message": f"{message}{_LAST}{held}"}
    return {"conditions": conditions}


def is_unknown(status: dict[str, Any], validity: Validity) -> bool:
    """Whether it says so already, for this reason."""
    assert validity.loss is not None
    found = _conditions(status)
    return bool(found) and all(
        (item.get("status"), item.get("reason")) == ("Unknown", validity.loss.reason) for item in found
    )


def _message(validity: Validity) -> str:
    assert validity.loss is not None
    known = f"not known since {validity.confirmed}" if validity.confirmed else "not known"
    return f"{known}: {validity.loss.message}"


def _types(status: dict[str, Any]) -> list[str]:
    return [str(item["type"]) for item in _conditions(status) if item.get("type")]


def _conditions(status: dict[str, Any]) -> list[dict[str, Any]]:
    found = status.get("conditions")
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _last_held(kind: Kind, status: dict[str, Any]) -> str:
    """Who held what when it was known; kept in words, since an operator will go there first."""
    held = status.get("floatingIPs")
    if kind is Kind.GATEWAY and isinstance(held, dict):
        said = [f"{floating_ip} on {node}" for floating_ip, node in held.items()]
        return ", ".join(said[:_LAST_MAX]) + (", ..." if len(said) > _LAST_MAX else "")
    holder = status.get("holder")
    if kind is Kind.POLICY and isinstance(holder, str):
        return f"on {holder}"
    # Written for another reason before: those words are kept.
    return next((last for item in _conditions(status) if (last := str(item.get("message")).partition(_LAST)[2])), "")
