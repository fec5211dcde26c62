"""Who holds an address defends it, as RFC 5227 says in section 2.4 (c), and no more often."""

import itertools
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from service.gateway.defence import (
    ASK_GAP_NS,
    ASK_PACE_NS,
    DEFEND_INTERVAL_NS,
    LASTS_NS,
    MEMBER_PATIENCE_NS,
    REPLY_AFTER_NS,
    SETTLING_NS,
    Ask,
    Defence,
    Defend,
)

ADDRESS, OTHER = IPv4Address("192.168.1.100"), IPv4Address("192.168.1.101")
STRANGER, ANOTHER = b"\2\0\0\0\0\x63", b"\2\0\0\0\0\x64"
SECOND = 1_000_000_000
LONG_HELD_NS = 100 * SECOND


def holding(*addresses: IPv4Address) -> Defence:
    defence = Defence()
    defence.hold(addresses or (ADDRESS,), now_ns=0)
    return defence


def run(defence: Defence, until_ns: int, *, since_ns: int = 0) -> Iterator[tuple[float, Defend | Ask]]:
    """(second, output) of everything that is due by then, each at its time."""
    now_ns = since_ns
    while now_ns <= until_ns:
        defence.advance(now_ns=now_ns)
        yield from ((now_ns / SECOND, output) for output in defence.drain())
        deadline_ns = defence.deadline_ns()
        now_ns = until_ns + 1 if deadline_ns is None else max(deadline_ns, now_ns + 1)


def defended(defence: Defence, until_ns: int) -> list[tuple[float, bool]]:
    """(seconds since the address was long held, whether it is the reply form) of every announcement."""
    found = run(defence, LONG_HELD_NS + until_ns, since_ns=LONG_HELD_NS)
    return [(round(at - LONG_HELD_NS / SECOND, 3), one.is_reply) for at, one in found if isinstance(one, Defend)]


def hear(defence: Defence, after_ns: int = 0, mac: bytes = STRANGER, *, is_member: bool = False) -> bool:
    return defence.hear(ADDRESS, mac, is_member=is_member, now_ns=LONG_HELD_NS + after_ns)


def test_a_strangers_word_is_answered_at_once_and_in_the_second_form_when_it_is_silent() -> None:
    defence = holding()
    assert hear(defence)
    assert defended(defence, 9 * SECOND) == [(0.0, False), (2.1, True)]
    assert defence.defences == 1


def test_one_who_announces_twice_is_answered_after_the_second_time() -> None:
    defence = holding()
    hear(defence)
    defence.advance(now_ns=LONG_HELD_NS)
    defence.drain()
    hear(defence, 2 * SECOND)
    found = list(run(defence, LONG_HELD_NS + 9 * SECOND, since_ns=LONG_HELD_NS + 2 * SECOND))
    assert (LONG_HELD_NS / SECOND + 4.1, Defend(ADDRESS, is_reply=True)) in found


def test_against_one_who_never_stops_there_is_one_announcement_each_interval() -> None:
    defence = holding()
    announced: list[tuple[int, bool]] = []
    for tenth in range(400):
        now_ns = LONG_HELD_NS + tenth * SECOND // 10
        defence.hear(ADDRESS, STRANGER, is_member=False, now_ns=now_ns)
        defence.advance(now_ns=now_ns)
        announced += [(tenth, one.is_reply) for one in defence.drain() if isinstance(one, Defend)]
    requests = [tenth for tenth, is_reply in announced if not is_reply]
    assert requests == [0, 100, 200, 300]
    assert [tenth for tenth, is_reply in announced if is_reply] == [50, 150, 250, 350]
    assert DEFEND_INTERVAL_NS == 10 * SECOND


def test_a_members_word_is_given_time_and_then_answered() -> None:
    """Its own address (A1) ends the tenure in that time; else its MAC was forged."""
    defence = holding()
    hear(defence, is_member=True)
    assert defended(defence, SECOND) == [(MEMBER_PATIENCE_NS / SECOND, False)]
    defence = holding()
    hear(defence, is_member=True)
    defence.hold((), now_ns=LONG_HELD_NS + 1)
    assert defended(defence, 20 * SECOND) == []
    assert defence.conflicts() == {}


def test_the_last_words_of_the_holder_before_are_no_conflict() -> None:
    defence = holding()
    assert not defence.hear(ADDRESS, STRANGER, is_member=True, now_ns=SETTLING_NS - 1)
    assert defence.conflicts() == {}
    assert defence.hear(ADDRESS, STRANGER, is_member=True, now_ns=SETTLING_NS)


def test_a_conflict_names_who_it_is_with_and_ends_by_itself() -> None:
    defence = holding()
    assert hear(defence)
    assert not hear(defence, 1), "the same word twice is no news"
    assert hear(defence, 2, ANOTHER)
    assert defence.conflicts() == {ADDRESS: ANOTHER}
    list(run(defence, LONG_HELD_NS + LASTS_NS + 1, since_ns=LONG_HELD_NS))
    assert defence.conflicts() == {ADDRESS: ANOTHER}
    list(run(defence, LONG_HELD_NS + LASTS_NS + 2, since_ns=LONG_HELD_NS + LASTS_NS + 2))
    assert defence.conflicts() == {}
    assert defence.is_clear(ADDRESS, now_ns=LONG_HELD_NS + LASTS_NS + 2)


def test_a_held_address_is_asked_for_so_that_a_silent_other_is_found_and_more_often_in_a_conflict() -> None:
    defence = holding()
    asked = [at for at, one in run(defence, 25 * SECOND) if isinstance(one, Ask)]
    assert asked == [1.0, 11.0, 21.0]
    assert ASK_GAP_NS == 10 * SECOND
    defence.hear(ADDRESS, STRANGER, is_member=False, now_ns=25 * SECOND)
    asked = [at for at, one in run(defence, 36 * SECOND, since_ns=25 * SECOND) if isinstance(one, Ask)]
    assert asked == [30.0, 35.0]


def test_hundreds_of_addresses_are_asked_for_one_after_the_other_and_each_in_its_turn() -> None:
    addresses = tuple(IPv4Address(0x0A000000 + number) for number in range(200))
    defence = holding(*addresses)
    asked = [(at, one.floating_ip) for at, one in run(defence, 40 * SECOND) if isinstance(one, Ask)]
    times = [at for at, _ in asked]
    assert min(after - before for before, after in itertools.pairwise(times)) >= ASK_PACE_NS / SECOND - 1e-6
    assert [address for _, address in asked[:196]] == list(addresses[:196])


def test_an_address_in_conflict_is_asked_for_before_all_others() -> None:
    addresses = tuple(IPv4Address(0x0A000000 + number) for number in range(200))
    defence = holding(*addresses)
    list(run(defence, 20 * SECOND))
    defence.hear(addresses[-1], STRANGER, is_member=False, now_ns=20 * SECOND)
    asked = {one.floating_ip: at for at, one in run(defence, 26 * SECOND, since_ns=20 * SECOND) if isinstance(one, Ask)}
    assert asked[addresses[-1]] == pytest.approx(25, abs=0.3)


def test_what_is_not_held_is_neither_defended_nor_clear() -> None:
    defence = holding()
    assert not defence.hear(OTHER, STRANGER, is_member=False, now_ns=LONG_HELD_NS)
    assert not defence.holds(OTHER)
    assert not defence.is_clear(OTHER, now_ns=LONG_HELD_NS)
    assert not defence.is_clear(ADDRESS, now_ns=0), "not asked for yet"
    list(run(defence, 3 * SECOND))
    assert defence.is_clear(ADDRESS, now_ns=3 * SECOND)


def test_a_new_tenure_knows_nothing_of_the_one_before() -> None:
    defence = holding()
    hear(defence)
    defence.hold((), now_ns=LONG_HELD_NS)
    defence.hold((ADDRESS,), now_ns=LONG_HELD_NS)
    assert defence.drain() == []
    assert defence.conflicts() == {}
    assert REPLY_AFTER_NS > 2 * SECOND
