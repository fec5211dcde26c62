"""Our programs on clsact, beside those of others (rule W7). Synchronous: called in the thread of the IPRoute socket.

Priority and handle are fixed, so a restart replaces the program in place, and the handle is one that nobody else picks,
so a CNI's filter at the same priority stays. Several cls_bpf filters of one priority run one after the other as long
as each returns TC_ACT_UNSPEC.
"""

from dataclasses import dataclass
from typing import Any, Literal

Direction = Literal["ingress", "egress"]

FILTER_PRIORITY = 1
FILTER_HANDLE = 0xE9640
_PARENT = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
_ETH_P_ALL = 3


@dataclass(frozen=True, slots=True)
class Attachment:
    """One of our programs on a device."""

    direction: Direction
    name: str


def attach_program(ipr: Any, ifindex: int, direction: Direction, program_fd: int, name: str) -> None:
    """Attach direct-action, or replace what we had there, without a gap."""
    if not _has_clsact(ipr, ifindex):
        ipr.tc("add", "clsact", ifindex)
    ipr.tc(
        "replace-filter",
        "bpf",
        ifindex,
        FILTER_HANDLE,
        fd=program_fd,
        name=name,
        parent=_PARENT[direction],
        prio=FILTER_PRIORITY,
        protocol=_ETH_P_ALL,
        direct_action=True,
    )


def detach_program(ipr: Any, ifindex: int, direction: Direction) -> bool:
    """Remove ours and nothing else; clsact stays, others may use it. False where there was none."""
    if not any(attachment.direction == direction for attachment in read_attachments(ipr, ifindex)):
        return False
    ipr.tc(
        "del-filter",
        "bpf",
        ifindex,
        FILTER_HANDLE,
        parent=_PARENT[direction],
        prio=FILTER_PRIORITY,
        protocol=_ETH_P_ALL,
    )
    return True


def read_attachments(ipr: Any, ifindex: int) -> tuple[Attachment, ...]:
    """Our programs on the device."""
    if not _has_clsact(ipr, ifindex):
        return ()
    found = []
    directions: tuple[Direction, ...] = ("ingress", "egress")
    for direction in directions:
        for message in ipr.get_filters(index=ifindex, parent=_PARENT[direction]):
            priority = message["info"] >> 16
            if message["handle"] == FILTER_HANDLE and priority == FILTER_PRIORITY:
                name = message.get_attr("TCA_OPTIONS").get_attr("TCA_BPF_NAME")
                found.append(Attachment(direction, name or ""))
    return tuple(found)


def _has_clsact(ipr: Any, ifindex: int) -> bool:
    return any(
        message["index"] == ifindex and message.get_attr("TCA_KIND") == "clsact"
        for message in ipr.get_qdiscs(index=ifindex)
    )
