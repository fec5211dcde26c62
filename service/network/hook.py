"""Which hook of a device one of our programs gets (rule W13). Pure: the only place where that is decided.

tcx where the kernel has it (Linux 6.6): it needs no qdisc, so it is in nobody's way. Else a filter: in clsact, which is
made where there is none; in the `ingress` qdisc that somebody else has put there, because a device has room for one of
the two. What a redirecting filter takes away in front of ours is met where it goes: at the egress of an ifb.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from service.model.errors import TransientError

Direction = Literal["ingress", "egress"]
DIRECTIONS: tuple[Direction, ...] = ("ingress", "egress")


class HookKind(StrEnum):
    """What carries a program; the value is the word that status uses."""

    TCX = "tcx"
    CLSACT = "clsact"
    INGRESS = "ingress"
    """A filter in the qdisc `ingress` of somebody else."""
    IFB = "ifb"
    """A filter on the device to which somebody else's filter redirects all that comes in."""


@dataclass(frozen=True, slots=True)
class Occupancy:
    """What others have put on one direction of a device, as far as a filter has to mind it."""

    qdisc: str = ""
    """`clsact`, `ingress` or empty."""
    first: str = ""
    """Kind of a filter that stands where ours would have to: at the first priority, and no BPF program."""
    redirect: int = 0
    """Index of the device to which that filter sends every packet; 0 where it does not."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One of our programs on a device."""

    direction: Direction
    kind: HookKind
    overtaken_by: int = 0
    """Programs of others that run before ours and may keep packets from it."""


def choose_hook(direction: Direction, occupancy: Occupancy, *, has_tcx: bool) -> HookKind:
    """Raises TransientError, with the reason, where no hook sees every packet: half a datapath would be none."""
    if has_tcx:
        return HookKind.TCX
    if occupancy.qdisc == "ingress" and direction == "egress":
        raise TransientError("somebody's qdisc `ingress` leaves no room for egress, and the kernel has no tcx")
    if occupancy.redirect:
        return HookKind.IFB
    if occupancy.first:
        raise TransientError(f"somebody's {occupancy.first} filter runs before ours would, and the kernel has no tcx")
    return HookKind.INGRESS if occupancy.qdisc == "ingress" else HookKind.CLSACT
