import http.server
import threading
from collections.abc import Callable, Iterator

import pytest

from service.model.errors import OperatorError, TransientError
from service.web.client import fetch_status

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], str]]:
    running = []

    def start(answer: Answer) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self)

            def log_message(self, *args: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def body(text: bytes, status: int = 200) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.end_headers()
        handler.wfile.write(text)

    return answer


def test_the_document_is_fetched(serve: Callable[[Answer], str]) -> None:
    assert fetch_status(serve(body(b'{"node": "n1"}'))) == {"node": "n1"}


def test_the_scheme_may_be_left_out(serve: Callable[[Answer], str]) -> None:
    assert fetch_status(serve(body(b"{}")).removeprefix("http://")) == {}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (body(b"{}", status=500), "answers 500"),
        (body(b"<html>"), "not JSON"),
        (body(b"[]"), "not a status document"),
        (lambda handler: handler.wfile.write(b"\x00\x01 nonsense\r\n\r\n"), "does not speak HTTP"),
    ],
)
def test_a_wrong_answer_is_told(serve: Callable[[Answer], str], answer: Answer, message: str) -> None:
    with pytest.raises(TransientError, match=message):
        fetch_status(serve(answer))


def test_a_silent_server_is_given_up(serve: Callable[[Answer], str]) -> None:
    ended = threading.Event()
    url = serve(lambda handler: (ended.wait(30), None)[1])
    try:
        with pytest.raises(TransientError, match=r"within 0\.2 s"):
            fetch_status(url, timeout_s=0.2)
    finally:
        ended.set()


def test_a_server_that_drips_is_given_up(serve: Callable[[Answer], str]) -> None:
    ended = threading.Event()

    def drip(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not ended.wait(0.05):
            handler.wfile.write(b" ")

    try:
        with pytest.raises(TransientError, match=r"within 0\.3 s"):
            fetch_status(serve(drip), timeout_s=0.3)
    finally:
        ended.set()


def test_nobody_there_is_told() -> None:
    with pytest.raises(TransientError, match=r"127\.0\.0\.1:1 cannot be reached"):
        fetch_status("http://127.0.0.1:1")


@pytest.mark.parametrize("url", ["ftp://h:1", "http://", "http://h:x", "https://h"])
def test_a_url_that_cannot_be_one_is_an_operator_error(url: str) -> None:
    with pytest.raises(OperatorError, match="--url"):
        fetch_status(url)
