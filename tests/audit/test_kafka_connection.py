import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.audit.kafka_connection import client_options
from service.audit.outbox import Origin, Outbox
from service.audit.publisher import Publisher
from service.model.errors import OperatorError
from service.settings import KafkaSettings, load_settings


def kafka(**options: Any) -> KafkaSettings:
    return load_settings(None, {"node": "n1", "kafka": {"bootstrap_servers": ["b1:9092"]} | options}).kafka


def test_without_more_it_is_a_plain_connection() -> None:
    options = client_options(kafka(), client_id="egressgw-n1")
    assert options["security_protocol"] == "PLAINTEXT"
    assert options["bootstrap_servers"] == ["b1:9092"]
    assert options["client_id"] == "egressgw-n1"
    assert "ssl_context" not in options


def test_tls_and_sasl_are_combined(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret \n")
    sasl = {"mechanism": "SCRAM-SHA-512", "username": "gw", "password_file": str(tmp_path / "password")}
    options = client_options(kafka(sasl=sasl, tls={"enabled": True}), client_id="c")
    assert options["security_protocol"] == "SASL_SSL"
    assert options["sasl_plain_password"] == "s3cret "
    assert options["ssl_context"].check_hostname
    assert client_options(kafka(sasl=sasl), client_id="c")["security_protocol"] == "SASL_PLAINTEXT"


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"bootstrap_servers": ["b1"]}, "kafka.bootstrap_servers[0]"),
        ({"bootstrap_servers": ["b1:9092", "b2:0"]}, "kafka.bootstrap_servers[1]"),
        ({"bootstrap_servers": [":9092"]}, "kafka.bootstrap_servers[0]"),
        ({"topic": "a b"}, "kafka.topic"),
        ({"topic": ".."}, "kafka.topic"),
        ({"compression": "rar"}, "kafka.compression"),
        ({"partitions": 0}, "kafka.partitions"),
        ({"linger_ms": -1}, "kafka.linger_ms"),
        ({"request_timeout_ms": 10}, "kafka.request_timeout_ms"),
        ({"tls": {"ca_file": "/ca.pem"}}, "kafka.tls.ca_file"),
        ({"tls": {"enabled": True, "key_file": "/key.pem"}}, "kafka.tls.cert_file"),
        ({"sasl": {"mechanism": "PLAIN"}}, "kafka.sasl.username"),
        ({"sasl": {"mechanism": "PLAIN", "username": "u"}}, "kafka.sasl.password_file"),
        ({"sasl": {"username": "u"}}, "kafka.sasl.mechanism"),
        ({"sasl": {"mechanism": "GSSAPI"}}, "kafka.sasl.mechanism"),
        ({"brokers": ["b1:9092"]}, "brokers"),
    ],
)
def test_a_bad_value_is_told_with_its_key(options: dict[str, Any], key: str) -> None:
    with pytest.raises(OperatorError) as told:
        kafka(**options)
    assert key in str(told.value)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"tls": {"enabled": True, "ca_file": "/absent/ca.pem"}}, "kafka.tls.ca_file"),
        ({"tls": {"enabled": True, "cert_file": "/absent/cert.pem"}}, "kafka.tls.cert_file"),
        ({"sasl": {"mechanism": "PLAIN", "username": "u", "password_file": "/absent/pw"}}, "kafka.sasl.password_file"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_at_the_start(tmp_path: Path, options: dict[str, Any], key: str) -> None:
    outbox = Outbox(tmp_path, Origin("n1", "b"), clock=lambda: (0, 0))
    with pytest.raises(OperatorError) as told:
        Publisher(kafka(**options), outbox, node="n1")
    assert key in str(told.value)


def test_the_keeper_and_a_process_without_kafka_do_not_load_the_library() -> None:
    code = "import sys, service.keeper.keeper, service.audit.publisher; sys.exit('aiokafka' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
