from ipaddress import IPv4Address

import pytest

from service.gateway.announcement import Announce, AnnouncementSchedule
from service.model.errors import InvariantError

IP, OTHER = IPv4Address("192.168.1.100"), IPv4Address("192.168.1.101")
SECOND = 1_000_000_000


def run(schedule: AnnouncementSchedule, *, until_ns: int) -> list[tuple[float, IPv4Address]]:
    """Advance from deadline to deadline; return (second, IP) of each announcement."""
    seen = []
    while (due_ns := schedule.deadline_ns()) is not None and due_ns <= until_ns:
        schedule.advance(due_ns)
        seen += [(round(due_ns / SECOND, 3), output.floating_ip) for output in schedule.drain()]
    return seen


def test_a_new_holder_announces_at_once_then_by_the_schedule() -> None:
    schedule = AnnouncementSchedule()
    schedule.start(IP, 0)
    assert schedule.drain() == [Announce(IP)]
    times = [second for second, _ in run(schedule, until_ns=200 * SECOND)]
    assert times == [0.2, 1.3, 2.4, 3.5, 4.6, 5.7, 65.7, 125.7, 185.7]


def test_nothing_held_is_nothing_to_do() -> None:
    schedule = AnnouncementSchedule()
    assert schedule.deadline_ns() is None
    schedule.advance(SECOND)
    assert schedule.drain() == []


def test_a_lost_lease_silences_even_what_was_due() -> None:
    schedule = AnnouncementSchedule()
    schedule.start(IP, 0)
    schedule.start(OTHER, 0)
    schedule.stop(IP)
    assert schedule.drain() == [Announce(OTHER)]
    assert {ip for _, ip in run(schedule, until_ns=100 * SECOND)} == {OTHER}
    schedule.stop(IP)


def test_starting_again_changes_nothing() -> None:
    schedule = AnnouncementSchedule()
    schedule.start(IP, 0)
    schedule.drain()
    schedule.start(IP, SECOND // 10)
    assert schedule.drain() == []
    assert schedule.deadline_ns() == SECOND // 5


def test_link_up_begins_the_burst_anew() -> None:
    schedule = AnnouncementSchedule()
    schedule.start(IP, 0)
    run(schedule, until_ns=100 * SECOND)
    schedule.restart(IP, 100 * SECOND)
    assert schedule.drain() == [Announce(IP)]
    assert [second for second, _ in run(schedule, until_ns=102 * SECOND)] == [100.2, 101.3]


def test_an_address_that_is_not_held_is_not_restarted() -> None:
    schedule = AnnouncementSchedule()
    schedule.restart(IP, 0)
    assert schedule.drain() == []
    assert schedule.deadline_ns() is None


def test_after_a_pause_there_is_one_announcement_not_a_burst() -> None:
    schedule = AnnouncementSchedule()
    schedule.start(IP, 0)
    schedule.drain()
    schedule.advance(10 * SECOND)
    assert schedule.drain() == [Announce(IP)]
    assert schedule.deadline_ns() == 11_100_000_000


def test_time_never_goes_backwards() -> None:
    schedule = AnnouncementSchedule()
    schedule.advance(SECOND)
    with pytest.raises(InvariantError):
        schedule.advance(SECOND - 1)
