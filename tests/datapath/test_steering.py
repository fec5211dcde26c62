"""The life of a selection on the pod's node (rules W10, G5)."""

from ipaddress import IPv4Address, IPv4Network

from service.datapath import layout
from service.datapath.layout import SelectedState
from service.datapath.steering import SUCCESSOR_PATIENCE_NS, Audience, Phase, Steering
from service.model.objects import Kind, ObjectKey, Pod
from service.policy.rule_set import RuleSet, Selection

POD = IPv4Address("10.244.1.10")
OTHER = IPv4Address("10.244.1.11")
FLOATING_IP = IPv4Address("192.168.1.100")


def rule_set(identity: int) -> RuleSet:
    return RuleSet(identity, ((IPv4Network("8.8.8.0/24"), FLOATING_IP),))


def selection(identity: int = 7, pod_ip: IPv4Address = POD) -> Selection:
    pod = Pod(ObjectKey(Kind.POD, "alice", str(pod_ip)), "uid", (), "worker1", pod_ip)
    return Selection(pod, rule_set(identity), (identity,))


ALL = range(100)


def audience(*holders: str, successors: tuple[str, ...] = ()) -> Audience:
    return Audience(holders, successors)


def clear_all(steering: Steering, now_ns: int = 0) -> None:
    while turn := steering.to_clear():
        steering.cleared(turn, now_ns=now_ns)


def steered(identity: int = 7) -> Steering:
    steering = Steering()
    steering.select({POD: selection(identity)}, now_ns=0)
    clear_all(steering)
    steering.admit(lambda _: audience(), lambda _: (), now_ns=0)
    assert steering.phases() == {POD: Phase.STEERING}
    return steering


def state_of(steering: Steering) -> tuple[int, int]:
    value = steering.rows_of(POD, {}, ALL)[layout.selected_key(POD, 0)]
    _, _, identity, state = layout.parse_selected(layout.selected_key(POD, 0), value)
    return identity, state


def test_a_new_pod_drops_until_its_connections_are_cleared() -> None:
    steering = Steering()
    steering.select({POD: selection()}, now_ns=0)
    assert state_of(steering) == (7, SelectedState.CHANGING)
    steering.cleared(steering.to_clear(), now_ns=0)
    assert state_of(steering) == (7, SelectedState.PENDING)


def test_a_pod_waits_for_its_holder_however_long_it_takes() -> None:
    steering = Steering()
    steering.select({POD: selection()}, now_ns=0)
    clear_all(steering)
    steering.admit(lambda _: audience("worker2"), lambda _: (), now_ns=100 * SUCCESSOR_PATIENCE_NS)
    assert steering.phases() == {POD: Phase.PENDING}
    steering.admit(lambda _: audience("worker2"), lambda _: ("worker2",), now_ns=100 * SUCCESSOR_PATIENCE_NS)
    assert steering.phases() == {POD: Phase.STEERING}


def test_a_silent_successor_delays_a_pod_only_for_its_patience() -> None:
    steering = Steering()
    steering.select({POD: selection()}, now_ns=0)
    clear_all(steering)
    needed = audience("worker2", successors=("worker3",))
    deadline = steering.admit(lambda _: needed, lambda _: ("worker2",), now_ns=1)
    assert deadline == SUCCESSOR_PATIENCE_NS
    assert steering.phases() == {POD: Phase.PENDING}
    steering.admit(lambda _: needed, lambda _: ("worker2",), now_ns=SUCCESSOR_PATIENCE_NS)
    assert steering.phases() == {POD: Phase.STEERING}


def test_a_steered_pod_goes_on_when_a_new_holder_has_not_acknowledged_yet() -> None:
    steering = steered()
    steering.admit(lambda _: audience("worker9"), lambda _: (), now_ns=5)
    steering.select({POD: selection()}, now_ns=6)
    assert steering.phases() == {POD: Phase.STEERING}


def test_changed_rules_drop_under_the_old_rules_first_and_then_under_the_new() -> None:
    steering = steered(7)
    steering.select({POD: selection(8)}, now_ns=1)
    assert state_of(steering) == (7, SelectedState.CHANGING)
    steering.cleared(steering.to_clear(), now_ns=2)
    assert state_of(steering) == (8, SelectedState.CHANGING)
    steering.cleared(steering.to_clear(), now_ns=3)
    assert state_of(steering) == (8, SelectedState.PENDING)


def test_a_deselected_pod_keeps_its_rules_until_its_connections_are_cleared() -> None:
    steering = steered()
    steering.select({}, now_ns=1)
    assert state_of(steering) == (7, SelectedState.CHANGING)
    assert steering.rule_sets() == {POD: rule_set(7)}
    steering.cleared(steering.to_clear(), now_ns=2)
    assert steering.phases() == {}


def test_a_pod_selected_again_while_leaving_is_cleared_from_the_start() -> None:
    steering = steered()
    steering.select({}, now_ns=1)
    turn = steering.to_clear()
    steering.select({POD: selection()}, now_ns=2)
    steering.cleared(turn, now_ns=3)
    assert steering.phases() == {POD: Phase.WITHDRAWING}


def test_a_clearing_that_is_out_of_date_does_not_count() -> None:
    steering = Steering()
    steering.select({POD: selection(7)}, now_ns=0)
    turn = steering.to_clear()
    steering.select({POD: selection(8)}, now_ns=1)
    steering.cleared(turn, now_ns=2)
    assert steering.phases()[POD] is Phase.WITHDRAWING


def test_a_pod_that_a_former_agent_steered_is_not_interrupted() -> None:
    steering = Steering()
    steering.adopt(POD, rule_set(7), now_ns=0)
    steering.select({POD: selection(7)}, now_ns=1)
    assert steering.phases() == {POD: Phase.STEERING}
    assert steering.to_clear() == ()


def test_a_change_of_one_pod_does_not_touch_another() -> None:
    steering = steered()
    steering.select({POD: selection(), OTHER: selection(9, OTHER)}, now_ns=1)
    assert steering.phases() == {POD: Phase.STEERING, OTHER: Phase.SETTING}
    steering.select({POD: selection()}, now_ns=2)
    assert steering.phases() == {POD: Phase.STEERING, OTHER: Phase.LEAVING}


def test_without_a_known_device_only_the_row_that_drops_strangers_is_written() -> None:
    steering = steered()
    assert list(steering.rows_of(POD, {}, ALL)) == [layout.selected_key(POD, 0)]
    assert set(steering.rows_of(POD, {POD: 12}, ALL)) == {layout.selected_key(POD, 0), layout.selected_key(POD, 12)}


def test_c1_a_pod_whose_rules_are_not_whole_in_the_kernel_drops() -> None:
    steering = steered()
    value = steering.rows_of(POD, {}, ())[layout.selected_key(POD, 0)]
    assert layout.parse_selected(layout.selected_key(POD, 0), value)[2:] == (7, SelectedState.CHANGING)
    assert state_of(steering) == (7, SelectedState.STEER)
