import asyncio
import json
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from prometheus_client import CollectorRegistry

from service.audit.envelope import decode, encode, parse_time
from service.audit.journal import Journal
from service.command.cli import main
from service.model.audit_record import AuditRecord, RecordKind
from service.model.errors import ObjectError
from service.web.server import WebServer
from tests.audit import log as chained_log

IP = "192.0.2.100"
KEY = "00" * 32
DOCUMENT = {"node": "n1", "role": "worker", "leader": None, "nodes": {"n1": {"state": "Up", "role": "worker"}}}


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="egressgw")


def egressgw(*arguments: str, preamble: str = "") -> list[str]:
    """The command line of a real process, with `preamble` run before it."""
    script = f"{preamble}\nfrom service.command.cli import main\nmain(prog_name='egressgw')"
    return [sys.executable, "-c", script, *arguments]


# --- use


def test_help_names_every_command() -> None:
    text = invoke("--help").output
    for command in ("agent", "keeper", "controller", "status", "validate", "audit", "lab"):
        assert f"\n  {command} " in text


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "service", "--version"], capture_output=True, text=True, timeout=30)
    assert done.stdout.startswith("egressgw, version ")


@pytest.mark.parametrize("arguments", [["--help"], ["status", "--url", "http://127.0.0.1:1"]])
def test_short_commands_import_no_heavy_library(arguments: list[str]) -> None:
    script = """
import sys
from service.command.cli import main
try:
    main(sys.argv[1:], standalone_mode=False)
except Exception:
    pass
heavy = {"asyncio", "aiohttp", "uvloop", "kubernetes_asyncio", "aiokafka", "msgspec", "rich", "yaml", "bcc", "pyroute2"}
print("loaded:", sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=30)
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_an_unknown_command_is_wrong_use() -> None:
    assert invoke("fly").exit_code == 2


# --- the processes


def settings_file(folder: Path) -> Path:
    path = folder / "config.yaml"
    path.write_text(f"node: from-file\nkeyring: ['{KEY}']\nstate_dir: {folder}\nbind_address: 127.0.0.1\n")
    return path


STAND_IN = """
import asyncio, sys, types

async def run(settings):
    print(settings.node, settings.source, flush=True)
    {body}

for name in ("agent", "keeper", "controller"):
    module = types.ModuleType(f"service.{{name}}.{{name}}")
    module.run = run
    sys.modules[f"service.{{name}}.{{name}}"] = module
"""


@pytest.mark.parametrize("name", ["agent", "keeper", "controller"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_runs_with_its_settings_until_a_signal_and_exits_with_zero(
    tmp_path: Path, name: str, number: signal.Signals
) -> None:
    command = egressgw(
        *(name, "--config", str(settings_file(tmp_path)), "--node", "n7", "--source", "kubernetes"),
        preamble=STAND_IN.format(body="await asyncio.sleep(60)"),
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "n7 kubernetes\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


def run_process(folder: Path, body: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = egressgw("agent", "--config", str(settings_file(folder)), *options, preamble=STAND_IN.format(body=body))
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def test_an_operator_error_of_a_process_is_one_line_and_status_2(tmp_path: Path) -> None:
    body = """
    from service.model.errors import OperatorError
    async def fail(): raise OperatorError("ports.http: 0.0.0.0:9642 is in use")
    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
"""
    done = run_process(tmp_path, body)
    assert (done.returncode, done.stderr) == (2, "egressgw: ports.http: 0.0.0.0:9642 is in use\n")


def test_a_bug_in_a_process_is_logged_whole_and_status_1(tmp_path: Path) -> None:
    done = run_process(tmp_path, "raise KeyError('x')", "--log-format", "json")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "KeyError" in json.loads(line)["exception"]


def test_a_bad_file_is_one_line_and_status_2(tmp_path: Path) -> None:
    path = settings_file(tmp_path)
    path.write_text("ports: {gossip: high}\n")
    done = invoke("agent", "--config", path, "--node", "n1")
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert f"{path}: " in done.stderr
    assert "ports.gossip" in done.stderr


def test_a_process_needs_a_file() -> None:
    assert invoke("keeper").exit_code == 2


# --- status


class Provider:
    def status(self) -> dict[str, Any]:
        return DOCUMENT

    def not_ready_reasons(self) -> list[str]:
        return []


@pytest.fixture
def url() -> Iterator[str]:
    """A real server on a loop in another thread, as the command itself is synchronous."""
    started: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = []
    ready = threading.Event()

    async def serve() -> None:
        async with WebServer("127.0.0.1", 0, Provider(), CollectorRegistry()) as server:
            stop = asyncio.Event()
            started.append((server.port, asyncio.get_running_loop(), stop))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    assert ready.wait(10)
    port, loop, stop = started[0]
    yield f"http://127.0.0.1:{port}"
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)


def test_status_as_json_is_the_document(url: str) -> None:
    done = invoke("status", "--json", "--url", url)
    assert (done.exit_code, json.loads(done.stdout)) == (0, DOCUMENT)


def test_status_shows_tables(url: str) -> None:
    done = invoke("status", "--url", url)
    assert done.exit_code == 0
    assert "leader none" in done.stdout
    assert "n1" in done.stdout


def test_status_of_nobody_is_one_clear_line() -> None:
    done = invoke("status", "--url", "http://127.0.0.1:1")
    assert done.exit_code == 1
    assert done.stderr.startswith("egressgw: 127.0.0.1:1 cannot be reached: Connection refused")
    assert done.stderr.count("\n") == 1


# --- validate


@pytest.fixture
def manifests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source in which a file is one object, and refused where it says `bad`."""

    def load_folder(folder: Path) -> tuple[tuple[object, ...], tuple[ObjectError, ...]]:
        files = sorted(folder.glob("*.yaml"))
        errors = [
            ObjectError(str(path), "EgressNATPolicy", path.stem, "spec", "is bad")
            for path in files
            if "bad" in path.read_text()
        ]
        return tuple(files[len(errors) :]), tuple(errors)

    module = types.ModuleType("service.sources.manifests.source")
    module.load_folder = load_folder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "service.sources.manifests.source", module)


@pytest.mark.usefixtures("manifests")
def test_validate_lists_every_error_by_the_name_that_was_given(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.yaml").write_text("good")
    (folder / "b.yaml").write_text("bad")
    single = tmp_path / "single.yml"
    single.write_text("bad")
    done = invoke("validate", folder, single)
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        f"{folder}/b.yaml: EgressNATPolicy b: spec: is bad",
        f"{single}: EgressNATPolicy single: spec: is bad",
    ]
    assert done.stderr == "1 objects are valid, 2 errors\n"


@pytest.mark.usefixtures("manifests")
def test_validate_of_good_objects_is_quiet(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("good")
    done = invoke("validate", tmp_path)
    assert (done.exit_code, done.stdout) == (0, "")


def test_validate_of_nothing_is_wrong_use(tmp_path: Path) -> None:
    assert invoke("validate", tmp_path / "absent").exit_code == 2


# --- audit


def write_outbox(folder: Path, records: list[AuditRecord]) -> Path:
    journal = Journal(folder, segment_bytes=1 << 16, cap_bytes=1 << 20)
    journal.open(node="any", boot_id="b")
    journal.write([encode(record) for record in records])
    journal.close()
    return folder


def record(kind: RecordKind, at: str, node: str, counter: int, sequence: int, **more: Any) -> AuditRecord:
    time_ns = parse_time(f"2026-11-03T{at}Z")
    token = (1, 1, counter) if counter else None
    return AuditRecord(
        kind, node, "b", sequence, time_ns, 0, subject=IP if counter else "", token=token, holder=node, **more
    )


@pytest.fixture
def outboxes(tmp_path: Path) -> list[str]:
    first = [
        record(RecordKind.ACQUIRED, "10:00:00", "worker1", 1, 1),
        record(RecordKind.EXPIRED, "11:00:00", "worker1", 1, 2, reason="no majority"),
    ]
    second = [
        record(RecordKind.ACQUIRED, "11:00:01", "worker2", 2, 1),
        record(RecordKind.GAP, "12:00:00", "worker2", 0, 2, reason="size cap", detail={"records": "4"}),
    ]
    folders = [write_outbox(tmp_path / "one", first), write_outbox(tmp_path / "two", second)]
    return [part for folder in folders for part in ("--outbox", str(folder))]


def test_tail_merges_outboxes_and_warns_of_gaps(outboxes: list[str]) -> None:
    done = invoke("audit", "tail", *outboxes)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["EVENT", "acquired", "expired", "acquired", "gap"]
    assert "no majority" in lines[2]
    assert done.stderr == "egressgw: warning: worker2: 4 records are missing: size cap\n"


def test_tail_as_json_is_one_cloudevent_per_line(outboxes: list[str]) -> None:
    done = invoke("audit", "tail", "--json", "-n", "2", "--subject", IP, *outboxes)
    events = [decode(line.encode()) for line in done.stdout.splitlines()]
    assert [(event.kind, event.node) for event in events] == [("expired", "worker1"), ("acquired", "worker2")]


@pytest.mark.parametrize(
    ("at", "answer"),
    [
        ("2026-11-03T10:30:00Z", "worker1"),
        ("2026-11-03T12:30:00+02:00", "worker1"),
        ("2026-11-03T11:00:00.5Z", None),
        ("2026-11-03T11:30:00", "worker2"),
        ("2026-11-03T09:59:59Z", None),
    ],
)
def test_who_answers_for_any_time(outboxes: list[str], at: str, answer: str | None) -> None:
    done = invoke("audit", "who", IP, "--at", at, "--json", *outboxes)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["holder"] == answer


def test_who_says_how_it_knows(outboxes: list[str]) -> None:
    held = invoke("audit", "who", IP, "--at", "2026-11-03T10:30:00Z", *outboxes).stdout
    assert "was held by worker1" in held
    assert "token 1.1.1" in held
    assert "expired 2026-11-03T11:00:00.000000000Z (no majority)" in held
    nobody = invoke("audit", "who", IP, "--at", "2026-11-03T11:00:00.5Z", *outboxes).stdout
    assert "nobody on record" in nobody
    assert "last before: worker1" in nobody
    assert "no end on record" in invoke("audit", "who", IP, *outboxes).stdout


def test_a_damaged_record_is_told_and_the_rest_is_shown(outboxes: list[str], tmp_path: Path) -> None:
    (segment,) = (tmp_path / "one").glob("*.audit")
    data = bytearray(segment.read_bytes())
    data[40] ^= 1
    segment.write_bytes(data)
    done = invoke("audit", "tail", *outboxes)
    assert "are not readable" in done.stderr
    assert len(done.stdout.splitlines()) == 4


def test_who_lists_the_tenures_of_a_span(outboxes: list[str]) -> None:
    span = ("--from", "2026-11-03T10:30:00Z", "--to", "2026-11-03T12:00:00Z")
    rows = invoke("audit", "who", IP, *span, *outboxes).stdout.splitlines()
    assert [row.split()[2] for row in rows] == ["HOLDER", "worker1", "worker2"]
    assert "expired 2026-11-03T11:00:00.000000000Z (no majority)" in rows[1]
    document = json.loads(invoke("audit", "who", IP, "--json", "--to", "2026-11-03T10:30:00Z", *outboxes).stdout)
    assert [(one["holder"], one["end"]) for one in document["tenures"]] == [
        ("worker1", {"kind": "expired", "reason": "no majority"})
    ]


def test_verify_says_what_is_good_and_what_is_not(tmp_path: Path) -> None:
    folder = chained_log.write_outbox(
        tmp_path / "outbox", lambda outbox: chained_log.hold(outbox, 1, from_ms=0, until_ms=50)
    )
    done = invoke("audit", "verify", "--outbox", folder)
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "nothing lost, nothing doubled, no overlap")
    assert json.loads(invoke("audit", "verify", "--json", "--outbox", folder).stdout)["good"] is True
    chained_log.rewrite(folder, chained_log.payloads(folder)[1:])
    done = invoke("audit", "verify", "--outbox", folder)
    assert done.exit_code == 1
    assert "missing" in done.stdout
    document = json.loads(invoke("audit", "verify", "--json", "--outbox", folder).stdout)
    assert [finding["fault"] for finding in document["findings"]] == ["missing"]


def test_tail_shows_what_a_later_version_wrote_as_it_is(tmp_path: Path) -> None:
    event = json.loads(encode(AuditRecord(RecordKind.NODE_UP, "n", "b", 1, 0, 0, subject="worker1")))
    event |= {"type": "egressgw.weather.rained", "dataschema": "urn:egressgw:audit:record:v9", "id": "r1"}
    event["data"] = {"millimetres": 3}
    payload = json.dumps(event).encode()
    chained_log.rewrite(tmp_path, [payload])
    assert "weather.rained" in invoke("audit", "tail", "--outbox", tmp_path).stdout
    assert invoke("audit", "tail", "--json", "--outbox", tmp_path).stdout.encode().strip() == payload
    assert invoke("audit", "verify", "--outbox", tmp_path).exit_code == 0


def test_tail_follows_outboxes_until_it_is_interrupted(outboxes: list[str]) -> None:
    command = egressgw("audit", "tail", "--follow", *outboxes)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        events = [process.stdout.readline().split()[1] for _ in range(5)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
    assert events == ["EVENT", "acquired", "expired", "acquired", "gap"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["who", "not-an-ip"],
        ["who", IP, "--at", "noon"],
        ["who", IP, "--at", "2026-01-01", "--to", "2026-01-02"],
        ["tail", "--outbox", "/none"],
        ["verify", "--outbox", "/none"],
    ],
)
def test_wrong_use_of_audit_is_status_2(arguments: list[str]) -> None:
    done = invoke("audit", *arguments)
    assert done.exit_code == 2
    assert "Traceback" not in done.output


# --- lab


def test_the_lab_gets_its_arguments_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.group()
    def lab() -> None:
        pass

    @lab.command()
    @click.option("--nodes", type=int)
    def up(nodes: int) -> None:
        click.echo(f"{nodes} nodes")
        click.get_current_context().exit(3)

    module = types.ModuleType("service.lab.command")
    module.lab = lab  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "service.lab.command", module)
    done = invoke("lab", "up", "--nodes", "3")
    assert (done.stdout, done.exit_code) == ("3 nodes\n", 3)
    assert "egressgw lab" in invoke("lab", "--help").stdout


def test_a_missing_lab_breaks_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "service.lab.command", None)
    done = invoke("lab", "up")
    assert done.exit_code == 2
    assert "this installation lacks the lab" in done.stderr
    assert invoke("--help").exit_code == 0
