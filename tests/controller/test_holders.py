from ipaddress import IPv4Address

from service.controller.holders import AGE_NS_MAX, HolderTable
from service.lease.observer import Observation
from service.model.lease import LEADER_KEY, ZERO_TOKEN, Token

MS = 1_000_000
LEASE_NS = 300 * MS
IP, OTHER = IPv4Address("192.0.2.100"), IPv4Address("192.0.2.101")
TOKEN = Token(7, 1, 1)


def held(node: str | None = "worker1", *, age_ms: int = 0, remaining_ms: int = 300) -> Observation:
    return Observation(node, TOKEN, age_ms * MS, remaining_ms * MS, TOKEN)


def test_before_electors_have_answered_nobody_is_known_to_hold_anything() -> None:
    table = HolderTable(lease_ns=LEASE_NS)
    assert not table.is_fresh(now_ns=0)
    assert table.holders(now_ns=0) == {}
    assert table.renewed_ns() == {}


def test_a_floating_ip_is_held_by_whom_a_majority_names_and_one_that_is_vacant_by_nobody() -> None:
    table = HolderTable(lease_ns=LEASE_NS)
    table.observe({str(IP): held(), str(OTHER): held(None)}, now_ns=0)
    assert table.holders(now_ns=0) == {IP: ("worker1", TOKEN)}


def test_another_age_is_no_news_and_is_known_all_the_same() -> None:
    """It is another one with every answer, ten times a second, and a turn of a large cluster takes long."""
    table = HolderTable(lease_ns=LEASE_NS)
    assert table.observe({str(IP): held(age_ms=20, remaining_ms=300)}, now_ns=1000 * MS)
    assert not table.observe({str(IP): held(age_ms=10, remaining_ms=250)}, now_ns=1100 * MS)
    assert table.renewed_ns() == {IP: 1040 * MS}
    assert table.ends_ns(IP) == 1350 * MS
    assert table.observe({str(IP): held("worker2")}, now_ns=1200 * MS)


def test_leadership_is_no_floating_ip() -> None:
    table = HolderTable(lease_ns=LEASE_NS)
    table.observe({LEADER_KEY: held("controller-a")}, now_ns=0)
    assert table.holders(now_ns=0) == {}
    assert table.renewed_ns() == {}


def test_an_old_word_is_nobodys() -> None:
    table = HolderTable(lease_ns=LEASE_NS)
    table.observe({str(IP): held()}, now_ns=5)
    assert table.is_fresh(now_ns=5 + AGE_NS_MAX - 1)
    assert table.holders(now_ns=5 + AGE_NS_MAX - 1) != {}
    assert not table.is_fresh(now_ns=5 + AGE_NS_MAX)
    assert table.holders(now_ns=5 + AGE_NS_MAX) == {}


def test_the_same_table_is_no_news_and_keeps_what_was_known_fresh() -> None:
    table = HolderTable(lease_ns=LEASE_NS)
    assert table.observe({str(IP): held()}, now_ns=0)
    assert not table.observe({str(IP): held()}, now_ns=AGE_NS_MAX)
    assert table.is_fresh(now_ns=AGE_NS_MAX)
    assert table.observe({}, now_ns=AGE_NS_MAX)
    assert table.holders(now_ns=AGE_NS_MAX) == {}


def test_a_holder_renewed_when_what_is_left_of_its_lease_says_and_rather_too_early() -> None:
    table = HolderTable(lease_ns=LEASE_NS)
    table.observe({str(IP): held(age_ms=20, remaining_ms=250)}, now_ns=1000 * MS)
    assert table.renewed_ns() == {IP: (1000 - 20 - 50) * MS}


def test_of_a_lease_longer_than_usual_it_is_only_known_that_it_lives() -> None:
    table = HolderTable(lease_ns=LEASE_NS)
    table.observe({str(IP): held(age_ms=20, remaining_ms=14_000)}, now_ns=1000 * MS)
    assert table.renewed_ns() == {IP: (1000 - 20) * MS}


def test_the_token_is_the_highest_that_was_granted_to_anybody() -> None:
    table = HolderTable(lease_ns=LEASE_NS)
    table.observe({str(IP): Observation("worker1", Token(8, 1, 1), 0, 0, ZERO_TOKEN)}, now_ns=0)
    assert table.holders(now_ns=0) == {IP: ("worker1", Token(8, 1, 1))}
