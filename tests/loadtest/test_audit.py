import importlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from loadtest.audit import AuditOptions, AuditResult, steps
from loadtest.report import audit_document, audit_summary

cli = importlib.import_module("loadtest.__main__")


def result() -> AuditResult:
    measured = AuditResult(AuditOptions(rounds=3), "a broker")
    measured.throughput = [30_000.0, 10_000.0, 20_000.0]
    measured.latency_ms = [{"p50": 1.0, "p99": value, "max": 9.0} for value in (4.0, 2.0, 3.0)]
    return measured


def test_the_summary_is_of_medians() -> None:
    assert audit_summary(result()) == {"records_per_second": 20_000.0, "p50_ms": 1.0, "p99_ms": 3.0, "max_ms": 9.0}


def test_the_document_has_every_number() -> None:
    document = json.loads(json.dumps(audit_document(result(), {})))
    assert document["records_per_second"] == [30_000.0, 10_000.0, 20_000.0]
    assert [one["p99"] for one in document["latency_ms"]] == [4.0, 2.0, 3.0]


def test_a_run_has_a_warm_up_and_two_measurements_a_round() -> None:
    assert steps(AuditOptions(rounds=3)) == 7


@pytest.mark.kafka
def test_a_short_run_measures_through_a_real_broker(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    arguments = ["audit", "--rounds=1", "--duration=1", "--records=2000", "--rate=200", f"--json={file}"]
    done = CliRunner().invoke(cli.main, arguments)
    assert done.exit_code == 0, done.output
    assert "records/s" in done.output
    document = json.loads(file.read_text())
    assert document["summary"]["records_per_second"] > 100
    assert document["records"] >= 2000
