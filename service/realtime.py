"""What a lease keeper asks of the scheduler and the memory manager, and what it got (leases.md, Process)."""

import ctypes
import gc
import os

_MCL_CURRENT, _MCL_FUTURE = 1, 2
_FIFO_PRIORITY = 10
"""Above everything of ordinary priority, below the kernel's own threads."""


def lock_memory() -> bool:
    """Keep every page in memory: one page fault from swap outlasts a lease. False where it is not permitted."""
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) == 0)


def freeze_collector() -> None:
    """Take all that exists at the start out of collections: what is left to collect takes microseconds."""
    gc.collect()
    gc.freeze()


def raise_priority() -> str:
    """Return what was granted: `fifo`, `nice` or `normal`."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_FIFO_PRIORITY))
    except OSError:
        pass
    else:
        return "fifo"
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    except OSError:
        return "normal"
    return "nice"
