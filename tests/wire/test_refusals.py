"""What is told of datagrams that were refused."""

import logging

import pytest

from service.model.machine import Address
from service.wire.refusals import LATELY_NS, LOG_EVERY_NS, OTHER, REASONS_MAX, STRANGE, Refusals, count, troubles

STRANGER = Address("192.168.1.66", 7946)


class Clock:
    now_ns = 1

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize("reason", STRANGE)
def test_a_strange_datagram_is_a_trouble_that_names_reason_and_sender_while_it_is_recent(
    clock: Clock, reason: str
) -> None:
    refusals = Refusals("gossip", clock=clock)
    assert troubles([refusals]) == []
    for _ in range(3):
        refusals.note(reason, STRANGER)
    (trouble,) = troubles([refusals])
    assert trouble.startswith(f"gossip: 3 datagrams refused as {reason}, at last from 192.168.1.66:7946")
    clock.now_ns += LATELY_NS
    assert troubles([refusals]) == []


@pytest.mark.parametrize("reason", ["replay", "other-receiver", "stale-hello", "unbound", "reflection"])
def test_what_comes_about_between_good_members_is_counted_and_no_trouble(clock: Clock, reason: str) -> None:
    refusals = Refusals("lease", clock=clock)
    refusals.note(reason, STRANGER)
    assert (refusals.by_reason, troubles([refusals])) == ({reason: 1}, [])


def test_a_flood_is_one_line_of_the_log_each_minute(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals("gossip", clock=clock)
    for _ in range(1000):
        refusals.note("unknown-key", STRANGER)
    refusals.note("bad-tag", STRANGER)
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "not in our keyring" in caplog.records[0].message
    clock.now_ns += LOG_EVERY_NS
    refusals.note("unknown-key", STRANGER)
    assert "1001 datagrams" in caplog.records[2].message


def test_reasons_that_a_sender_can_vary_are_bounded() -> None:
    by_reason: dict[str, int] = {}
    for number in range(10_000):
        count(by_reason, f"epoch {number}")
    assert len(by_reason) == REASONS_MAX + 1
    assert by_reason[OTHER] == 10_000 - REASONS_MAX


def test_a_strange_datagram_is_told_of_also_where_many_other_reasons_came_first(clock: Clock) -> None:
    refusals = Refusals("gossip", clock=clock)
    for number in range(2 * REASONS_MAX):
        refusals.note(f"epoch {number}", STRANGER)
    refusals.note("unknown-key", STRANGER)
    assert "not in our keyring" in refusals.trouble()
    assert refusals.by_reason["unknown-key"] == 1
