"""Claims of the anti-replay window, the last against a naive second implementation."""

from hypothesis import given
from hypothesis import strategies as st

from service.wire.replay_window import ReplayWindow


def test_a_counter_is_fresh_once() -> None:
    window = ReplayWindow()
    assert window.is_fresh(7)
    window.take(7)
    assert not window.is_fresh(7)


def test_late_counters_inside_the_window_are_fresh() -> None:
    window = ReplayWindow(width=8)
    window.take(10)
    assert window.is_fresh(3)
    assert not window.is_fresh(2)


def test_zero_is_never_fresh() -> None:
    assert not ReplayWindow().is_fresh(0)


def test_a_leap_to_the_end_of_the_counter_costs_no_memory() -> None:
    window = ReplayWindow()
    window.take(1)
    window.take((1 << 64) - 1)
    assert not window.is_fresh(1)
    assert window.is_fresh((1 << 64) - 2)


@given(st.lists(st.integers(min_value=1, max_value=60), max_size=80))
def test_the_window_agrees_with_a_set(counters: list[int]) -> None:
    window, taken = ReplayWindow(width=16), set[int]()
    for counter in counters:
        expected = counter not in taken and counter > max(taken, default=0) - 16
        assert window.is_fresh(counter) is expected
        if expected:
            window.take(counter)
            taken.add(counter)
