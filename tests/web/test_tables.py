import io
from typing import Any

from rich.console import Console

from service.web.tables import plain, print_status

DOCUMENT: dict[str, Any] = {
    "node": "worker1",
    "role": "worker",
    "leader": "controller-a",
    "term": 4,
    "nodes": {
        "worker1": {"state": "Up", "role": "worker", "version": "0.1.0", "segments": [1]},
        "worker2": {"state": "Down", "role": "worker"},
    },
    "floatingIPs": {
        "192.0.2.100": {"holder": "worker1", "successor": "worker2", "token": "4.1.2", "reason": ""},
        "192.0.2.101": {"holder": None, "successor": None, "token": None, "reason": "NoNodeInSubnet"},
    },
    "policies": {
        "web": {"accepted": True, "reason": "", "message": "", "matchedPods": 3, "egressSourceIP": "192.0.2.100"},
        "bad": {"accepted": False, "reason": "UnknownEgressIP", "message": "192.0.2.9 is not a floating IP"},
    },
    "errors": ["a.yaml: spec: wrong"],
    "drops": {"no_gateway": 7, "fragment": 0},
}


def shown(document: dict[str, Any]) -> str:
    stream = io.StringIO()
    print_status(document, Console(file=stream, width=160, highlight=False, markup=False))
    return stream.getvalue()


def test_every_section_is_shown() -> None:
    text = shown(DOCUMENT)
    for word in ("controller-a", "worker2", "Down", "4.1.2", "NoNodeInSubnet", "UnknownEgressIP: 192.0.2.9", "a.yaml"):
        assert word in text
    assert "no_gateway" in text
    assert "fragment" not in text


def test_an_empty_or_strange_document_is_no_error() -> None:
    assert "leader none" in shown({})
    shown({"nodes": None, "floatingIPs": [], "policies": {"p": None}, "drops": {"x": "many"}, "errors": None})


def test_nothing_reaches_the_terminal_that_it_would_obey() -> None:
    text = shown(DOCUMENT | {"errors": ["\x1b[2J[red]boo[/red]\r\n"], "node": "\x1b]0;title\x07"})
    assert "\x1b" not in text
    assert "[red]boo[/red]" in text
    assert plain("a\tb\nc") == "a b c"
