"""Asks the lab's agents and controllers over HTTP, from within their own namespaces."""

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

from service.lab.namespace import open_socket
from service.lab.plan import HTTP_PORT
from service.model.errors import TransientError

REQUEST_TIMEOUT_S = 2.0
POLL_S = 0.05

T = TypeVar("T")


def fetch(netns: str, ip: str, path: str, *, timeout_s: float = REQUEST_TIMEOUT_S) -> tuple[int, bytes]:
    """GET from the program's HTTP port: (status, body). Raises TransientError where it does not answer."""
    with open_socket(netns, socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(timeout_s)
        try:
            client.connect((ip, HTTP_PORT))
            connection = http.client.HTTPConnection(ip, HTTP_PORT, timeout=timeout_s)
            # The socket belongs to another namespace than this thread; hence not opened by http.client itself.
            connection.sock = client
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise TransientError(f"http://{ip}:{HTTP_PORT}{path}: {error}") from error


def fetch_json(netns: str, ip: str, path: str, *, timeout_s: float = REQUEST_TIMEOUT_S) -> dict[str, Any]:
    """GET a JSON object. Raises TransientError where it does not answer with one."""
    status, body = fetch(netns, ip, path, timeout_s=timeout_s)
    with contextlib.suppress(ValueError):
        document = json.loads(body)
        if status == 200 and isinstance(document, dict):
            return document
    raise TransientError(f"http://{ip}:{HTTP_PORT}{path}: status {status}: {body[:200]!r}")


def wait_for(what: str, question: Callable[[], T | None], *, timeout_s: float) -> T:
    """Ask again and again until there is an answer (not None, not False, no empty text) and return it.

    A TransientError counts as no answer yet. Raises TransientError with what was waited for when time is up.
    """
    deadline_s = time.monotonic() + timeout_s
    last = ""
    while True:
        try:
            answer = question()
            if answer is not None and answer is not False and answer != "":
                return answer
        except TransientError as error:
            last = f" ({error})"
        if time.monotonic() > deadline_s:
            raise TransientError(f"waited {timeout_s:.0f} s in vain for {what}{last}")
        time.sleep(POLL_S)
