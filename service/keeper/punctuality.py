"""What a keeper asks of the machine so that it is not late, and what it does without."""

import logging

from service.host.memory import lock_memory
from service.host.priority import raise_priority
from service.model.errors import OperatorError
from service.model.lease import ProfileName

_log = logging.getLogger(__name__)


def become_punctual(profile: ProfileName) -> str:
    """Return the scheduling that was granted: `fifo`, `nice` or `normal`; what was not is logged.

    Raises OperatorError where the profile cannot be kept with it: 50 ms leases need real-time priority.
    """
    if not lock_memory():
        _log.warning("memory is not locked (CAP_IPC_LOCK): a page fault may cost a lease")
    scheduling = raise_priority()
    if scheduling != "fifo":
        if profile is ProfileName.FASTEST:
            raise OperatorError("lease.profile: `fastest` needs real-time priority (CAP_SYS_NICE); choose `fast`")
        _log.warning("real-time priority was not granted (CAP_SYS_NICE), priority is %s", scheduling)
    return scheduling
