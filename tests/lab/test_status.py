"""Asking a member over HTTP from within its namespace, and waiting for an answer."""

import http.server
import socketserver
import threading
from collections.abc import Callable, Iterator

import pytest

from service.lab import status as module
from service.lab.lab import Lab
from service.lab.namespace import inside
from service.lab.plan import HTTP_PORT
from service.lab.status import fetch, fetch_json, wait_for
from service.model.errors import OperatorError, TransientError


class Answers(http.server.BaseHTTPRequestHandler):
    """Each path is its own answer: `/STATUS/BODY`."""

    def do_GET(self) -> None:
        _, status, body = self.path.split("/", 2)
        self.send_response(int(status))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class Server(socketserver.TCPServer):
    """Not HTTPServer, which would look up its own name first."""

    allow_reuse_address = True


@pytest.fixture
def member(site: Lab) -> Iterator[Callable[[str], tuple[str, str, str]]]:
    """Something that answers where the agent of worker1 would; the arguments to ask it for a path."""
    node = site.node("worker1")
    server = inside(node.netns, lambda: Server((str(node.ip), HTTP_PORT), Answers))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield lambda path: (node.netns, str(node.ip), path)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.root
def test_status_and_body_come_as_they_are(member: Callable[[str], tuple[str, str, str]]) -> None:
    assert fetch(*member("/503/settling")) == (503, b"settling")
    assert fetch_json(*member('/200/{"ready":true}')) == {"ready": True}


@pytest.mark.root
@pytest.mark.parametrize("path", ["/503/{}", "/200/[]", "/200/nonsense"])
def test_what_is_no_document_is_no_answer_yet(member: Callable[[str], tuple[str, str, str]], path: str) -> None:
    with pytest.raises(TransientError, match=path.split("/")[1]):
        fetch_json(*member(path))


@pytest.mark.root
def test_where_nobody_listens_there_is_no_answer_yet(site: Lab) -> None:
    node = site.node("worker2")
    with pytest.raises(TransientError, match=r"http://192\.168\.1\.22:9642/readyz: .*refused"):
        fetch(node.netns, str(node.ip), "/readyz")


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.001)


@pytest.mark.usefixtures("hurried")
def test_the_question_is_put_until_it_has_an_answer() -> None:
    answers: list[object] = [None, False, "", TransientError("refused"), 0]

    def question() -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert wait_for("a number", question, timeout_s=30) == 0, "only None, False and an empty text are no answers"
    assert answers == []


@pytest.mark.usefixtures("hurried")
def test_in_vain_is_told_with_what_was_waited_for_and_the_last_reason() -> None:
    def question() -> bool:
        raise TransientError("connection refused")

    with pytest.raises(TransientError, match=r"waited 0 s in vain for the agent \(connection refused\)"):
        wait_for("the agent", question, timeout_s=0.01)


def test_another_error_ends_the_waiting_at_once() -> None:
    def question() -> bool:
        raise OperatorError("agent of worker1 ended")

    with pytest.raises(OperatorError, match="ended"):
        wait_for("the agent", question, timeout_s=30)
