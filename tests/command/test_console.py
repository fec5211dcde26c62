import io
import json
import sys

import pytest

from service.command.console import console, print_json


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
