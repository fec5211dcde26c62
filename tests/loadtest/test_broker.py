"""The Kafka broker of tests and load tests."""

import os
import socket
from pathlib import Path

import pytest

from loadtest.broker import Broker, missing_for_kafka
from service.model.errors import TransientError
from tests.lab.cluster.programs import write_program


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing_for_kafka().startswith("not installed: java, mvn (")
    write_program(tmp_path / "java")
    assert missing_for_kafka().startswith("not installed: mvn (")
    write_program(tmp_path / "mvn")
    assert missing_for_kafka() == ""


def test_with_a_broker_at_hand_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "broker:9092")
    assert missing_for_kafka() == ""


def connects(broker: Broker) -> bool:
    try:
        socket.create_connection(("127.0.0.1", broker.port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.kafka
def test_a_killed_broker_comes_back_at_its_address_and_leaves_nothing_running(tmp_path: Path) -> None:
    with Broker(tmp_path / "broker") as broker:
        address, printed = broker.address, broker.log_file.read_text()
        assert connects(broker)
        broker.kill()
        assert not connects(broker)
        broker.start()
        assert connects(broker)
        assert broker.address == address
        assert broker.log_file.read_text().startswith(printed)
    assert not connects(broker)


@pytest.mark.kafka
def test_a_broker_that_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match=r"(?s)broker.*egwt-nonsense"):
        Broker(tmp_path / "broker", java_options=["-Degwt=1", "-XX:egwt-nonsense"]).__enter__()
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if _mentions(path, str(tmp_path))]


def _mentions(path: Path, word: str) -> bool:
    try:
        return word in path.read_text() and int(path.parent.name) != os.getpid()
    except OSError:
        return False
