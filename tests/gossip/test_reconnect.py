import itertools
from random import Random

from service.gossip.reconnect import Reconnect

SECOND = 1_000_000_000


def reconnect() -> Reconnect[str]:
    return Reconnect(Random(1), interval_ns_min=SECOND // 2, interval_ns_max=8 * SECOND)


def attempts(contacts: Reconnect[str], span_ns: int, *, limit: int = 1) -> list[int]:
    return [now_ns for now_ns in range(0, span_ns, SECOND // 10) for _ in contacts.due(now_ns, limit=limit)]


def test_attempts_back_off_to_a_ceiling_and_never_end() -> None:
    contacts = reconnect()
    contacts.watch("a", now_ns=0)
    times = attempts(contacts, 600 * SECOND)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps[0] < SECOND
    assert max(gaps) <= 8.1 * SECOND
    assert times[-1] >= 590 * SECOND


def test_the_longest_overdue_goes_first_and_no_more_than_the_limit_at_once() -> None:
    contacts = reconnect()
    contacts.watch("a", now_ns=2)
    contacts.watch("b", now_ns=1)
    assert contacts.due(10 * SECOND, limit=1) == ["b"]
    assert contacts.due(10 * SECOND, limit=1) == ["a"]
    assert contacts.due(10 * SECOND, limit=1) == []


def test_a_contact_can_be_due_at_once() -> None:
    contacts = reconnect()
    contacts.watch("a", now_ns=5, at_once=True)
    assert contacts.due(5, limit=9) == ["a"]


def test_watching_twice_does_not_restart_the_back_off() -> None:
    contacts = reconnect()
    contacts.watch("a", now_ns=0)
    contacts.due(SECOND, limit=1)
    contacts.watch("a", now_ns=SECOND, at_once=True)
    assert contacts.due(SECOND, limit=1) == []


def test_the_forgotten_are_not_tried() -> None:
    contacts = reconnect()
    contacts.watch("a", now_ns=0)
    contacts.forget("a")
    contacts.forget("a")
    assert attempts(contacts, 10 * SECOND) == []


def test_a_lower_ceiling_for_the_lonely() -> None:
    contacts = reconnect()
    contacts.watch("a", now_ns=0)
    times = [now for now in range(0, 60 * SECOND, SECOND // 10) for _ in contacts.due(now, limit=1, wait_ns_max=SECOND)]
    assert len(times) >= 50
