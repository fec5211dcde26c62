"""How commands print; that every table of every command fits 80 columns, with long names and many addresses."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from service.command import audit, cli, electors, history
from service.command.console import console, print_json
from service.model.audit_record import AuditRecord, RecordKind
from tests.command.invocation import invoke
from tests.command.test_audit import record, write_outbox


def test_a_document_is_printed_readably_and_in_its_order(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"b": 1, "a": ["x"]})
    text = capsys.readouterr().out
    assert list(json.loads(text)) == ["b", "a"]
    assert text.splitlines()[1] == '  "b": 1,'


def test_a_pipe_gets_long_lines_whole_for_grep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", stream := io.StringIO())
    console().print("x " * 100)
    assert stream.getvalue().count("\n") == 1


def test_what_is_printed_is_never_taken_for_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", stream := io.StringIO())
    console().print("[red]192.0.2.1[/red]")
    assert stream.getvalue() == "[red]192.0.2.1[/red]\n"


NAME = "worker-rack17-b.example-datacenter.internal"
IP = "192.168.100.250"
NODE = {"state": "Up", "role": "control-plane", "ready": True, "schedulable": True, "segments": ["192.168.100.21/24"]}
HELD = {"holder": NAME, "assigned": NAME, "successor": f"{NAME}-2", "token": "12345.67890.123456", "reason": ""}
REASON = f"none of the nodes on the subnet of {IP} can hold it: 12 down, 13 not ready, 14 cordoned or draining"
DOCUMENT: dict[str, Any] = {
    "node": NAME,
    "role": "worker",
    "leader": "egressgw-controller-7d9f8b6c5d-x2x7q",
    "term": 12345,
    "nodes": {NAME: NODE, f"{NAME}-2": NODE | {"state": "Down"}},
    "floatingIPs": {f"192.168.100.{number}": HELD for number in range(100, 220)}
    | {IP: HELD | {"holder": None, "reason": REASON}},
    "policies": {
        f"team-{NAME}": {"accepted": False, "reason": "EgressIPConflict", "message": REASON, "egressSourceIP": IP}
    },
    "electorate": {"epoch": 12345, "members": {NAME: "192.168.100.21", f"{NAME}-2": "192.168.100.22"}},
    "drops": {"lease_expired_egress": 1 << 60},
}


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal, as the commands find it."""
    for module in (audit, cli, electors, history):
        monkeypatch.setattr(module, "console", lambda: Console(width=80, highlight=False, markup=False))
    monkeypatch.setattr("service.web.client.fetch_status", lambda url, timeout_s=3.0: DOCUMENT)


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    records: list[AuditRecord] = []
    for number in range(4):
        begin = record(RecordKind.ACQUIRED, f"1{number}:00:00", NAME, number + 1, 2 * number + 1, reason=REASON)
        end = record(RecordKind.EXPIRED, f"1{number}:30:00", NAME, number + 1, 2 * number + 2, previous=f"{NAME}-2")
        records += [begin, end]
    return write_outbox(tmp_path / "outbox", records)


@pytest.mark.usefixtures("narrow")
def test_status_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    fits(invoke("status").stdout, "192.168.100.219", NAME, REASON[-20:], "12345.67890.123456")


@pytest.mark.usefixtures("narrow")
def test_why_fits() -> None:
    fits(invoke("why", IP).stdout, "cordoned or draining", NAME)


@pytest.mark.usefixtures("narrow")
def test_electors_fit() -> None:
    fits(invoke("electors").stdout, f"{NAME}-2", "192.168.100.22")


@pytest.mark.parametrize(
    "arguments",
    [
        ("tail",),
        ("who", "192.0.2.100", "--since", "2026-01-01T00:00:00Z"),
        ("moves", "--since", "2026-01-01T00:00:00Z"),
    ],
)
@pytest.mark.usefixtures("narrow")
def test_history_fits(outbox: Path, arguments: tuple[str, ...]) -> None:
    fits(invoke("audit", *arguments, "--outbox", outbox).stdout, NAME, "192.0.2.100" if "who" not in arguments else "")


@pytest.mark.usefixtures("narrow")
def test_a_verdict_of_the_log_fits(outbox: Path) -> None:
    (segment,) = outbox.glob("*.audit")
    data = bytearray(segment.read_bytes())
    data[40] ^= 1
    segment.write_bytes(data)
    fits(invoke("audit", "verify", "--outbox", outbox).stdout, "unreadable")


def fits(text: str, *parts: str) -> None:
    sentences = ("  read: ", "note: ", "7 events in ", "8 events in ")
    tables = [line for line in text.splitlines() if not line.startswith(sentences)]
    assert max(map(len, tables)) <= 80
    kept = "".join(text.split())
    for part in parts:
        assert "".join(part.split()) in kept
