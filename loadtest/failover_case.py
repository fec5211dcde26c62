"""What `failover` does to the holder of a floating IP, again and again, and how it is mended."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from loadtest import gateway
from service.lab.configuration import member_folder
from service.lab.fault import Fault, apply_fault
from service.lab.lab import Lab
from service.lab.namespace import run
from service.model.errors import TransientError

Act = Callable[[], None]


@dataclass(frozen=True, slots=True)
class FailoverCase:
    """`prepare` finds out what it needs before the moment, and returns what is done at that moment."""

    told: str
    prepare: Callable[[Lab, str], Act]
    mend: Callable[[Lab, str], None]


def _crash(lab: Lab, holder: str) -> Act:
    def act() -> None:
        apply_fault(lab, holder, Fault.CUT)
        apply_fault(lab, holder, Fault.KILL)

    return act


def _crash_with_leader(lab: Lab, holder: str) -> Act:
    leader = next((one.name for one in lab.plan.controllers if gateway.leads(lab, one.name)), None)
    if leader is None:
        raise TransientError("no controller leads")

    def act() -> None:
        apply_fault(lab, holder, Fault.CUT)
        apply_fault(lab, leader, Fault.KILL)
        apply_fault(lab, holder, Fault.KILL)

    return act


def _move(lab: Lab, holder: str) -> Act:
    """As an operator types it; it returns when the address has moved."""
    member = next(node.name for node in lab.plan.nodes if node.name != holder)
    folder = member_folder(lab.folder, member) / "run"
    command = [sys.executable, "-m", "service", "move", gateway.SOURCE_IP, "--run-dir", str(folder)]

    def act() -> None:
        run(command)

    return act


def _mend(lab: Lab, holder: str) -> None:
    apply_fault(lab, holder, Fault.HEAL)
    for member in (holder, *(controller.name for controller in lab.plan.controllers)):
        apply_fault(lab, member, Fault.RESTART)


def _leave(lab: Lab, holder: str) -> None:
    """Nothing is broken."""


CASES = {
    "crash": FailoverCase("the holder dies in silence", _crash, _mend),
    "leader": FailoverCase("the holder dies, and the leader with it", _crash_with_leader, _mend),
    "move": FailoverCase("it is moved on purpose", _move, _leave),
}
