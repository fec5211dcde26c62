"""Breaks one member of a running lab, and mends it."""

import signal
from enum import StrEnum

from service.lab.lab import Lab
from service.lab.namespace import nft
from service.lab.process import ProcessRecord, is_alive, respawn, send_signal, wait_for_end, wait_for_stop
from service.lab.site import set_port_state
from service.model.errors import OperatorError
from service.settings import PortSettings


class Fault(StrEnum):
    """What may be done to a member; `apply_fault` says what each does."""

    KILL = "kill"
    STOP = "stop"
    CONT = "cont"
    CUT = "cut"
    CUT_CONTROL = "cut-control"
    HEAL = "heal"
    RESTART = "restart"


_TABLE = "cut_control"
_NO_TABLE = f"table ip {_TABLE} {{}}\ndelete table ip {_TABLE}\n"
"""Gone, whether it was there or not."""
_SIGNALS = {Fault.KILL: signal.SIGKILL, Fault.STOP: signal.SIGSTOP, Fault.CONT: signal.SIGCONT}


def apply_fault(lab: Lab, member: str, fault: Fault, *, only: str | None = None) -> list[str]:
    """Do it and return one line per thing done.

    `kill`, `stop` and `cont` act on all the member's programs at once or on the one named by `only` (`agent`,
    `keeper`); `cut` and `heal` on its links to both segments, which stay up; after `cut-control`, until `heal`, nothing
    passes of what members say to each other, and everything else does; `restart` starts what is dead. Raises
    OperatorError for a member or program that does not exist; nothing has been done then.
    """
    if fault is Fault.CUT_CONTROL:
        return _cut_control(lab, member)
    if fault in (Fault.CUT, Fault.HEAL):
        return _set_links(lab, member, forwarding=fault is Fault.HEAL)
    records = _records(lab, member, only)
    if fault is Fault.RESTART:
        return _restart(lab, records)
    number = _SIGNALS[fault]
    reached = [record for record in records if send_signal(record, number)]
    if fault is Fault.KILL:
        wait_for_end(reached, 5.0)
    elif fault is Fault.STOP:
        wait_for_stop(reached)
    return [f"{number.name} to {record.kind} of {record.member} (pid {record.pid})" for record in reached]


def _cut_control(lab: Lab, member: str) -> list[str]:
    """But questions over the data path, which are packets of floating IPs (X1)."""
    ports = PortSettings()
    ours = f"{{ {ports.gossip}, {ports.state}, {ports.lease}, {ports.leader}, {ports.controller_gossip} }}"
    chains = "".join(
        f"chain {hook} {{ type filter hook {hook} priority 0; udp dport {ours} drop; udp sport {ours} drop; }}\n"
        for hook in ("input", "output")
    )
    nft(lab.netns(member), f"{_NO_TABLE}table ip {_TABLE} {{ {chains} }}")
    return [f"{member} hears no other member, and none hears it"]


def _set_links(lab: Lab, member: str, *, forwarding: bool) -> list[str]:
    ports = lab.ports(member)
    if forwarding:
        nft(lab.netns(member), _NO_TABLE)
    for port in ports:
        set_port_state(lab.plan, port, forwarding=forwarding)
    return [f"port {port} {'forwards again' if forwarding else 'is silent'}" for port in ports]


def _records(lab: Lab, member: str, only: str | None) -> list[ProcessRecord]:
    # The name is checked first, for the better message.
    lab.ports(member)
    records = [record for record in lab.state.processes if record.member == member]
    if only is not None:
        records = [record for record in records if record.kind == only]
    if not records:
        raise OperatorError(f"{member} has no program{f' {only!r}' if only else ''} in this lab")
    return records


def _restart(lab: Lab, records: list[ProcessRecord]) -> list[str]:
    done = []
    for record in records:
        if not is_alive(record):
            new = respawn(record)
            lab.remember(new)
            done.append(f"{new.kind} of {new.member} runs again (pid {new.pid})")
    return done
