"""Conditions as Kubernetes has them, without times: those are added where the status is written."""


def condition(kind: str, reason: str, message: str = "", *, is_true: bool | None = True) -> dict[str, str]:
    """`is_true` None: it is not known."""
    status = {True: "True", False: "False", None: "Unknown"}[is_true]
    return {"type": kind, "status": status, "reason": reason, "message": message}
