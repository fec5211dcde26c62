"""What a change of one pod costs the others: nothing."""

from ipaddress import IPv4Address

from service.datapath import layout
from service.datapath.driven_pods import DrivenPods
from service.datapath.layout import Limits, MapName, SelectedState
from service.datapath.selected_rows import SelectedRows
from service.model.objects import EgressRule, Upsert
from service.policy.index import PolicyIndex
from tests.datapath.stand_in import StandInPool
from tests.policy.objects import gateway, namespace, pod, policy, selector

PODS = tuple(IPv4Address(f"10.0.0.{last}") for last in range(1, 6))


def turn(known: DrivenPods, maps: StandInPool) -> dict[str, set[bytes]]:
    """The keys of which something was said."""
    known.select()
    known.classify(now_ns=10**10)
    changes = known.wish(maps)
    for name, rows in changes.items():
        maps.change(name, rows)
    known.steering.cleared(known.to_clear(maps))
    return {name: set(rows) for name, rows in changes.items() if rows}


def served() -> tuple[DrivenPods, PolicyIndex, StandInPool]:
    index, maps = PolicyIndex(pod_cidrs_known=True), StandInPool()
    rules = [EgressRule(selector(), selector({"app": "a"}))]
    pods = [pod(f"pod-{number}", str(pod_ip), app="a") for number, pod_ip in enumerate(PODS)]
    index.apply(map(Upsert, (gateway("192.168.1.100"), namespace(), policy(rules=rules), *pods)))
    known = DrivenPods("worker1", index, Limits())
    known.learn_devices({pod_ip: 7 + number for number, pod_ip in enumerate(PODS)})
    for _ in range(4):
        turn(known, maps)
    assert turn(known, maps) == {}, "nothing has changed"
    return known, index, maps


def keys(pod_ip: IPv4Address, *devices: int) -> set[bytes]:
    return {layout.selected_key(pod_ip, device) for device in (0, *devices)}


def test_another_device_is_said_of_the_pod_that_has_it_and_of_no_other() -> None:
    known, _, maps = served()
    known.learn_devices({**known.devices, PODS[1]: 99})
    assert turn(known, maps) == {MapName.SELECTED: keys(PODS[1], 8, 99)}


def test_a_new_pod_under_rules_that_are_there_is_said_alone() -> None:
    known, index, maps = served()
    new = IPv4Address("10.0.0.9")
    index.apply([Upsert(pod("new", str(new), app="a"))])
    assert list(known.without_device()) == [new]
    assert turn(known, maps) == {MapName.SELECTED: keys(new)}
    known.learn_devices({**known.devices, new: 20})
    assert turn(known, maps) == {MapName.SELECTED: keys(new, 20)}
    assert list(known.without_device()) == []


def test_rows_are_those_of_the_pods_that_changed() -> None:
    known, _, maps = served()
    selected = known._selected
    assert isinstance(selected, SelectedRows)
    assert selected.renew(dict.fromkeys(PODS), maps) == {}
    known._admission.whole.clear()
    (key,) = keys(PODS[0], 7) & selected.renew({PODS[0]: None}, maps).keys() - keys(PODS[0])
    assert key == layout.selected_key(PODS[0], 7)
    assert layout.parse_selected(key, selected._rows[PODS[0]][key])[3] == SelectedState.CHANGING
