"""A loop that stands still is told, by how long."""

import asyncio
import time

import pytest

from service.host.loop_lag import BOUNDS_S, NO_LAGS, LoopLag


@pytest.mark.parametrize(
    ("lag_s", "place"), [(0.0, 0), (0.001, 0), (0.0011, 1), (0.02, 4), (4.0, len(BOUNDS_S) - 1), (9.0, len(BOUNDS_S))]
)
def test_each_look_counts_once_in_the_bound_that_it_does_not_exceed(lag_s: float, place: int) -> None:
    lag = LoopLag()
    lag.note(lag_s)
    assert [number for number, count in enumerate(lag.lags.counts) if count] == [place]
    assert (lag.lags.sum_s, lag.recent_s) == (lag_s, lag_s)


def test_what_is_recent_passes_and_what_was_counted_stays() -> None:
    lag = LoopLag()
    for lag_s in [0.3, *[0.0] * 50]:
        lag.note(lag_s)
    assert lag.recent_s == 0.0
    assert sum(lag.lags.counts) == 51
    assert lag.lags.sum_s == 0.3


async def test_a_stall_is_seen_while_it_looks_and_not_afterwards() -> None:
    lag = LoopLag()
    lag.start()
    await asyncio.sleep(0.25)
    assert sum(lag.lags.counts) >= 2
    time.sleep(0.3)  # noqa: ASYNC251
    await asyncio.sleep(0.15)
    assert lag.recent_s > 0.1
    assert sum(count for bound, count in zip(BOUNDS_S, lag.lags.counts, strict=False) if bound > 0.1) >= 1
    lag.stop()
    seen = lag.lags
    await asyncio.sleep(0.25)
    assert lag.lags == seen != NO_LAGS
    lag.stop()
