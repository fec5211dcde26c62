"""When a tombstone is forgotten, and whose word counts after a long absence."""

from service.gossip.config import GossipConfig
from service.gossip.message import TICK_MAX
from service.gossip.retention import AHEAD_NS, NEVER, Retention

CONFIG = GossipConfig(tombstone_ticks=10, away_ticks_max=5)


def at(tick: int) -> Retention:
    retention = Retention(CONFIG)
    retention.hear(tick, agrees=False, now_ns=0)
    return retention


def test_a_process_that_has_just_begun_takes_the_first_tick_it_hears() -> None:
    assert at(1000).tick == 1000


def test_who_is_in_step_follows_and_never_goes_back() -> None:
    retention = at(100)
    assert retention.hear(105, agrees=False, now_ns=0)
    assert not retention.hear(104, agrees=False, now_ns=0)
    assert retention.tick == 105


def test_who_was_away_takes_over_the_tick_only_once_it_holds_the_same() -> None:
    retention = at(100)
    assert not retention.hear(106, agrees=False, now_ns=0)
    assert retention.is_behind(106)
    assert retention.hear(106, agrees=True, now_ns=0)
    assert not retention.is_behind(106)


def test_a_tombstone_is_forgotten_after_its_ticks_and_a_living_row_never() -> None:
    retention = at(100)
    ended = retention.ending
    for _ in range(9):
        retention.advance()
    assert not retention.has_expired(ended)
    retention.advance()
    assert retention.has_expired(ended)
    assert not retention.has_expired(0)


def test_a_row_that_ends_before_there_was_any_leader_is_a_tombstone_all_the_same() -> None:
    retention = Retention(CONFIG)
    assert retention.tick == NEVER
    assert retention.ending > 0


def test_a_sender_that_was_away_is_known_by_its_tick_and_one_that_knows_none_is_not_taken_for_one() -> None:
    retention = at(100)
    assert [retention.is_outdated(tick, now_ns=0) for tick in (94, 95, 100, 200, NEVER)] == [
        True,
        False,
        False,
        False,
        False,
    ]


def test_who_was_away_itself_does_not_believe_another_that_was() -> None:
    retention = at(100)
    assert not retention.is_outdated(100, now_ns=0)
    retention.hear(200, agrees=False, now_ns=0)
    assert retention.is_outdated(100, now_ns=AHEAD_NS - 1)


def test_one_datagram_from_far_ahead_is_not_believed_for_ever() -> None:
    retention = at(100)
    retention.hear(TICK_MAX, agrees=False, now_ns=0)
    retention.hear(200, agrees=False, now_ns=AHEAD_NS)
    assert not retention.is_outdated(198, now_ns=AHEAD_NS)
    assert not retention.is_outdated(100, now_ns=2 * AHEAD_NS)


def test_the_last_tick_there_can_be_can_be_sent() -> None:
    retention = at(TICK_MAX)
    retention.advance()
    assert retention.tick == TICK_MAX
