"""How many open connections of every kind live through one fault: `python -m loadtest connections --fault NAME`.

They are of pods of every node whose own pods the fault spares, and a download at full rate on each. A connection lives
if it goes on after the fault; then each is ended, half of them by FIN and half by RST, and the server has to hear of
it: what is alive for its client alone is not.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from loadtest import gateway, peer
from loadtest.conversation import FURTHER_KINDS, KINDS
from loadtest.gateway import SOURCE_IP, Report
from loadtest.rows.moves import PORT, alive, conversations, crash, hand_over, mend, others, wait_until_moved
from loadtest.station import Station
from service.lab.fault import Fault, apply_fault
from service.lab.lab import Lab
from service.lab.plan import LabOptions
from service.lab.status import wait_for
from service.model.errors import TransientError

DOWNLOADS = 1
"""On each pod, beside the others: they take what there is of the machine."""
ENDED_S = 10.0
_MOVED_S = 30.0
_SETTLES_S = 3.0
_MIXED = (*KINDS, "half-closed")

Do = Callable[[Lab, str], None]


@dataclass(frozen=True, slots=True)
class FaultCase:
    """What happens to the holder, or around it."""

    told: str
    apply: Do
    mend: Do
    spares_own_pods: bool = True
    """Pods on the holder go on."""
    nodes: int = 3


@dataclass(frozen=True, slots=True)
class Survivors:
    """Of one fault."""

    fault: str
    holder: str
    next_holder: str
    """The same where the address stayed."""
    asked: dict[str, int]
    alive: dict[str, int]
    still_open: int
    """At the server, after every client has ended its own: TCP connections that it has not heard the end of."""

    @property
    def failures(self) -> list[str]:
        """What broke the promise that all live and can be ended; none where it was kept."""
        found = [f"{self.asked[kind] - self.alive.get(kind, 0)} of {self.asked[kind]} {kind}" for kind in self.asked]
        dead = [words for words in found if not words.startswith("0 ")]
        told = [f"{self.fault}: dead: {', '.join(dead)}"] if dead else []
        return told + ([f"{self.fault}: {self.still_open} ends were not heard"] if self.still_open else [])


def _hang(lab: Lab, holder: str) -> None:
    apply_fault(lab, holder, Fault.STOP)
    wait_until_moved(lab, holder, timeout_s=_MOVED_S)


def _go_on(lab: Lab, holder: str) -> None:
    apply_fault(lab, holder, Fault.CONT)


def _cut(lab: Lab, holder: str) -> None:
    apply_fault(lab, holder, Fault.CUT)
    wait_until_moved(lab, holder, timeout_s=_MOVED_S)


def _cut_control(lab: Lab, holder: str) -> None:
    """Frames of pods and floating IPs pass; nothing of ours between members does."""
    apply_fault(lab, holder, Fault.CUT_CONTROL)
    wait_until_moved(lab, holder, timeout_s=_MOVED_S)


def _heal_control(lab: Lab, holder: str) -> None:
    apply_fault(lab, holder, Fault.HEAL)


def _crash_with_leader(lab: Lab, holder: str) -> None:
    for controller in lab.plan.controllers:
        if gateway.leads(lab, controller.name):
            apply_fault(lab, controller.name, Fault.KILL)
    crash(lab, holder)


def _mend_all(lab: Lab, holder: str) -> None:
    for controller in lab.plan.controllers:
        apply_fault(lab, controller.name, Fault.RESTART)
    mend(lab, holder)


def _crash_with_successor(lab: Lab, holder: str) -> None:
    successor = _successor(lab, holder)
    for fault in (Fault.CUT, Fault.KILL):
        for node in (holder, successor):
            apply_fault(lab, node, fault)
    asked = others(lab, holder, successor)[0]

    def has_moved() -> bool:
        row = gateway.status(lab, asked)["floatingIPs"].get(SOURCE_IP, {})
        return (row.get("holder") or holder) not in (holder, successor)

    wait_for(f"{SOURCE_IP} to leave {holder} and {successor}", has_moved, timeout_s=_MOVED_S)


def _mend_both(lab: Lab, holder: str) -> None:
    for node in lab.plan.nodes:
        mend(lab, node.name)


def _restart(part: str) -> Do:
    def restart(lab: Lab, holder: str) -> None:
        apply_fault(lab, holder, Fault.KILL, only=part)
        apply_fault(lab, holder, Fault.RESTART)
        time.sleep(_SETTLES_S)

    return restart


def _nothing(lab: Lab, holder: str) -> None:
    pass


def _successor(lab: Lab, holder: str) -> str:
    asked = others(lab, holder)[0]
    found: str = gateway.status(lab, asked)["floatingIPs"][SOURCE_IP]["successor"]
    return found


FAULTS = {
    "crash": FaultCase("the holder loses its power", crash, mend, spares_own_pods=False),
    "hang": FaultCase("the holder's agent and keeper stand still", _hang, _go_on),
    "cut": FaultCase("the holder's links go silent", _cut, mend, spares_own_pods=False),
    "cut-control": FaultCase("members hear nothing of the holder", _cut_control, _heal_control),
    "leader": FaultCase(
        "the holder dies, and the leader with it", _crash_with_leader, _mend_all, spares_own_pods=False
    ),
    "successor": FaultCase(
        "the holder dies, and its successor with it", _crash_with_successor, _mend_both, spares_own_pods=False, nodes=5
    ),
    "stop": FaultCase("the holder's keeper is told to stop", hand_over, mend),
    "agent": FaultCase("the holder's agent is killed and started again", _restart("agent"), _nothing),
    "keeper": FaultCase("the holder's keeper is killed and started again", _restart("keeper"), _nothing),
}


def measure_connections(fault: str, count: int, name: str, report: Report) -> Survivors:
    """In a lab of its own. Raises TransientError where the cluster does not become whole, or for a wrong source."""
    case = FAULTS[fault]
    with _running_site(LabOptions(name=name, nodes=case.nodes), report) as (lab, server):
        holder = gateway.wait_until_whole(lab)["floatingIPs"][SOURCE_IP]["holder"]
        spared = others(lab) if case.spares_own_pods else others(lab, holder)
        if fault == "successor":
            spared = others(lab, holder, _successor(lab, holder))
        report(f"{count} connections of pods on {', '.join(spared)}")
        with (
            conversations(lab, spared, count, _MIXED) as clients,
            conversations(lab, spared, DOWNLOADS * len(spared), FURTHER_KINDS[1:]) as downloads,
        ):
            report(case.told)
            case.apply(lab, holder)
            found = alive([*clients, *downloads], server)
            case.mend(lab, holder)
            still_open = _end_all([*clients, *downloads], server)
        status = gateway.status(lab, spared[0])["floatingIPs"].get(SOURCE_IP, {})
        return Survivors(fault, holder, status.get("holder") or "", found["asked"], found["alive"], still_open)


@contextlib.contextmanager
def _running_site(options: LabOptions, report: Report) -> Iterator[tuple[Lab, Station]]:
    with gateway.running_lab(options, report) as lab:
        peer.add_server(lab)
        gateway.apply_policy(lab, (f"{gateway.OUTSIDE}/32", peer.SERVER_NETWORK))
        with Station(lab.plan.router, "conversation") as server:
            server.ask("serve", address=peer.SERVER, port=PORT)
            yield lab, server


def _end_all(clients: list[Station], server: Station) -> int:
    """How many TCP connections the server still has when it should have heard of all ends."""
    for client in clients:
        client.ask("close")

    def is_over() -> bool:
        return open_at(server) == 0

    with contextlib.suppress(TransientError):
        wait_for("the server to hear of all ends", is_over, timeout_s=ENDED_S)
    return open_at(server)


def open_at(server: Station) -> int:
    """TCP connections that are open there."""
    found: int = server.ask("count")["open"]
    return found
