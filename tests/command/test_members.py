"""What a cluster's members answer when an operator asks for their records."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from service.audit.cloud_event import encode
from service.command import members
from service.model.audit_record import RecordKind
from tests.command.invocation import invoke
from tests.command.test_audit import IP, record

RECORDS = {
    "127.0.0.1": [record(RecordKind.ACQUIRED, "10:00:00", "worker1", 1, 1, reason="assigned")],
    "127.0.0.2": [
        record(RecordKind.EXPIRED, "11:00:00", "worker1", 1, 2, reason="no majority"),
        record(RecordKind.ACQUIRED, "11:00:01", "worker2", 2, 1),
    ],
}
SINCE = ("--since", "2026-11-03T00:00:00Z")


class Site:
    """Processes at 127.0.0.1 and 127.0.0.2; nobody at 127.0.0.3."""

    def __init__(self) -> None:
        self.whole = "true"
        self.members: Any = {"worker1": "127.0.0.1", "worker2": "127.0.0.2"}
        self._servers: list[ThreadingHTTPServer] = []

    def start(self) -> str:
        port = 0
        for host in RECORDS:
            server = ThreadingHTTPServer((host, port), self._handler(host))
            port = server.server_address[1]
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            self._servers.append(server)
        return f"http://127.0.0.1:{port}"

    def stop(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _handler(self, host: str) -> type[BaseHTTPRequestHandler]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("X-Whole", site.whole)
                self.end_headers()
                status = json.dumps({"node": "worker1", "members": site.members}).encode()
                records = b"".join(encode(one) + b"\n" for one in RECORDS[host])
                self.wfile.write(status if self.path == "/v1/status" else records)

            def log_message(self, *args: object) -> None:
                pass

        return Handler


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.stop()


def test_one_command_asks_every_member_what_moved(site: Site) -> None:
    done = invoke("audit", "moves", *SINCE, "--url", site.start())
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert rows[1:3] == [
        f"2026-11-03T10:00:00Z {IP} - worker1 assigned",
        f"2026-11-03T11:00:01Z {IP} worker1 worker2 acquired; no majority; nobody held it for 1.00 s",
    ]
    assert (done.exit_code, done.stderr) == (0, "")


def test_a_member_that_does_not_answer_is_told_and_the_others_are_read(site: Site) -> None:
    site.members["worker3"] = "127.0.0.3"
    done = invoke("audit", "moves", *SINCE, "--url", site.start())
    assert done.exit_code == 0
    assert "worker2" in done.stdout
    assert "127.0.0.3" in done.stderr
    assert "cannot be reached" in done.stderr


def test_that_older_records_were_left_out_is_told(site: Site) -> None:
    site.whole = "false"
    assert "has older ones" in invoke("audit", "who", IP, "--url", site.start()).stderr


@pytest.mark.parametrize("strange", [None, [], "text", {"x": 3}])
def test_whoever_was_asked_is_asked_also_where_it_names_nobody(site: Site, strange: Any) -> None:
    site.members = strange
    assert "assigned" in invoke("audit", "moves", *SINCE, "--url", site.start()).stdout


def test_members_are_not_followed(site: Site) -> None:
    done = invoke("audit", "tail", "--follow", "--url", site.start())
    assert (done.exit_code, "asked once" in done.stderr) == (2, True)


def test_where_nobody_is_to_be_asked_is_one_line(tmp_path: Path) -> None:
    done = invoke("audit", "moves", "--url", "http://127.0.0.1:1")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert members.MemberSource("u", None).extents == []
