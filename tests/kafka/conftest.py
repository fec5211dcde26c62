"""A broker for the tests of this folder: the one named in KAFKA_BOOTSTRAP_SERVERS, or one that is started for them."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.broker import Broker


@pytest.fixture(scope="session")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port; tests share it, each with a topic of its own."""
    if existing := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield existing.split(",")[0]
        return
    with Broker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker.address


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that the test may kill."""
    with Broker(tmp_path / "broker") as broker:
        yield broker


@pytest.fixture
def topic() -> str:
    return f"egwt-{uuid.uuid4().hex[:12]}"
