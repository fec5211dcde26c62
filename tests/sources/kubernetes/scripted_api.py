"""An API server that answers what the test says, and remembers what it was asked."""

import json
from collections import deque
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from service.model.objects import Kind
from service.sources.kubernetes.api_object import ApiObject, decode_own
from service.sources.kubernetes.api_server import ApiError, ApiServer


@dataclass(frozen=True)
class Request:
    verb: str
    path: str
    body: Any = None
    content_type: str = ""
    query: Mapping[str, str] | None = None
    uid: str = ""


class ScriptedApi(ApiServer):
    """Answers in turn; when there is no answer left, with what it was sent."""

    def __init__(self, *answers: ApiError | dict[str, Any]) -> None:
        self.requests: list[Request] = []
        self.answers = deque(answers)

    def _answer(self, request: Request) -> bytes:
        # As it is sent now: the caller may go on with the same document.
        self.requests.append(replace(request, body=deepcopy(request.body)))
        answer = self.answers.popleft() if self.answers else request.body
        if isinstance(answer, ApiError):
            raise answer
        return json.dumps(answer).encode()

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> bytes:
        return self._answer(Request("get", path, query=query))

    async def create(self, path: str, body: Mapping[str, Any]) -> bytes:
        return self._answer(Request("create", path, body))

    async def patch(self, path: str, body: Any, content_type: str, query: Mapping[str, str] | None = None) -> bytes:
        return self._answer(Request("patch", path, body, content_type, query))

    async def delete(self, path: str, *, uid: str = "") -> None:
        self._answer(Request("delete", path, uid=uid))


def refused(status: int, message: str = "no") -> ApiError:
    return ApiError(status, "Refused", message)


def own(kind: Kind, name: str, namespace: str = "", *, spec: Any = None, status: Any = None, **more: Any) -> ApiObject:
    """One of our custom resources as the API server sends it; `more` is metadata."""
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "generation": 4} | more
    document = {"metadata": metadata, "spec": spec, "status": status}
    return decode_own(msgspec.Raw(json.dumps(document).encode()), kind).value
