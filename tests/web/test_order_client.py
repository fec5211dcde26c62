"""Whom the command asks, and what it says where nobody answers as it should."""

import http.server
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.model.errors import OperatorError, TransientError
from service.web.order_client import AGENT_ORDERS, CONTROLLER_ORDERS, OrderClient


@pytest.fixture
def serve() -> Iterator[Callable[[Path, int, bytes], None]]:
    running = []

    def start(path: Path, status: int, body: bytes) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        server = socketserver.UnixStreamServer(str(path), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        running.append(server)

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def test_the_controller_is_asked_before_the_agent(tmp_path: Path, serve: Callable[..., None]) -> None:
    serve(tmp_path / AGENT_ORDERS, 200, b'{"who": "agent"}')
    assert OrderClient(str(tmp_path)).get("/v1/drain") == {"who": "agent"}
    serve(tmp_path / CONTROLLER_ORDERS, 200, b'{"who": "controller"}')
    assert OrderClient(str(tmp_path)).get("/v1/drain") == {"who": "controller"}


def test_a_socket_that_a_dead_controller_left_is_passed_over(tmp_path: Path, serve: Callable[..., None]) -> None:
    socketserver.UnixStreamServer(str(tmp_path / CONTROLLER_ORDERS), http.server.BaseHTTPRequestHandler).server_close()
    serve(tmp_path / AGENT_ORDERS, 200, b'{"who": "agent"}')
    assert OrderClient(str(tmp_path)).get("/v1/drain") == {"who": "agent"}


def test_where_nobody_takes_orders_the_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match=f"takes orders in {tmp_path}"):
        OrderClient(str(tmp_path)).get("/v1/drain")


def test_a_refusal_is_told_in_its_words(tmp_path: Path, serve: Callable[..., None]) -> None:
    serve(tmp_path / AGENT_ORDERS, 400, b'{"error": "there is no node x"}')
    with pytest.raises(OperatorError, match="there is no node x"):
        OrderClient(str(tmp_path)).get("/v1/drain")


@pytest.mark.parametrize(("status", "body"), [(500, b"{}"), (200, b"nonsense"), (200, b"[]"), (404, b"{}")])
def test_a_strange_answer_is_no_answer(tmp_path: Path, serve: Callable[..., None], status: int, body: bytes) -> None:
    serve(tmp_path / AGENT_ORDERS, status, body)
    with pytest.raises(TransientError, match="does not answer"):
        OrderClient(str(tmp_path)).get("/v1/drain")
