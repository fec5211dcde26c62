"""What a lease keeper asks of the scheduler, and what it got (docs/leases.md, "The keeper")."""

import os

_FIFO_PRIORITY = 10
"""Above everything of ordinary priority, below the kernel's own threads."""


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
