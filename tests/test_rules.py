"""Every rule that code or tests name is defined in docs/, once; and every rule that docs/ defines is named by them.

A rule is a letter and a number, as in `(P2)` or `(rule W11)`; docs/ defines it by a paragraph that begins with it in
bold: `**P2.** ...`. Read here: comments and docstrings of Python, comments of C, names of tests.
"""

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
DEFINED = re.compile(r"^\*\*([A-Z]\d{1,2})\.\*\*", re.MULTILINE)
NAMED = re.compile(r"(?<![\w.])([A-Z]\d{1,2})(?![\w.]*\w)")
IN_TEST_NAME = re.compile(r"(?:^|_)([a-z][1-3]?\d)(?=_|$)")
"""No family has more than 39 rules: a p99 is no rule."""
C_COMMENT = re.compile(r"//.*?$|/\*.*?\*/", re.MULTILINE | re.DOTALL)


def definitions() -> list[str]:
    pages = sorted((ROOT / "docs").rglob("*.md"))
    return [rule for page in pages for rule in DEFINED.findall(page.read_text(encoding="utf-8"))]


def python_texts(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of what is written for people: comments, and strings that stand alone."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def named_in_python(source: str) -> Iterator[tuple[int, str]]:
    for line, text in python_texts(source):
        yield from ((line, rule) for rule in NAMED.findall(text))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield from ((node.lineno, rule.upper()) for rule in IN_TEST_NAME.findall(node.name))


def named_in_c(source: str) -> Iterator[tuple[int, str]]:
    for comment in C_COMMENT.finditer(source):
        line = source.count("\n", 0, comment.start()) + 1
        yield from ((line, rule) for rule in NAMED.findall(comment.group()))


def mentions() -> Iterator[tuple[str, str]]:
    """(rule, file:line) of every rule that is named."""
    for folder in ("service", "loadtest", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path != Path(__file__):
                for line, rule in named_in_python(path.read_text(encoding="utf-8")):
                    yield rule, f"{path.relative_to(ROOT)}:{line}"
    for path in sorted((ROOT / "bpf").glob("*.[ch]")):
        for line, rule in named_in_c(path.read_text(encoding="utf-8")):
            yield rule, f"{path.relative_to(ROOT)}:{line}"


def test_every_rule_that_code_or_tests_name_is_defined_in_docs() -> None:
    known = set(definitions())
    assert known
    assert [f"{where} names {rule}" for rule, where in mentions() if rule not in known] == []


def test_every_rule_that_docs_define_is_named_by_code_or_tests() -> None:
    named = {rule for rule, _ in mentions()}
    assert [rule for rule in definitions() if rule not in named] == []


def named_by_tests(folders: tuple[str, ...]) -> dict[str, list[str]]:
    """Names of tests that are named after a rule, where the programs and netfilter run."""
    found: dict[str, list[str]] = {}
    for folder in folders:
        for path in sorted((ROOT / "tests" / folder).rglob("test_*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                    for rule in IN_TEST_NAME.findall(node.name):
                        found.setdefault(rule.upper(), []).append(node.name)
    return found


def test_every_rule_of_the_datapath_and_every_case_of_nat_has_a_test_named_after_it() -> None:
    named = named_by_tests(("datapath", "network", "e2e", "cluster"))
    pages = [(ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8") for page in ("datapath", "flows")]
    rules = [rule for page in pages for rule in DEFINED.findall(page)]
    assert {f"C{number}" for number in range(1, 33)} <= set(rules)
    assert [rule for rule in rules if rule not in named] == []


def test_no_rule_is_defined_twice() -> None:
    assert [rule for rule, times in Counter(definitions()).items() if times > 1] == []


def test_a_rule_is_found_wherever_it_is_named() -> None:
    source = (
        '"""By Z1."""\n\n\ndef test_z9_and_p3_hold() -> None:\n    """(rule Z2)"""\n    x = 1  # Z3, Z4; not U32x\n'
    )
    assert sorted(named_in_python(source)) == [(1, "Z1"), (4, "P3"), (4, "Z9"), (5, "Z2"), (6, "Z3"), (6, "Z4")]
    assert list(named_in_c("int a; // Z5\n/* one\n   (Z6) */\n")) == [(1, "Z5"), (2, "Z6")]
