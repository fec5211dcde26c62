"""What whole keepers in virtual time need."""

import pytest

from tests.keeper.virtual import InlineExecutor


@pytest.fixture
def parts_that_know_only_real_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.audit.outbox.ThreadPoolExecutor", InlineExecutor)
