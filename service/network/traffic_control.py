"""Our programs as tc filters, beside those of others (rules W7, W13): what kernels without tcx have. Synchronous:
called in the thread of the IPRoute socket.

Priority and handle are fixed, so a restart replaces the program in place, and the handle is one that nobody else picks,
so a CNI's filter at the same priority stays. Several cls_bpf filters of one priority run one after the other as long
as each returns TC_ACT_UNSPEC.
"""

from collections.abc import Iterable, Set
from contextlib import suppress
from typing import Any

from service.model.errors import TransientError
from service.network.hook import DIRECTIONS, Direction, HookKind, Occupancy, choose_hook

FILTER_PRIORITY = 1
FILTER_HANDLE = 0xE9640
_PARENT = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
_ETH_P_ALL = 3
_EGRESS_REDIRECT = 1
_SHARED = ("clsact", "ingress")
"""Qdiscs that hold filters and nothing else."""
Spot = tuple[int, Direction]
"""Index of a device, and the side of it."""
_KEY_FIELDS = ("key_mask", "key_val", "key_off", "key_offmask")


def read_occupancy(ipr: Any, ifindex: int, direction: Direction) -> Occupancy:
    """What a filter of ours would have to get along with."""
    return _look(ipr, ifindex, direction, _shared_qdisc(ipr, ifindex))[0]


def attach_filter(ipr: Any, spot: Spot, qdisc: str, program_fd: int, name: str) -> None:
    """Attach direct-action, or replace what we had there, without a gap; in clsact where there is no qdisc."""
    ifindex, direction = spot
    if not qdisc:
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


def detach_filter(ipr: Any, ifindex: int, direction: Direction) -> bool:
    """Remove ours and nothing else; clsact stays, others may use it. False where there was none."""
    occupancy, is_ours = _look(ipr, ifindex, direction, _shared_qdisc(ipr, ifindex))
    if is_ours:
        _delete(ipr, ifindex, direction)
    was_redirected = _is_behind(ipr, occupancy)
    if was_redirected:
        _delete(ipr, occupancy.redirect, "egress")
    return is_ours or was_redirected


def read_filters(ipr: Any, ifindex: int) -> dict[Direction, HookKind]:
    """Which kind of filter is ours, by direction, where it sees every packet; absent where there is no such one."""
    found: dict[Direction, HookKind] = {}
    qdisc = _shared_qdisc(ipr, ifindex)
    for direction in DIRECTIONS:
        occupancy, is_ours = _look(ipr, ifindex, direction, qdisc)
        with suppress(TransientError):
            kind = choose_hook(direction, occupancy, has_tcx=False)
            if _is_behind(ipr, occupancy) if kind is HookKind.IFB else is_ours:
                found[direction] = kind
    return found


def read_shared_qdiscs(ipr: Any) -> dict[int, str]:
    """Which of the two qdiscs for filters each device has, of which it has room for one."""
    kinds = ((int(message["index"]), str(message.get_attr("TCA_KIND"))) for message in ipr.get_qdiscs())
    return {index: kind for index, kind in kinds if kind in _SHARED}


def read_plain_devices(ipr: Any, ifindexes: Iterable[int]) -> frozenset[int]:
    """Which of these devices only netfilter and the stack have a say in: nobody shapes or filters what passes them.

    Programs of others on tcx are not looked for: they see one packet of each flow in half a second, as netfilter does.
    """
    kinds: dict[int, set[str]] = {}
    for message in ipr.get_qdiscs():
        kinds.setdefault(int(message["index"]), set()).add(str(message.get_attr("TCA_KIND")))
    return frozenset(ifindex for ifindex in ifindexes if _is_plain(ipr, ifindex, kinds.get(ifindex, set())))


def _is_plain(ipr: Any, ifindex: int, qdiscs: Set[str]) -> bool:
    if qdiscs - {"noqueue", *_SHARED}:
        return False
    sides = DIRECTIONS if "clsact" in qdiscs else ("ingress",) if "ingress" in qdiscs else ()
    return all(
        message["handle"] == FILTER_HANDLE
        # Without a handle: the list of a priority says nothing of any filter.
        or not message["handle"]
        for side in sides
        for message in ipr.get_filters(index=ifindex, parent=_PARENT[side])
    )


def _shared_qdisc(ipr: Any, ifindex: int) -> str:
    return read_shared_qdiscs(ipr).get(ifindex, "")


def _is_behind(ipr: Any, occupancy: Occupancy) -> bool:
    """Whether one of ours is where somebody's filter sends every packet."""
    target = occupancy.redirect
    return bool(target) and _look(ipr, target, "egress", _shared_qdisc(ipr, target))[1]


def _look(ipr: Any, ifindex: int, direction: Direction, qdisc: str) -> tuple[Occupancy, bool]:
    """What others have there, and whether there is one of ours."""
    # `ingress` has one list of filters, and gives it whatever side it is asked for.
    has_side = qdisc == "clsact" or (qdisc == "ingress" and direction == "ingress")
    messages = list(ipr.get_filters(index=ifindex, parent=_PARENT[direction])) if has_side else []
    first = [message for message in messages if message["info"] >> 16 == FILTER_PRIORITY]
    is_ours = any(message["handle"] == FILTER_HANDLE for message in first)
    # A priority has filters of one kind only, and none comes before the first.
    blocking = [message for message in first if message.get_attr("TCA_KIND") != "bpf"]
    kind = str(blocking[0].get_attr("TCA_KIND")) if blocking else ""
    return Occupancy(qdisc, kind, _redirect_of(blocking)), is_ours


def _delete(ipr: Any, ifindex: int, direction: Direction) -> None:
    ipr.tc(
        "del-filter",
        "bpf",
        ifindex,
        FILTER_HANDLE,
        parent=_PARENT[direction],
        prio=FILTER_PRIORITY,
        protocol=_ETH_P_ALL,
    )


def _redirect_of(messages: list[Any]) -> int:
    """Where the filters send every packet, as the one of the CNI's bandwidth plugin does; 0 where some may pass."""
    acting = [
        (options, action) for options in map(_options, messages) if (action := _first_action(options)) is not None
    ]
    if len(acting) != 1:
        return 0
    options, action = acting[0]
    if action.get_attr("TCA_ACT_KIND") != "mirred" or not _takes_all(options):
        return 0
    parameters = action.get_attr("TCA_ACT_OPTIONS").get_attr("TCA_MIRRED_PARMS")
    return int(parameters["ifindex"]) if parameters["eaction"] == _EGRESS_REDIRECT else 0


def _options(message: Any) -> Any:
    return message.get_attr("TCA_OPTIONS")


def _first_action(options: Any) -> Any:
    """None also of a kind of filter that is not known here, which shows as text."""
    if not hasattr(options, "get_attr"):
        return None
    actions = options.get_attr("TCA_U32_ACT") or options.get_attr("TCA_MATCHALL_ACT")
    return actions.get_attr("TCA_ACT_PRIO_1") if actions else None


def _takes_all(options: Any) -> bool:
    selector = options.get_attr("TCA_U32_SEL")
    return selector is None or not any(key[name] for key in selector["keys"] for name in _KEY_FIELDS)
