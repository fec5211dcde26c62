"""The life of a selection on the pod's node (rules W10, E1)."""

from ipaddress import IPv4Address, IPv4Network

from service.datapath import layout
from service.datapath.layout import SelectedState
from service.datapath.steering import NOTHING, Clearing, Phase, Steering
from service.model.objects import Kind, ObjectKey, Pod
from service.policy.rule_set import RuleSet, Selection

POD = IPv4Address("10.244.1.10")
OTHER = IPv4Address("10.244.1.11")
FLOATING_IP = IPv4Address("192.168.1.100")
ALL = range(100)


def rule_set(identity: int, *destinations: str) -> RuleSet:
    networks = sorted(map(IPv4Network, destinations or ("8.8.8.0/24",)))
    return RuleSet(identity, tuple((network, FLOATING_IP) for network in networks))


def selection(identity: int = 7, pod_ip: IPv4Address = POD, *destinations: str, uid: str = "uid") -> Selection:
    pod = Pod(ObjectKey(Kind.POD, "alice", str(pod_ip)), uid, (), "worker1", pod_ip)
    return Selection(pod, rule_set(identity, *destinations), (identity,))


def clear_all(steering: Steering) -> None:
    while turn := steering.to_clear():
        steering.cleared(turn)


def steered(identity: int = 7, *destinations: str) -> Steering:
    steering = Steering()
    steering.select({POD: selection(identity, POD, *destinations)})
    clear_all(steering)
    assert steering.phases() == {POD: Phase.STEERING}
    return steering


def state_of(steering: Steering) -> tuple[int, int]:
    value = steering.rows_of(POD, {}, ALL, {})[layout.selected_key(POD, 0)]
    _, _, identity, state = layout.parse_selected(layout.selected_key(POD, 0), value)
    return identity, state


def is_kept(clearing: Clearing, address: str) -> bool:
    return any(IPv4Address(address) in network for network in clearing.keep)


def test_w10_a_new_pod_drops_until_its_connections_are_cleared_and_is_steered_then() -> None:
    steering = Steering()
    steering.select({POD: selection()})
    assert state_of(steering) == (7, SelectedState.CHANGING)
    steering.cleared(steering.to_clear())
    assert state_of(steering) == (7, SelectedState.STEER)


def test_e1_changed_rules_are_one_step_as_soon_as_they_are_whole_in_the_kernel() -> None:
    steering = steered(7)
    steering.select({POD: selection(8)})
    steering.switch({7})
    assert state_of(steering) == (7, SelectedState.STEER)
    assert [one.id for _, one in steering.rule_sets()] == [7, 8], "both have to be in the kernel for the step"
    steering.switch({7, 8})
    assert state_of(steering) == (8, SelectedState.STEER)
    assert [one.id for _, one in steering.rule_sets()] == [8]


def test_e1_connections_to_what_is_named_as_before_are_left_alone() -> None:
    steering = steered(7, "8.8.8.0/24", "9.9.9.0/24")
    steering.select({POD: selection(8, POD, "8.8.8.0/24", "1.1.1.0/24")})
    assert steering.unsettled() == frozenset()
    steering.switch(ALL)
    assert steering.unsettled() == {POD}
    (clearing,) = steering.to_clear()

    assert [is_kept(clearing, address) for address in ("8.8.8.8", "100.0.0.1")] == [True, True]
    assert [is_kept(clearing, address) for address in ("9.9.9.9", "1.1.1.1")] == [False, False]
    steering.cleared([clearing])
    assert steering.to_clear() == ()


def test_e1_two_edits_before_the_first_is_cleared_are_made_up_for_together() -> None:
    steering = steered(7, "8.8.8.0/24")
    for identity, named in ((8, "9.9.9.0/24"), (9, "8.8.8.0/24")):
        steering.select({POD: selection(identity, POD, named)})
        steering.switch(ALL)
    (clearing,) = steering.to_clear()
    assert not any(IPv4Address("9.9.9.9") in network for network in clearing.keep)
    assert any(IPv4Address("1.1.1.1") in network for network in clearing.keep)


def test_e1_an_edit_while_an_earlier_one_is_being_cleared_has_its_own_turn() -> None:
    steering = steered(7, "8.8.8.0/24")
    steering.select({POD: selection(8, POD, "9.9.9.0/24")})
    steering.switch(ALL)
    turn = steering.to_clear()
    steering.select({POD: selection(9, POD, "1.1.1.0/24")})
    steering.switch(ALL)
    steering.cleared(turn)
    assert steering.unsettled() == {POD}


def test_a_deselected_pod_keeps_its_rules_until_its_connections_are_cleared() -> None:
    steering = steered()
    steering.select({})
    assert state_of(steering) == (7, SelectedState.CHANGING)
    assert steering.rule_sets() == [(POD, rule_set(7))]
    steering.cleared(steering.to_clear())
    assert steering.phases() == {}


def test_e2_a_deselected_pod_has_a_row_without_rules_while_it_has_flows() -> None:
    steering = steered()
    before = steering.rows_of(POD, {POD: 12}, ALL, {})
    steering.select({})
    assert (steering.left(), steering.forget([POD])) == ((), False), "connection tracking is to be cleared first"
    steering.cleared(steering.to_clear())
    assert (steering.left(), steering.rule_sets(), steering.to_clear()) == ((POD,), [], ())
    assert state_of(steering) == (0, SelectedState.STEER)
    after = steering.rows_of(POD, {POD: 12}, (), {})
    assert {key: value[-4:] for key, value in after.items()} == {key: value[-4:] for key, value in before.items()}, (
        "by the pod's number it has its flows"
    )
    steering.select({})
    assert steering.left() == (POD,)
    assert steering.forget([OTHER, POD])
    assert (steering.left(), list(steering)) == ((), [])


def test_e2_a_pod_that_had_left_and_is_selected_again_is_cleared_from_the_start() -> None:
    steering = steered()
    steering.select({})
    steering.cleared(steering.to_clear())
    steering.select({POD: selection(7)})
    assert steering.phases() == {POD: Phase.SETTING}
    assert not steering.forget([POD])
    (clearing,) = steering.to_clear()
    assert not is_kept(clearing, "8.8.8.8")
    steering.cleared([clearing])
    assert steering.phases() == {POD: Phase.STEERING}


def test_e2_a_pod_that_had_left_before_the_agent_began_anew_still_has_its_flows() -> None:
    steering, pod = Steering(), selection().pod
    steering.adopt(POD, NOTHING)
    steering.select({})
    assert (steering.left(), steering.phases(), steering.rule_sets(), steering.to_clear()) == ((POD,), {}, [], ())
    value = steering.rows_of(POD, {POD: 12}, (), {POD: pod})[layout.selected_key(POD, 12)]
    assert value == layout.selected_value(0, SelectedState.STEER, layout.pod_number(pod.uid, 12))


def test_a_pod_selected_again_while_leaving_is_cleared_from_the_start() -> None:
    steering = steered()
    steering.select({})
    turn = steering.to_clear()
    steering.select({POD: selection()})
    steering.cleared(turn)
    assert steering.phases() == {POD: Phase.SETTING}


def test_a_clearing_that_is_out_of_date_does_not_count() -> None:
    steering = Steering()
    steering.select({POD: selection(7)})
    turn = steering.to_clear()
    steering.select({POD: selection(8)})
    steering.cleared(turn)
    assert steering.phases()[POD] is Phase.SETTING


def test_a_pod_that_a_former_agent_steered_is_not_interrupted() -> None:
    steering = Steering()
    steering.adopt(POD, rule_set(7))
    steering.select({POD: selection(7)})
    assert steering.phases() == {POD: Phase.STEERING}


def test_e3_what_a_former_agent_may_have_left_of_connections_is_looked_for() -> None:
    """It may have ended before it came to them, and a table of flows may have been lost since."""
    steering = Steering()
    steering.adopt(POD, rule_set(7))
    steering.select({POD: selection(7)})
    (clearing,) = steering.to_clear()
    assert not is_kept(clearing, "8.8.8.8")
    steering.cleared([clearing])
    assert steering.to_clear() == ()


def test_what_no_rule_names_before_or_after_is_never_forgotten() -> None:
    steering = Steering()
    steering.select({POD: selection(7, POD, "8.8.8.0/24")})
    (setting,) = steering.to_clear()
    assert [is_kept(setting, address) for address in ("8.8.8.8", "9.9.9.9")] == [False, True]
    steering.cleared([setting])
    steering.select({})
    (leaving,) = steering.to_clear()
    assert [is_kept(leaving, address) for address in ("8.8.8.8", "9.9.9.9")] == [False, True]


def test_w10_a_pod_that_leaves_before_an_edit_is_cleared_makes_up_for_both() -> None:
    steering = steered(7, "8.8.8.0/24")
    steering.select({POD: selection(8, POD, "9.9.9.0/24")})
    steering.switch(ALL)
    steering.select({})
    (clearing,) = steering.to_clear()
    assert [is_kept(clearing, address) for address in ("8.8.8.8", "9.9.9.9", "1.1.1.1")] == [False, False, True]


def test_w10_a_pod_that_goes_on_leaving_makes_up_for_it_once() -> None:
    steering = steered()
    for _ in range(3):
        steering.select_some({POD: None})
    assert [clearing.former for clearing in steering.to_clear()] == [2]
    clear_all(steering)
    assert steering.phases() == {}
    assert steering.is_settled


def test_e3_what_a_former_agent_left_of_the_rest_of_a_set_is_looked_for_once_the_set_is_known() -> None:
    """Another pod has been looked after by what of the set had come into the kernel."""
    steering = Steering()
    for pod_ip in (POD, OTHER):
        steering.adopt(pod_ip, rule_set(7, "8.8.8.0/24"))
    steering.select_some({OTHER: selection(7, OTHER, "8.8.8.0/24")})
    assert [is_kept(clearing, "9.9.9.9") for clearing in steering.to_clear()] == [True, True]
    steering.select_some({POD: selection(7, POD, "8.8.8.0/24", "9.9.9.0/24")})
    assert [is_kept(clearing, "9.9.9.9") for clearing in steering.to_clear() if clearing.pod_ip == POD] == [False]


def test_a_change_of_one_pod_does_not_touch_another() -> None:
    steering = steered()
    steering.select({POD: selection(), OTHER: selection(9, OTHER)})
    assert steering.phases() == {POD: Phase.STEERING, OTHER: Phase.SETTING}
    steering.select({POD: selection()})
    assert steering.phases() == {POD: Phase.STEERING, OTHER: Phase.LEAVING}


def test_without_a_known_device_only_the_row_that_drops_strangers_is_written() -> None:
    steering = steered()
    assert list(steering.rows_of(POD, {}, ALL, {})) == [layout.selected_key(POD, 0)]
    assert set(steering.rows_of(POD, {POD: 12}, ALL, {})) == {layout.selected_key(POD, 0), layout.selected_key(POD, 12)}


def test_b2_another_pod_or_another_device_under_an_address_has_another_number() -> None:
    def number(uid: str, device: int) -> bytes:
        steering = Steering()
        steering.select({POD: selection(uid=uid)})
        return steering.rows_of(POD, {POD: device}, ALL, {})[layout.selected_key(POD, 0)][-4:]

    assert number("uid", 12) == number("uid", 12)
    assert len({number("uid", 12), number("uid", 13), number("other", 12)}) == 3


def test_i1_a_pod_whose_rules_are_not_whole_in_the_kernel_drops() -> None:
    steering = steered()
    value = steering.rows_of(POD, {}, (), {})[layout.selected_key(POD, 0)]
    assert layout.parse_selected(layout.selected_key(POD, 0), value)[2:] == (7, SelectedState.CHANGING)
    assert state_of(steering) == (7, SelectedState.STEER)
