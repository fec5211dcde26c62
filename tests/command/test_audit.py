"""`egressgw audit`: outboxes of several nodes read as one history."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from service.audit.cloud_event import decode, encode, parse_time
from service.audit.journal import Journal
from service.command import logs
from service.command.audit import audit
from service.model.audit_record import AuditRecord, RecordKind
from tests.audit import log as chained_log
from tests.command.invocation import egressgw, invoke

IP = "192.0.2.100"


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


def test_without_options_the_outboxes_of_this_nodes_processes_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "DEFAULT_STATE", str(tmp_path))
    missing = invoke("audit", "tail")
    assert missing.exit_code == 2
    assert f"{tmp_path}/outbox" in missing.stderr
    write_outbox(tmp_path / "outbox", [record(RecordKind.ACQUIRED, "10:00:00", "worker1", 1, 1)])
    assert len(invoke("audit", "tail").stdout.splitlines()) == 2
    write_outbox(tmp_path / "keeper-outbox", [record(RecordKind.PROMISED, "09:59:59", "worker1", 1, 1)])
    kinds = [line.split()[1] for line in invoke("audit", "tail").stdout.splitlines()]
    assert kinds == ["EVENT", "promised", "acquired"]


def test_the_settings_say_where_the_outboxes_are(tmp_path: Path) -> None:
    write_outbox(tmp_path / "state" / "outbox", [record(RecordKind.ACQUIRED, "10:00:00", "worker1", 1, 1)])
    config = tmp_path / "config.yaml"
    config.write_text(f"node: worker1\nstate_dir: {tmp_path / 'state'}\n", encoding="utf-8")
    assert "acquired" in invoke("audit", "tail", "--config", config).stdout


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


def test_who_concludes_nothing_beyond_what_its_sources_cover(outboxes: list[str], tmp_path: Path) -> None:
    """Seen: from one outbox alone `held by worker1`, while worker2 held it."""
    first = [
        record(RecordKind.ACQUIRED, "10:00:00", "worker1", 1, 1),
        record(RecordKind.FAILOVER, "10:30:00", "worker1", 1, 2, previous="worker3"),
    ]
    alone = ("--outbox", write_outbox(tmp_path / "alone", first))
    lines = invoke("audit", "who", IP, *alone).stdout.splitlines()
    assert lines[0].startswith(f"{IP} was last on record as held by worker1; at ")
    assert lines[0].endswith(" is not proved:")
    assert lines[1] == "  records of worker1 reach to 2026-11-03T10:30:00Z, without an end of it"
    assert lines[-2] == "  read: worker1, 2 records, 2026-11-03T10:00:00Z to 2026-11-03T10:30:00Z"
    assert lines[-1] == "  not read, and may know more: worker3"
    before = invoke("audit", "who", IP, "--at", "2026-11-03T10:20:00Z", *alone).stdout
    assert before.startswith(f"{IP} was held by worker1 at ")
    said = json.loads(invoke("audit", "who", IP, "--json", *alone).stdout)
    assert (said["holder"], said["proved"], said["notRead"]) == ("worker1", False, ["worker3"])
    assert said["read"][0]["to"] == "2026-11-03T10:30:00.000000000Z"


def test_moves_says_what_moved_and_why_with_what_it_read(outboxes: list[str]) -> None:
    done = invoke("audit", "moves", "--since", "2026-11-03T00:00:00Z", *outboxes)
    assert done.exit_code == 0
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert rows[:3] == [
        "TIME FLOATING IP FROM TO WHY",
        f"2026-11-03T10:00:00Z {IP} - worker1 acquired",
        f"2026-11-03T11:00:01Z {IP} worker1 worker2 acquired; no majority; nobody held it for 1.00 s",
    ]
    assert rows[3].startswith("read: worker1, 2 records")
    said = json.loads(invoke("audit", "moves", "--since", "2026-11-03T10:30:00Z", "--json", *outboxes).stdout)
    assert [(move["from"], move["to"]) for move in said["moves"]] == [("worker1", "worker2")]


def test_moves_of_a_quiet_time_says_so_and_how_far_the_records_reach(outboxes: list[str]) -> None:
    lines = invoke("audit", "moves", "--since", "1m", *outboxes).stdout.splitlines()
    assert lines[0] == "nothing moved, as far as the records tell"
    assert lines[1].startswith("  read: worker1, 2 records, 2026-11-03T10:00:00Z to ")
    assert invoke("audit", "moves", "--since", "noon", *outboxes).exit_code == 2


def test_a_damaged_record_is_told_and_the_rest_is_shown(outboxes: list[str], tmp_path: Path) -> None:
    (segment,) = (tmp_path / "one").glob("*.audit")
    data = bytearray(segment.read_bytes())
    data[40] ^= 1
    segment.write_bytes(data)
    done = invoke("audit", "tail", *outboxes)
    assert "are not readable" in done.stderr
    assert len(done.stdout.splitlines()) == 4


def test_who_takes_times_as_people_type_them(outboxes: list[str]) -> None:
    """All of it is long over: within the last minute nothing began, and whoever held it then may hold it still."""
    whole = invoke("audit", "who", IP, "--since", "2026-11-03T00:00:00Z", *outboxes).stdout.splitlines()
    lately = invoke("audit", "who", IP, "--since", "1m", *outboxes).stdout.splitlines()
    assert 1 < len(lately) < len(whole)
    assert invoke("audit", "who", IP, "--at", "03:12", *outboxes).exit_code in (0, 1)
    refused = invoke("audit", "who", IP, "--at", "noon", *outboxes)
    assert (refused.exit_code, "write 12h (ago), 03:12" in refused.stderr) == (2, True)


def test_who_lists_the_tenures_of_a_span(outboxes: list[str]) -> None:
    span = ("--from", "2026-11-03T10:30:00Z", "--to", "2026-11-03T12:00:00Z")
    rows = invoke("audit", "who", IP, *span, *outboxes).stdout.splitlines()
    assert [row.split()[2] for row in rows[:3]] == ["HOLDER", "worker1", "worker2"]
    assert "expired 2026-11-03T11:00:00.000000000Z (no majority)" in rows[1]
    document = json.loads(invoke("audit", "who", IP, "--json", "--to", "2026-11-03T10:30:00Z", *outboxes).stdout)
    assert [(one["holder"], one["end"]) for one in document["tenures"]] == [
        ("worker1", {"kind": "expired", "reason": "no majority"})
    ]


# --- ports


def said(kind: RecordKind, at: str, sequence: int, *, term: int = 7, ports: str = "", **more: Any) -> AuditRecord:
    detail = {"ports": ports, "leaderTerm": str(term)} if kind.startswith("ports") else {}
    time_ns = parse_time(f"2026-11-03T{at}Z")
    subject = IP if kind.startswith("ports") else "worker9"
    actor = f"controller/c{term}"
    return AuditRecord(
        kind, f"c{term}", "b", sequence, time_ns, 0, subject=subject, term=term, actor=actor, detail=detail, **more
    )


@pytest.fixture
def ports(tmp_path: Path) -> list[str]:
    """A leader that gives ports, and takes them; then another one."""
    first = [
        said(RecordKind.PORTS_TABLE, "10:00:00", 1),
        said(RecordKind.PORTS_MOVED, "10:10:00", 2, ports="34560-34623 7.1 worker1", holder="worker1", reason="given"),
        said(RecordKind.PORTS_MOVED, "10:50:00", 3, ports="34560-34623 7.2", previous="worker1", reason="taken"),
        said(RecordKind.NODE_UP, "11:00:00", 4),
    ]
    second = [said(RecordKind.PORTS_TABLE, "12:00:00", 1, term=8, ports="34560-34623 7.3 worker2")]
    folders = [write_outbox(tmp_path / "c7", first), write_outbox(tmp_path / "c8", second)]
    return [part for folder in folders for part in ("--outbox", str(folder))]


@pytest.mark.parametrize(
    ("at", "node", "proved"),
    [
        ("10:05:00", None, True),
        ("10:10:00", "worker1", True),
        ("10:49:59", "worker1", True),
        ("10:50:00", None, True),
        ("11:30:00", None, False),
        ("12:00:00", "worker2", True),
        ("13:00:00", "worker2", False),
    ],
)
def test_who_says_which_node_had_a_port_at_any_time(ports: list[str], at: str, node: str | None, proved: bool) -> None:
    done = invoke("audit", "who", f"{IP}:34567", "--at", f"2026-11-03T{at}Z", "--json", *ports)
    answer = json.loads(done.stdout)
    assert (done.exit_code, answer["onRecord"], answer["node"], answer["proved"]) == (0, True, node, proved)


def test_who_says_that_the_records_of_a_port_do_not_reach_back_so_far(ports: list[str]) -> None:
    lines = invoke("audit", "who", f"{IP}:34567", "--at", "2026-11-03T09:59:59Z", *ports).stdout.splitlines()
    assert lines[:2] == [
        f"no record says whose {IP}:34567 was at 2026-11-03T09:59:59.000000000Z",
        "  records of this port begin 2026-11-03T10:00:00.000000000Z",
    ]
    document = json.loads(invoke("audit", "who", f"{IP}:34567", "--at", "2026-11-03T09:00Z", "--json", *ports).stdout)
    assert (document["onRecord"], document["node"]) == (False, None)
    elsewhere = invoke("audit", "who", "192.0.2.7:34567", *ports).stdout.splitlines()
    assert elsewhere[1] == "  records of this port are none"


def test_who_says_of_a_port_how_it_knows_and_what_it_does_not(ports: list[str], outboxes: list[str]) -> None:
    def lines(at: str) -> list[str]:
        return invoke("audit", "who", f"{IP}:34567", "--at", f"2026-11-03T{at}Z", *ports).stdout.splitlines()

    assert lines("10:30:00") == [
        f"{IP}:34567 was worker1's at 2026-11-03T10:30:00.000000000Z",
        "  ports 34560-34623, stamp 7.1, from 2026-11-03T10:10:00.000000000Z (given) to "
        "2026-11-03T10:50:00.000000000Z (taken)",
        "  read: controller/c7, 4 records, 2026-11-03T10:00:00Z to 2026-11-03T11:00:00Z",
        "  read: controller/c8, 1 records, 2026-11-03T12:00:00Z to 2026-11-03T12:00:00Z",
    ]
    nobody = lines("11:30:00")
    assert nobody[0].startswith(f"{IP}:34567 was last on record as nobody's; at ")
    assert nobody[1] == "  a leader's last records are missing: the next one found it changed"
    assert nobody[3].startswith("  last before: worker1, ports 34560-34623, stamp 7.1")
    late = lines("13:00:00")
    assert late[1:3] == [
        "  no later record of a leader was read",
        "  ports 34560-34623, stamp 7.3, from 2026-11-03T12:00:00.000000000Z or before (as a leader read it) to "
        "no end on record",
    ]
    without = invoke("audit", "who", f"{IP}:34567", *outboxes).stdout.splitlines()
    assert without[-1] == "  read: no record of a controller; only controllers record ports"


def test_who_proves_nothing_of_a_port_where_records_are_lost(ports: list[str], outboxes: list[str]) -> None:
    lines = invoke("audit", "who", f"{IP}:34567", "--at", "2026-11-03T10:30:00Z", *ports, *outboxes).stdout.splitlines()
    assert lines[1] == "  4 records are lost, and may have said otherwise"


def test_who_lists_whose_a_port_was_in_a_span(ports: list[str]) -> None:
    span = ("--from", "2026-11-03T10:30:00Z", "--to", "2026-11-03T12:00:00Z")
    lines = invoke("audit", "who", f"{IP}:34567", *span, *ports).stdout.splitlines()
    assert lines[0].split() == ["FROM", "TO", "NODE", "PORTS", "STAMP", "WHY", "END"]
    assert [("worker1" in line, "or before" in line) for line in lines[1:3]] == [(True, False), (False, True)]
    document = json.loads(invoke("audit", "who", f"{IP}:34567", *span, "--json", *ports).stdout)
    assert [(one["node"], one["untilIsExact"]) for one in document["tenures"]] == [
        ("worker1", True),
        (None, False),
        ("worker2", False),
    ]


@pytest.mark.parametrize("address", [f"{IP}:80", f"{IP}:65536", f"{IP}:", f"{IP}:http", "192.0.2.300:34567"])
def test_who_refuses_what_is_no_port_that_a_connection_of_a_pod_can_have(ports: list[str], address: str) -> None:
    assert invoke("audit", "who", address, *ports).exit_code == 2


def test_tail_shows_the_beginning_of_a_long_table(tmp_path: Path) -> None:
    table = ", ".join(f"{1024 + 64 * block}-{1087 + 64 * block} 7.1 worker1" for block in range(100))
    folder = write_outbox(tmp_path / "long", [said(RecordKind.PORTS_TABLE, "10:00:00", 1, ports=table)])
    shown = invoke("audit", "tail", "--outbox", folder).stdout
    assert "ports=1024-1087 7.1 worker1" in shown
    assert len(shown) < 1000


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


def test_every_way_to_read_is_a_command() -> None:
    assert set(audit.commands) == {"tail", "who", "moves", "verify"}
