"""Fetch the status document of a process over HTTP. Synchronous and light: for short commands."""

import http.client
import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from service.model.errors import OperatorError, TransientError

_BYTES_MAX = 64 << 20
WHOLE = "X-Whole"
"""Header of an answer of records: `true` where no older ones were left out."""


@dataclass(frozen=True, slots=True)
class Records:
    """The newest audit records of one process, as they were written."""

    payloads: tuple[bytes, ...]
    is_whole: bool
    """It has no older ones."""


def fetch_status(url: str, *, timeout_s: float = 3.0) -> dict[str, Any]:
    """Return `/v1/status` of the process at `url`.

    Raises OperatorError for a URL that cannot be one, TransientError where the process does not answer as it should.
    """
    body, _ = _get(url, "/v1/status", timeout_s)
    return _parse(body, url)


def fetch_records(url: str, *, timeout_s: float = 3.0) -> Records:
    """Return `/v1/records` of the process at `url`. Raises as `fetch_status` does."""
    body, whole = _get(url, "/v1/records", timeout_s)
    return Records(tuple(line for line in body.split(b"\n") if line), whole == "true")


def member_urls(document: dict[str, Any], url: str) -> list[str]:
    """Where the members that a status document names are asked, and first whoever gave it, by the port of `url`."""
    _, port, _ = _parse_url(url)
    members = document.get("members")
    hosts = members.values() if isinstance(members, dict) else ()
    own = members.get(document.get("node")) if isinstance(members, dict) else None
    asked = [url, *(f"http://{host}:{port}" for host in hosts if isinstance(host, str) and host != own)]
    return list(dict.fromkeys(asked))


def _get(url: str, page: str, timeout_s: float) -> tuple[bytes, str]:
    """The body, and whether it is whole as far as the answer says."""
    host, port, path = _parse_url(url)
    where = f"{host}:{port}"
    # Not urllib.request: it would send the question for a cluster node to the proxy of the environment.
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path + page)
        response = connection.getresponse()
        body = _read(response, time.monotonic() + timeout_s)
    except TimeoutError as error:
        raise TransientError(f"{where} does not answer within {timeout_s:g} s") from error
    except OSError as error:
        reason = error.strerror or error
        raise TransientError(
            f"{where} cannot be reached: {reason}; is an agent or controller running there?"
        ) from error
    except http.client.HTTPException as error:
        raise TransientError(f"{where} does not speak HTTP: {error!r}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise TransientError(f"{where} answers {response.status} {response.reason}")
    return body, response.headers.get(WHOLE, "")


def _parse_url(url: str) -> tuple[str, int, str]:
    """Host, port and what stands in front of our paths. The scheme may be left out, and the port."""
    parts = urlsplit(url if "//" in url else f"//{url}")
    try:
        port = parts.port or 9642
    except ValueError as error:
        raise OperatorError(f"--url: {url}: {error}") from error
    if parts.scheme not in ("", "http") or not parts.hostname:
        raise OperatorError(f"--url: write http://HOST:PORT, not {url}")
    return parts.hostname, port, parts.path.rstrip("/")


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    body = bytearray()
    while block := response.read1(1 << 16):
        body += block
        if len(body) > _BYTES_MAX or time.monotonic() > deadline:
            raise TimeoutError
    return bytes(body)


def _parse(body: bytes, url: str) -> dict[str, Any]:
    host, port, _ = _parse_url(url)
    where = f"{host}:{port}"
    try:
        document = json.loads(body)
    except ValueError as error:
        raise TransientError(f"{where} answers something that is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise TransientError(f"{where} answers something that is not a status document")
    return document
