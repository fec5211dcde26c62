"""The end of each lease of this node, for the record: told once its fence is closed, whatever the agent does meanwhile.

The agent sees ends only as differences of reports, so one that came while it was away is none of its records. Those of
a keeper that was killed are found by the next one: the fence still says until when it was open, and under which token.
"""

from collections.abc import Callable

from service.audit.promise_log import Ending
from service.keeper.fence import Fence
from service.lease.holder import CloseFence, OpenFence


class Endings:
    """Stands between the holder and what executes its outputs. `ended` is called after the fence was closed."""

    def __init__(
        self,
        fence: Fence,
        execute: Callable[[object], None],
        *,
        deadline_of: Callable[[str], int | None],
        ended: Callable[[Ending], None],
        clock: Callable[[], int],
    ) -> None:
        """`deadline_of`: until when the fence of a key is open, as `execute` has written it; None where it is not."""
        self._fence = fence
        self._execute = execute
        self._deadline_of = deadline_of
        self._ended = ended
        self._clock = clock
        self._deadlines: dict[str, int] = {}
        """Of every fence that is open, as last written or adopted."""

    def adopt(self) -> None:
        """Tell what ended while no keeper ran; to be called before anything is written to the fence."""
        self._fence.refresh()
        now_ns = self._clock()
        for address, entry in self._fence.entries().items():
            if entry.deadline_ns > now_ns:
                self._deadlines[str(address)] = entry.deadline_ns
            elif entry.deadline_ns:
                self._ended(Ending(str(address), entry.token, "expired", entry.deadline_ns, entry.deadline_ns))

    def handle(self, output: object) -> None:
        """Have one output of the holder executed, and tell of it where it ends a lease. Raises what executing does.

        What was never open, because the kernel did not take it, has no end.
        """
        now_ns = self._clock()
        self._execute(output)
        if isinstance(output, OpenFence) and (opened_ns := self._deadline_of(output.key)) is not None:
            self._deadlines[output.key] = opened_ns
        elif isinstance(output, CloseFence) and (deadline_ns := self._deadlines.pop(output.key, None)) is not None:
            self._ended(Ending(output.key, output.token, output.reason, min(now_ns, deadline_ns), deadline_ns))
