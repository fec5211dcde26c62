import gc
import time

import pytest

from loadtest.scale.steps import Step, Steps, frozen_heap, longest_of


def test_a_step_takes_what_it_computes_and_not_what_it_sleeps() -> None:
    steps = Steps()
    slept = steps.take("sleeps", lambda: time.sleep(0.05))
    computed = steps.take("computes", lambda: sum(range(1_000_000)))
    assert slept < 25
    assert computed > 1
    assert steps.longest == Step("computes", computed)
    assert steps.total_ms == pytest.approx(slept + computed)


def test_the_longest_of_several_loops_is_the_longest_of_all_and_where_none_stepped_there_is_none() -> None:
    one, other = Steps({"a": [1.0, 3.0]}), Steps({"b": [2.0]})
    assert longest_of([other, one, Steps()]) == Step("a", 3.0)
    assert one.document() == {"a": {"count": 2, "total": 4.0, "median": 2.0, "longest": 3.0}}
    with pytest.raises(ValueError, match="empty"):
        longest_of([Steps()])


def test_a_heap_is_frozen_for_as_long_as_something_is_measured() -> None:
    before = gc.get_freeze_count()
    with frozen_heap():
        assert gc.get_freeze_count() > before
    assert gc.get_freeze_count() == 0
