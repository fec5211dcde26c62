"""The house rules that no linter knows: lengths, which test stands for which module, and the law of docs/.

`make lint` runs this file alone. It reads text, and nothing of the product runs.
"""

import ast
import io
import re
import statistics
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FUNCTION_LINES_MAX = 50
MODULE_LINES_MAX = 500
TEST_MODULE_LINES_MAX = 700

EXPLAINED_ROOMS = ("lease", "gossip", "policy", "gateway")
"""Where the reasoning is hard: at least so many lines of comments and docstrings in a hundred."""
EXPLAINED_MIN = 22

TOPICAL = {"cluster", "deploy", "e2e", "kafka", "kubernetes", "simulation"}
"""Folders of tests that are about the whole or about a real neighbour, not about one module each."""
FAMILIES = {
    "tests/agent/test_wiring.py": "service/agent/agent.py",
    "tests/audit/test_outbox_cap.py": "service/audit/outbox.py",
    "tests/audit/test_schema.py": "service/audit/schema",
    "tests/keeper/test_keeper_electorate.py": "service/keeper/keeper.py",
    "tests/keeper/test_small_disks.py": "service/keeper/keeper.py",
    "tests/loadtest/chaos/test_events.py": "loadtest/chaos/events",
    "tests/loadtest/test_main.py": "loadtest/__main__.py",
    **{
        f"tests/datapath/test_{name}.py": "bpf/egress_gateway.c"
        for name in (
            "cut",
            "direct",
            "error",
            "flow_counters",
            "flow_life",
            "fragment",
            "holder",
            "known_verdict",
            "hostile_frames",
            "icmp_error",
            "live_traffic",
            "pod_ingress",
            "port",
            "probe",
            "reverse_snat",
            "snat",
            "steer",
            "tunnel",
            "tunnel_past_stack",
            "unclassified",
            "uplink_arp",
            "uplink_egress",
            "walk",
            "walk_ends",
        )
    },
}
"""Tests of one module that are too many for one file, or of what is no module of Python."""


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> Iterator[tuple[int, str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.end_lineno - node.lineno + 1, f"{name_of(path)}:{node.lineno} {node.name}", node


# -- lengths --


def test_no_function_is_longer_than_a_screen() -> None:
    long = [
        (lines, where)
        for path in python_files("service", "loadtest")
        for lines, where, _ in functions(path)
        if lines > FUNCTION_LINES_MAX
    ]
    assert long == []


def test_most_functions_are_a_few_lines() -> None:
    lines = sorted(lines for path in python_files("service") for lines, _, _ in functions(path))
    assert statistics.median(lines) <= 8
    assert lines[len(lines) * 9 // 10] <= 18


def test_no_module_is_longer_than_can_be_read_at_once() -> None:
    limits = {"service": MODULE_LINES_MAX, "loadtest": MODULE_LINES_MAX, "tests": TEST_MODULE_LINES_MAX}
    long = [
        (name_of(path), lines)
        for folder, limit in limits.items()
        for path in python_files(folder)
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > limit
    ]
    assert long == []


# -- explanations --


def explained_lines(text: str) -> int:
    """Comments, and lines of strings that stand alone: docstrings of modules, classes, functions and fields."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = sum(token.type == tokenize.COMMENT for token in tokens)
    lines = text.splitlines()
    strings = 0
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            strings += sum(bool(line.strip()) for line in lines[node.lineno - 1 : node.end_lineno])
    return comments + strings


@pytest.mark.parametrize("room", EXPLAINED_ROOMS)
def test_reasoning_is_explained_where_it_is_hard(room: str) -> None:
    texts = [path.read_text(encoding="utf-8") for path in python_files(f"service/{room}")]
    written = sum(bool(line.strip()) for text in texts for line in text.splitlines())
    assert 100 * sum(map(explained_lines, texts)) / written >= EXPLAINED_MIN


def test_each_room_says_what_it_decides() -> None:
    rooms = [path for path in python_files("service") if path.name == "__init__.py" and path.parent != ROOT / "service"]
    silent = [name_of(path) for path in rooms if len((ast.get_docstring(parse(path)) or "").split()) < 8]
    assert silent == []


# -- the mirror --


def mirrored(test: Path) -> Path:
    """The module that a test file is named after; `tests/loadtest` is beside service/."""
    relative = test.relative_to(ROOT / "tests")
    home = ROOT if relative.parts[0] == "loadtest" else ROOT / "service"
    return home / relative.parent / f"{test.stem.removeprefix('test_')}.py"


def test_a_test_file_is_named_after_the_module_it_is_about() -> None:
    tests = [path for path in python_files("tests") if path.name.startswith("test_")]
    # Those at the top are about the repository, or about one of the few files at the top of service/.
    in_rooms = [path for path in tests if path.relative_to(ROOT / "tests").parts[0] not in TOPICAL]
    homeless = [
        name_of(path)
        for path in in_rooms
        if name_of(path) not in FAMILIES and path.parent != ROOT / "tests" and not mirrored(path).exists()
    ]
    assert homeless == []
    assert [
        test for test, subject in FAMILIES.items() if not (ROOT / test).exists() or not (ROOT / subject).exists()
    ] == []


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


UNTESTED = {
    "loadtest/__main__.py": "tests/loadtest/test_main.py loads it by its name, as `python -m` does",
    "service/__main__.py": "run by the tests of the command line as a process",
    "service/gossip/randomness.py": "a protocol",
    "service/host/priority.py": "tests/host/test_priority.py, in a process of its own: a priority is not given back",
    "service/lab/traffic/capture.py": "tests/lab/traffic/test_capture.py runs it as the lab does, as a process",
    "service/lease/answer.py": "tests/lease/test_elector.py: what it composes is what an elector answers",
    "service/lease/randomness.py": "a protocol",
    "service/lease/settlement.py": "tests/lease/test_elector.py, tests/simulation/test_electorate.py: how one settles",
    "service/network/pod_device.py": "tests/network/test_pod_device.py, by the Netlink that owns its socket",
}
"""Modules that no test file imports, each with what proves it all the same."""


def test_each_module_is_imported_by_a_test() -> None:
    known = {name for path in python_files("tests") for name in imported_modules(path)}
    modules = [path for path in python_files("service", "loadtest") if path.name != "__init__.py"]
    alone = [name_of(path) for path in modules if name_of(path)[:-3].replace("/", ".") not in known]
    assert sorted(set(alone) ^ UNTESTED.keys()) == [], "tested and listed as not, or the other way round"


# -- the pages --

PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
IN_REPOSITORY = re.compile(r"(?<![\w/.])(?:service|tests|bpf|loadtest|docs)/[\w./-]*\w")
PLACEHOLDERS = ("ROOM", "NOUN")


def test_every_file_that_a_page_names_is_there() -> None:
    pages = [ROOT / name for name in PAGES] + sorted((ROOT / "docs").rglob("*.md"))
    named = [(page, path) for page in pages for path in IN_REPOSITORY.findall(page.read_text(encoding="utf-8"))]
    assert len(named) > 200
    missing = [
        f"{name_of(page)}: {path}"
        for page, path in named
        if not (ROOT / path).exists() and not any(word in path for word in PLACEHOLDERS)
    ]
    assert missing == []
