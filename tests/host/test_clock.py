import time

from service.host import clock


def test_clocks_are_the_ones_of_leases_and_datapath() -> None:
    assert abs(clock.boot_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) < 10**9
    assert abs(clock.raw_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)) < 10**9
    assert abs(clock.wall_ns() - time.time_ns()) < 10**9
