"""What a process asks of the memory manager and of the garbage collector, so that neither makes it late."""

import ctypes
import gc

_MCL_CURRENT, _MCL_FUTURE = 1, 2


def lock_memory() -> bool:
    """Keep every page in memory: one page fault from swap outlasts a lease. False where it is not permitted."""
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) == 0)


def freeze_heap() -> None:
    """Take what exists now for long-lived: full garbage collections leave it out from now on.

    Else each one walks the whole heap, 70 ms with everything imported, and the event loop stands still meanwhile.
    """
    gc.collect()
    gc.freeze()
