"""What a process asks of the memory manager and of the garbage collector, so that neither makes it late."""

import ctypes
import gc
import threading

_MCL_CURRENT, _MCL_FUTURE = 1, 2
_STACK_BYTES = 1 << 20
"""Of a thread: no recursion of ours is deep."""


def lock_memory() -> bool:
    """Keep every page in memory: one page fault from swap outlasts a lease. False where it is not permitted.

    Threads that begin later have small stacks: the whole of each stack would be in memory, 8 MB as the system has it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    threading.stack_size(_STACK_BYTES)
    return bool(libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) == 0)


def freeze_heap() -> None:
    """Take what exists now for long-lived: full garbage collections leave it out from now on.

    Else each one walks the whole heap, 70 ms with everything imported, and the event loop stands still meanwhile.
    """
    gc.collect()
    gc.freeze()
