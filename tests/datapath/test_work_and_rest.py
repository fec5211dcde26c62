"""Rule I3: as much rest as work."""

import pytest

from service.datapath.work_and_rest import WorkAndRest


def test_a_little_work_needs_no_rest_and_much_as_much_as_it_took() -> None:
    account = WorkAndRest(burst_s=0.1)
    assert [account.work(0.03) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert account.work(0.03) == pytest.approx(0.02)
    account.rest(0.02)
    for _ in range(10):
        assert account.work(0.5) == pytest.approx(0.5)
        account.rest(0.5)


def test_rest_is_not_saved_up() -> None:
    account = WorkAndRest(burst_s=0.1)
    account.rest(3600.0)
    assert account.work(0.3) == pytest.approx(0.2)
