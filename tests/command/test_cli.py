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
from prometheus_client import CollectorRegistry

from service.version import VERSION
from service.web.server import WebServer
from tests.command.invocation import egressgw, invoke

KEY = "00" * 32
DOCUMENT = {"node": "n1", "role": "worker", "leader": "c1", "nodes": {"n1": {"state": "Up", "role": "worker"}}}


# --- use


def test_help_names_every_command() -> None:
    text = invoke("--help").output
    for command in ("agent", "keeper", "controller", "status", "why", "validate", "check", "audit", "lab"):
        assert f"\n  {command} " in text


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "service", "--version"], capture_output=True, text=True, timeout=30)
    assert done.stdout.startswith("egressgw, version ")


@pytest.mark.parametrize("arguments", [["--help"], ["status", "--url", "http://127.0.0.1:1"], ["why", "192.0.2.1"]])
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
    assert f"{name} {VERSION} of node n7, cluster default, at 127.0.0.1: gossip port " in errors
    assert KEY not in errors


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
    introduction, fault = done.stderr.splitlines()
    assert "of node from-file" in introduction
    assert (done.returncode, fault) == (2, "egressgw: ports.http: 0.0.0.0:9642 is in use")


def test_a_bug_in_a_process_is_logged_whole_and_status_1(tmp_path: Path) -> None:
    done = run_process(tmp_path, "raise KeyError('x')", "--log-format", "json")
    assert done.returncode == 1
    introduction, fault = done.stderr.splitlines()
    assert "of node from-file" in json.loads(introduction)["message"]
    assert "KeyError" in json.loads(fault)["exception"]


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

    def record_folders(self) -> list[Path]:
        return []

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


def test_status_begins_with_a_verdict_and_shows_tables(url: str) -> None:
    done = invoke("status", "--url", url)
    assert done.exit_code == 0
    assert done.stdout.startswith("healthy\n")
    assert "leader c1" in done.stdout
    assert "n1" in done.stdout


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_status_of_something_wrong_ends_with_1(url: str, monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    monkeypatch.setitem(DOCUMENT, "leader", None)
    done = invoke("status", "--url", url, *options)
    assert done.exit_code == 1
    assert done.stdout.startswith("{" if options else "trouble nobody leads")


def test_status_of_nobody_is_one_clear_line() -> None:
    done = invoke("status", "--url", "http://127.0.0.1:1")
    assert done.exit_code == 1
    assert done.stderr.startswith("egressgw: 127.0.0.1:1 cannot be reached: Connection refused")
    assert done.stderr.count("\n") == 1


# --- why


IP = "192.0.2.100"
NOBODY = {"holder": None, "assigned": "n1", "successor": None, "token": None, "reason": ""}
LOST = {"members": {"n1": "192.0.2.1"}, "majority": False, "silentSeconds": {"n1": 65.0}, "trouble": ""}


def test_why_says_who_holds_an_address(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DOCUMENT, "floatingIPs", {IP: NOBODY | {"holder": "n1", "token": "4.1.2"}})
    done = invoke("why", IP, "--url", url)
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, f"{IP} is held by n1, token 4.1.2")


def test_why_and_status_say_why_nobody_does_with_the_majority_lost(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DOCUMENT, "floatingIPs", {IP: NOBODY})
    monkeypatch.setitem(DOCUMENT, "electorate", LOST)
    done = invoke("why", IP, "--url", url)
    assert done.exit_code == 1
    first, *facts = done.stdout.splitlines()
    assert first == f"{IP} is held by no node: not known here, no majority of electors answers"
    assert "elector n1   silent for 1 min 5 s" in map(str.rstrip, facts)
    said = invoke("status", "--url", url)
    assert said.exit_code == 1
    assert said.stdout.startswith("trouble no majority of electors answers (n1 silent for 1 min 5 s)")
    (row,) = [line for line in said.stdout.splitlines() if line.startswith(IP)]
    assert row.endswith("no majority of electors answers")


def test_why_as_json_is_for_programs(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DOCUMENT, "floatingIPs", {IP: NOBODY})
    done = invoke("why", IP, "--url", url, "--json")
    said = json.loads(done.stdout)
    assert (done.exit_code, said["held"], said["floatingIP"]) == (1, False, IP)
    assert {"of": "assigned to", "is": "n1"} in said["facts"]


def test_why_of_something_that_is_no_address_is_wrong_use(url: str) -> None:
    assert invoke("why", "web", "--url", url).exit_code == 2


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
