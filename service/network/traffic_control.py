"""Our programs as tc filters, beside those of others (rules W7, W13): what kernels without tcx have. Synchronous:
called in the thread of the IPRoute socket.

Priority and handle are fixed, so a restart replaces the program in place, and the handle is one that nobody else picks,
so a CNI's filter at the same priority stays. Several cls_bpf filters of one priority run one after the other as long
as each returns TC_ACT_UNSPEC.
"""

from typing import Any

from service.model.errors import TransientError
from service.network.hook import Direction, HookKind, Occupancy, choose_hook

FILTER_PRIORITY = 1
FILTER_HANDLE = 0xE9640
_PARENT = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
_ETH_P_ALL = 3
_EGRESS_REDIRECT = 1
_KEY_FIELDS = ("key_mask", "key_val", "key_off", "key_offmask")


def read_occupancy(ipr: Any, ifindex: int, direction: Direction) -> Occupancy:
    """What a filter of ours would have to get along with."""
    return _look(ipr, ifindex, direction)[0]


def attach_filter(ipr: Any, ifindex: int, direction: Direction, program_fd: int, name: str) -> HookKind:
    """Attach direct-action, or replace what we had there, without a gap. Raises TransientError where no filter sees
    every packet."""
    kind, occupancy = _choose(ipr, ifindex, direction)
    index, side = (occupancy.redirect, "egress") if kind is HookKind.IFB else (ifindex, direction)
    if not _shared_qdisc(ipr, index):
        ipr.tc("add", "clsact", index)
    ipr.tc(
        "replace-filter",
        "bpf",
        index,
        FILTER_HANDLE,
        fd=program_fd,
        name=name,
        parent=_PARENT[side],
        prio=FILTER_PRIORITY,
        protocol=_ETH_P_ALL,
        direct_action=True,
    )
    return kind


def detach_filter(ipr: Any, ifindex: int, direction: Direction) -> bool:
    """Remove ours and nothing else; clsact stays, others may use it. False where there was none."""
    occupancy, is_ours = _look(ipr, ifindex, direction)
    if is_ours:
        _delete(ipr, ifindex, direction)
    was_redirected = bool(occupancy.redirect) and _look(ipr, occupancy.redirect, "egress")[1]
    if was_redirected:
        _delete(ipr, occupancy.redirect, "egress")
    return is_ours or was_redirected


def read_filter(ipr: Any, ifindex: int, direction: Direction) -> HookKind | None:
    """Which kind of filter is ours, where it sees every packet of that direction; None where there is no such one."""
    occupancy, is_ours = _look(ipr, ifindex, direction)
    try:
        kind = choose_hook(direction, occupancy, has_tcx=False)
    except TransientError:
        return None
    if kind is HookKind.IFB:
        is_ours = _look(ipr, occupancy.redirect, "egress")[1]
    return kind if is_ours else None


def _choose(ipr: Any, ifindex: int, direction: Direction) -> tuple[HookKind, Occupancy]:
    occupancy = read_occupancy(ipr, ifindex, direction)
    kind = choose_hook(direction, occupancy, has_tcx=False)
    if kind is HookKind.IFB:
        choose_hook("egress", read_occupancy(ipr, occupancy.redirect, "egress"), has_tcx=False)
    return kind, occupancy


def _look(ipr: Any, ifindex: int, direction: Direction) -> tuple[Occupancy, bool]:
    """What others have there, and whether there is one of ours."""
    qdisc = _shared_qdisc(ipr, ifindex)
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


def _shared_qdisc(ipr: Any, ifindex: int) -> str:
    """Which of the two qdiscs for filters the device has, of which it has room for one."""
    for message in ipr.get_qdiscs(index=ifindex):
        if message["index"] == ifindex and message.get_attr("TCA_KIND") in ("clsact", "ingress"):
            return str(message.get_attr("TCA_KIND"))
    return ""


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
