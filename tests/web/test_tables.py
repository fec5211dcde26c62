import io
from typing import Any

import pytest
from rich.console import Console

from service.web.layout import plain
from service.web.tables import print_status

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


def test_the_kinds_of_hooks_in_use_are_shown() -> None:
    hooks = {"eth0": "tcx", "egw0": "tcx", "pod0": "ifb"}
    (title,) = [line for line in shown(DOCUMENT | {"hooks": hooks}).splitlines() if line.startswith("node ")]
    assert title.endswith("  hooks ifb, tcx")


def test_an_agent_shows_what_it_uses_of_the_ports_of_each_address_and_how_full_its_tables_are() -> None:
    busiest = {"remote": "203.0.113.7:443", "protocol": "tcp", "portsTaken": 250, "portsUsable": 4096}
    row = {"usableBlocks": 64, "blocksInUse": 5, "portsInUse": 300, "busiest": busiest, "refused": {"quota": 9}}
    flows = {
        "total": 310,
        "tables": {"open": {"rows": 300, "room": 65536}},
        "busiestPod": {"pod": "10.0.0.1", "flows": 290, "quota": 32768},
    }
    lines = [
        " ".join(line.split())
        for line in shown(DOCUMENT | {"portBlocks": {"192.0.2.100": row}, "flows": flows}).splitlines()
    ]
    assert "PORTS OF BLOCKS IN USE PORTS IN USE BUSIEST REMOTE REFUSED" in lines
    assert "192.0.2.100 5 of 64 300 203.0.113.7:443 tcp: 250 of 4096 quota 9" in lines
    assert "table open 300 65536" in lines
    assert "pod 10.0.0.1 290 32768" in lines


def test_a_leader_shows_which_nodes_have_and_lack_how_many_blocks_those_with_most_first() -> None:
    blocks = {f"worker{number}": number for number in range(1, 8)}
    row = {"isComplete": True, "blocks": blocks, "lacking": {"worker9": 3}, "unowned": 980}
    lines = [" ".join(line.split()) for line in shown(DOCUMENT | {"portBlocks": {"192.0.2.100": row}}).splitlines()]
    assert "PORTS OF UNOWNED LACKING BLOCKS" in lines
    assert "192.0.2.100 980 worker9 3 worker7 7, worker6 6, worker5 5, worker4 4, worker3 3 and 2 more" in lines


@pytest.mark.parametrize("row", [{}, {"holder": None, "reason": ""}, {"holder": None, "assigned": "worker2"}])
@pytest.mark.parametrize("more", [{}, {"keeper": {"alive": False}}, {"electorate": {"majority": False}}])
def test_an_address_without_holder_is_never_without_reason(row: dict[str, Any], more: dict[str, Any]) -> None:
    text = shown(DOCUMENT | {"floatingIPs": {"192.0.2.9": row}} | more)
    (shown_row,) = [line for line in text.splitlines() if line.startswith("192.0.2.9")]
    assert shown_row.split()[1] == "-"
    assert shown_row.split()[-1] != "-"
    assert text.startswith("trouble")


def test_an_empty_document_names_what_is_missing() -> None:
    verdict, title = shown({}).splitlines()
    assert verdict.startswith("trouble nobody leads")
    assert title == "node -  role -  leader none  term -"


def test_what_is_strange_in_a_document_is_left_out_and_the_rest_is_shown() -> None:
    strange = {
        "portBlocks": {"192.0.2.100": 3},
        "flows": [],
        "nodes": None,
        "floatingIPs": [],
        "policies": {"p": None},
        "drops": {"x": "many"},
        "errors": None,
    }
    lines = [line.split() for line in shown(DOCUMENT | strange).splitlines() if line.strip()]
    assert lines == [
        ["healthy"],
        ["node", "worker1", "role", "worker", "leader", "controller-a", "term", "4"],
        ["POLICY", "ACCEPTED", "EGRESS", "IP", "PODS", "REASON"],
        ["p", "no", "-", "-", "-"],
        ["DROPPED", "FOR", "PACKETS"],
        ["x", "many"],
    ]


@pytest.mark.parametrize("section", ["nodes", "floatingIPs", "policies", "drops", "objects"])
@pytest.mark.parametrize("value", [None, [], "text", 3, {}])
def test_a_section_of_no_use_takes_no_other_along(section: str, value: object) -> None:
    others = {"nodes": "Down", "floatingIPs": "NoNodeInSubnet", "policies": "UnknownEgressIP", "drops": "no_gateway"}
    text = shown(DOCUMENT | {section: value})
    for other, word in others.items():
        assert (word in text) == (other != section)


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_a_row_of_no_use_is_shown_by_its_name(value: object) -> None:
    rows = {"nodes": "odd-node", "floatingIPs": "192.0.2.250", "policies": "odd-policy"}
    text = shown(DOCUMENT | {section: DOCUMENT[section] | {name: value} for section, name in rows.items()})
    for name in (*rows.values(), "worker2", "192.0.2.100", "web"):
        assert name in text


def test_nothing_reaches_the_terminal_that_it_would_obey() -> None:
    text = shown(DOCUMENT | {"errors": ["\x1b[2J[red]boo[/red]\r\n"], "node": "\x1b]0;title\x07"})
    assert "\x1b" not in text
    assert "[red]boo[/red]" in text
    assert plain("a\tb\nc") == "a b c"


def test_what_is_wrong_in_the_process_itself_is_shown_first() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    print_status({"node": "worker1", "troubles": ["task repair failed 2 times, at last with KeyError: 7"]}, console)
    lines = console.export_text().splitlines()
    assert lines[0] == "trouble task repair failed 2 times, at last with KeyError: 7"
