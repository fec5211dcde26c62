"""The clocks of this machine. Pure machines never read them: whoever runs one hands the time in."""

import time


def boot_ns() -> int:
    """CLOCK_BOOTTIME: the clock of leases and of the datapath (`bpf_ktime_get_boot_ns`); counts suspend, no steps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def raw_ns() -> int:
    """CLOCK_MONOTONIC_RAW: no clock daemon slews it (rule T3)."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


def wall_ns() -> int:
    """Unix time; for records and people only, since it steps."""
    return time.time_ns()
