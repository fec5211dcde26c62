"""Whether a device is believed to be a pod's: an address is not a pod (rule W11)."""

from ipaddress import IPv4Address

from service.datapath.classification import DOUBT_NS, SETTLED_NS, Classification
from tests.policy.objects import pod

POD = IPv4Address("10.0.0.1")
ONE, OTHER = pod("one", uid="1"), pod("other", uid="2")


def settled() -> Classification:
    """The pod has been behind device 7 for long."""
    known = Classification()
    known.learn([ONE], {POD: 7}, now_ns=-SETTLED_NS)
    assert known.doubted == frozenset()
    return known


def test_another_device_under_the_same_pod_is_doubted_for_a_while() -> None:
    """A new pod may have its address already, and be selected otherwise: its object does not say so yet."""
    known = settled()
    for now_ns in (0, 1, DOUBT_NS - 1):
        known.learn([ONE], {POD: 8}, now_ns=now_ns)
        assert known.doubted == {POD}
    known.learn([ONE], {POD: 8}, now_ns=DOUBT_NS)
    assert known.doubted == frozenset()


def test_the_object_of_another_pod_is_believed_at_once() -> None:
    known = settled()
    known.learn([ONE], {POD: 8}, now_ns=1)
    known.learn([OTHER], {POD: 8}, now_ns=2)
    assert known.doubted == frozenset()


def test_a_new_pods_own_device_is_believed_though_its_object_came_before_it_was_found() -> None:
    """Its address was the former pod's, and so is the device that is known at first."""
    known = settled()
    known.learn([OTHER], {POD: 7}, now_ns=1)
    known.learn([OTHER], {POD: 8}, now_ns=SETTLED_NS)
    assert known.doubted == frozenset()
    known.learn([OTHER], {POD: 9}, now_ns=3 * SETTLED_NS)
    assert known.doubted == {POD}


def test_a_pod_that_is_back_behind_its_device_and_one_that_is_gone_are_not_doubted() -> None:
    known = settled()
    known.learn([ONE], {POD: 8}, now_ns=1)
    known.learn([], {POD: 8}, now_ns=2)
    assert known.doubted == frozenset()
    known.learn([ONE], {}, now_ns=3)
    assert known.doubted == frozenset()


def test_what_a_former_agent_knew_goes_on_and_another_device_is_doubted_here_too() -> None:
    for device, doubted in ((7, set[IPv4Address]()), (8, {POD})):
        known = Classification()
        known.inherit({POD: 7})
        known.learn([ONE], {POD: device}, now_ns=1)
        assert known.doubted == doubted
