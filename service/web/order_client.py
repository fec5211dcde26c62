"""Ask a process of this machine to do something, over its socket in `run_dir`. Synchronous and light."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from service.model.errors import OperatorError, TransientError

_TIMEOUT_S = 10.0
CONTROLLER_ORDERS, AGENT_ORDERS = "controller-orders", "agent-orders"
"""Names of the sockets in `run_dir`. The controller is asked first: electors tell it who holds what."""


class OrderClient:
    """Asks the controller of this machine, and where there is none its agent. Every call is a connection of its own.

    Raises OperatorError where the process refuses an order or may not be asked, TransientError where none answers.
    """

    def __init__(self, run_dir: str) -> None:
        self._folder = Path(run_dir)

    def get(self, page: str, **query: str) -> dict[str, Any]:
        """Ask how far something is."""
        return self._ask("GET", f"{page}?{urlencode(query)}", None)

    def post(self, page: str, order: dict[str, Any]) -> dict[str, Any]:
        """Order something."""
        return self._ask("POST", page, json.dumps(order).encode())

    def _ask(self, method: str, page: str, body: bytes | None) -> dict[str, Any]:
        failure = (
            f"no agent and no controller takes orders in {self._folder}; run this where one runs, or name --run-dir"
        )
        for name in (CONTROLLER_ORDERS, AGENT_ORDERS):
            try:
                return _exchange(self._folder / name, method, page, body)
            except (FileNotFoundError, ConnectionRefusedError):
                continue
            except PermissionError as error:
                raise OperatorError(f"{self._folder / name}: {error.strerror}; only its owner may order") from error
            except (OSError, http.client.HTTPException, ValueError) as error:
                failure = f"{self._folder / name} does not answer: {error!r}"
        raise TransientError(failure)


def _exchange(path: Path, method: str, page: str, body: bytes | None) -> dict[str, Any]:
    connection = _Connection(path)
    try:
        connection.request(method, page, body)
        response = connection.getresponse()
        document = json.loads(response.read())
    finally:
        connection.close()
    if response.status == http.client.BAD_REQUEST:
        raise OperatorError(str(document.get("error")))
    if response.status != http.client.OK or not isinstance(document, dict):
        raise ValueError(f"{response.status} {response.reason}")
    return document


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(str(self._path))
