from service.gossip.dissemination import Broadcasts, retransmit_limit

BUDGET = 1000


def test_an_item_is_sent_lambda_log_n_times_and_then_forgotten() -> None:
    """SWIM 4.1: each member gossips an update at most lambda * log n times."""
    broadcasts = Broadcasts(4)
    broadcasts.offer(("row", "t", "k"), b"news", urgent=True)
    sent = 0
    while broadcasts.take(BUDGET, live_members=20):
        sent += 1
    assert sent == retransmit_limit(4, 20) == 16
    assert len(broadcasts) == 0


def test_the_limit_grows_with_the_logarithm_of_the_members() -> None:
    assert [retransmit_limit(4, members) for members in (3, 50, 1000)] == [8, 16, 28]


def test_newer_news_replaces_older_about_the_same_subject_and_starts_anew() -> None:
    broadcasts = Broadcasts(1)
    broadcasts.offer(("member", "a"), b"old", urgent=True)
    broadcasts.take(BUDGET, live_members=3)
    broadcasts.offer(("member", "a"), b"new", urgent=True)
    assert broadcasts.take(BUDGET, live_members=3) == [b"new"]
    assert broadcasts.take(BUDGET, live_members=3) == [b"new"]
    assert broadcasts.take(BUDGET, live_members=3) == []


def test_urgent_items_come_before_a_join_storm() -> None:
    broadcasts = Broadcasts(4)
    for index in range(50):
        broadcasts.offer(("member", f"m{index}"), b"join " * 20, urgent=False)
    broadcasts.offer(("member", "dead"), b"dead", urgent=True)
    assert broadcasts.take(BUDGET, live_members=50)[0] == b"dead"


def test_what_was_sent_least_goes_first_so_that_all_get_their_turn() -> None:
    broadcasts = Broadcasts(4)
    for index in range(10):
        broadcasts.offer(("row", "t", str(index)), b"%d" % index * 100, urgent=True)
    taken = [message for _ in range(5) for message in broadcasts.take(200, live_members=3)]
    assert len(taken) == len(set(taken)) == 10


def test_a_datagram_takes_no_more_than_its_budget() -> None:
    broadcasts = Broadcasts(4)
    for index in range(10):
        broadcasts.offer(("row", "t", str(index)), b"x" * (50 + index), urgent=True)
    assert sum(len(message) for message in broadcasts.take(300, live_members=3)) <= 300
    assert broadcasts.take(0, live_members=3) == []


def test_what_is_no_longer_true_is_not_sent() -> None:
    broadcasts = Broadcasts(4)
    broadcasts.offer(("suspect", "a", "b"), b"a is suspect", urgent=True)
    broadcasts.retire(("suspect", "a", "b"))
    assert broadcasts.take(BUDGET, live_members=3) == []


def test_what_the_datagram_already_says_is_not_said_twice_nor_counted() -> None:
    broadcasts = Broadcasts(4)
    broadcasts.offer(("member", "a"), b"news", urgent=True)
    assert broadcasts.take(BUDGET, live_members=3, skip=[b"news"]) == []
    assert len(broadcasts) == 1
