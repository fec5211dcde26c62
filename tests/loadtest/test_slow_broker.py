import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from loadtest.slow_broker import Relay, listen

DELAY_S = 0.05
CHUNK_BYTES = 100
TIMEOUT_S = 20.0


@pytest.fixture
def echo() -> Iterator[int]:
    """A port that sends everything back."""

    class Echo(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while data := self.request.recv(65536):
                self.request.sendall(data)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def near(echo: int) -> Iterator[int]:
    """The port of a relay in front of it."""
    listener = listen(0)
    with Relay(echo, [listener], delay_s=DELAY_S, chunk_bytes=CHUNK_BYTES):
        yield int(listener.getsockname()[1])


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), TIMEOUT_S)


def receive(connection: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count and (data := connection.recv(count - len(received))):
        received += data
    return received


def test_an_answer_comes_whole_and_late(near: int) -> None:
    with connect(near) as connection:
        began_s = time.monotonic()
        connection.sendall(b"question")
        assert receive(connection, 8) == b"question"
        assert time.monotonic() - began_s >= 2 * DELAY_S


def test_a_chunk_per_delay_is_all_that_passes(near: int) -> None:
    sent = bytes(range(250)) * 4
    with connect(near) as connection:
        began_s = time.monotonic()
        connection.sendall(sent)
        assert receive(connection, len(sent)) == sent
        assert time.monotonic() - began_s >= len(sent) / CHUNK_BYTES * DELAY_S


def test_a_connection_that_ends_on_one_side_ends_on_the_other(near: int) -> None:
    with connect(near) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


def test_without_a_broker_the_connection_ends() -> None:
    with listen(0) as unused:
        port = int(unused.getsockname()[1])
    listener = listen(0)
    address = listener.getsockname()[1]
    with Relay(port, [listener], delay_s=DELAY_S, chunk_bytes=CHUNK_BYTES), connect(address) as connection:
        assert connection.recv(1) == b""


def test_it_listens_in_several_places_and_leaves_nothing_behind(echo: int) -> None:
    listeners = [listen(0), listen(0)]
    ports = [listener.getsockname()[1] for listener in listeners]
    with Relay(echo, listeners, delay_s=DELAY_S, chunk_bytes=CHUNK_BYTES):
        connections = [connect(port) for port in ports]
        for connection in connections:
            connection.sendall(b"x")
            assert connection.recv(1) == b"x"
    for connection, port in zip(connections, ports, strict=True):
        assert connection.recv(1) == b""
        connection.close()
        with pytest.raises(ConnectionRefusedError):
            connect(port)
    assert "slow relay" not in [thread.name for thread in threading.enumerate()]
