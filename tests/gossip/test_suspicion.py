from math import isclose, log

import pytest

from service.gossip.config import DEFAULT_CONFIG
from service.gossip.suspicion import Suspicion, open_suspicion

SECOND = 1_000_000_000


def case(live_members: int) -> Suspicion:
    return open_suspicion(DEFAULT_CONFIG, accuser="a", live_members=live_members, now_ns=0)


def test_the_timeout_shrinks_with_each_independent_accuser_from_the_longest_to_the_shortest() -> None:
    """Lifeguard, LHA-Suspicion: max - (max - min) * log(C + 1) / log(K + 1)."""
    suspicion = case(10)
    assert suspicion.timeout_ns() == 6 * SECOND
    timeouts = [suspicion.timeout_ns()]
    for accuser in ("b", "c", "d"):
        assert suspicion.confirm(accuser)
        timeouts.append(suspicion.timeout_ns())
    assert timeouts == sorted(timeouts, reverse=True)
    assert isclose(timeouts[1], 6 * SECOND - 5 * SECOND * log(2) / log(4), rel_tol=1e-6)
    assert timeouts[-1] == 1 * SECOND


def test_the_same_accuser_counts_once() -> None:
    suspicion = case(10)
    assert not suspicion.confirm("a")
    assert suspicion.confirm("b")
    assert not suspicion.confirm("b")
    assert suspicion.confirmations == 1


def test_more_accusers_than_needed_add_nothing() -> None:
    suspicion = case(10)
    assert [suspicion.confirm(name) for name in "bcde"] == [True, True, True, False]


@pytest.mark.parametrize(("live_members", "confirmations_max"), [(2, 0), (3, 1), (4, 2), (5, 3), (1000, 3)])
def test_no_more_confirmations_are_awaited_than_there_are_witnesses(live_members: int, confirmations_max: int) -> None:
    assert case(live_members).confirmations_max == confirmations_max


def test_without_possible_witnesses_the_accused_gets_twice_the_shortest() -> None:
    suspicion = case(2)
    assert suspicion.timeout_ns() == 2 * suspicion.timeout_ns_min


def test_the_shortest_grows_with_the_logarithm_of_the_members() -> None:
    assert case(10).timeout_ns_min == 1 * SECOND
    assert case(1000).timeout_ns_min == 3 * SECOND


def test_time_in_which_we_stood_still_is_given_back() -> None:
    suspicion = case(10)
    deadline_ns = suspicion.deadline_ns
    suspicion.postpone(5 * SECOND)
    assert suspicion.deadline_ns == deadline_ns + 5 * SECOND
