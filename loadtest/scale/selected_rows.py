"""What became of pods in the kernel's map of selected pods, by what was written there and when. Pure."""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address
from typing import NamedTuple

from loadtest.driven_agent import device_of
from loadtest.scale.kernel import Written
from service.datapath import layout
from service.datapath.layout import SelectedState


class Moment(NamedTuple):
    """What a row is from then on."""

    since_ns: int
    """As of `Written`."""
    steered_by: int | None
    """The rule set by which the pod's packets are steered; None: they are not, or are dropped until they may be."""
    is_there: bool


def keys_of(pod_ip: IPv4Address) -> tuple[bytes, bytes]:
    """Of both rows that a selected pod has: by its device, and by none."""
    return layout.selected_key(pod_ip, device_of(pod_ip)), layout.selected_key(pod_ip, 0)


def histories(written: Iterable[Written]) -> dict[bytes, list[Moment]]:
    """All that each row ever was, in order."""
    found: dict[bytes, list[Moment]] = {}
    for since_ns, rows in written:
        for key, value in rows:
            found.setdefault(key, []).append(Moment(since_ns, steered_by(key, value), value is not None))
    return found


def steered_by(key: bytes, value: bytes | None) -> int | None:
    """The rule set of a row that steers, else None."""
    if value is None:
        return None
    _, _, rule_set, state = layout.parse_selected(key, value)
    # Without a rule set it only has what is left of former connections ended.
    return rule_set if state == SelectedState.STEER and rule_set else None


def steered_pods(rows: Mapping[bytes, bytes]) -> set[IPv4Address]:
    """Whose rows both steer, of all that a map has."""
    pods = {layout.pod_of(key) for key in rows}
    return {pod_ip for pod_ip in pods if all(steered_by(key, rows.get(key)) is not None for key in keys_of(pod_ip))}
