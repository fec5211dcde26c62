"""Whether a device is believed to be a pod's: an address is not a pod (rule W11)."""

from ipaddress import IPv4Address

from service.datapath.classification import DOUBT_NS, SETTLED_NS, Classification

POD = IPv4Address("10.0.0.1")
ONE, OTHER = "uid-1", "uid-2"


def learn(known: Classification, uid: str | None, device: int | None, *, now_ns: int) -> None:
    known.pass_time(now_ns=now_ns)
    known.learn(POD, uid, device, now_ns=now_ns)


def settled() -> Classification:
    """The pod has been behind device 7 for long."""
    known = Classification()
    learn(known, ONE, 7, now_ns=-SETTLED_NS)
    assert not known.is_doubted(POD)
    return known


def test_another_device_under_the_same_pod_is_doubted_for_a_while() -> None:
    """A new pod may have its address already, and be selected otherwise: its object does not say so yet."""
    known = settled()
    for now_ns in (0, 1, DOUBT_NS - 1):
        learn(known, ONE, 8, now_ns=now_ns)
        assert known.is_doubted(POD)
    assert known.pass_time(now_ns=DOUBT_NS) == (POD,)
    assert not known.is_doubted(POD)
    assert known.pass_time(now_ns=DOUBT_NS) == ()


def test_the_object_of_another_pod_is_believed_at_once() -> None:
    known = settled()
    learn(known, ONE, 8, now_ns=1)
    learn(known, OTHER, 8, now_ns=2)
    assert not known.is_doubted(POD)


def test_a_new_pods_own_device_is_believed_though_its_object_came_before_it_was_found() -> None:
    """Its address was the former pod's, and so is the device that is known at first."""
    known = settled()
    learn(known, OTHER, 7, now_ns=1)
    learn(known, OTHER, 8, now_ns=SETTLED_NS)
    assert not known.is_doubted(POD)
    learn(known, OTHER, 9, now_ns=3 * SETTLED_NS)
    assert known.is_doubted(POD)


def test_a_pod_that_is_back_behind_its_device_and_one_that_is_gone_are_not_doubted() -> None:
    known = settled()
    learn(known, ONE, 8, now_ns=1)
    learn(known, None, 8, now_ns=2)
    assert not known.is_doubted(POD)
    learn(known, ONE, None, now_ns=3)
    assert not known.is_doubted(POD)


def test_another_device_is_doubted_though_there_was_none_for_a_moment() -> None:
    """A pod's device goes some time before the next pod's comes; the object of the former one is still there."""
    known = settled()
    learn(known, ONE, None, now_ns=1)
    learn(known, ONE, 8, now_ns=2)
    assert known.is_doubted(POD)
    learn(known, ONE, None, now_ns=3)
    learn(known, ONE, 7, now_ns=4)
    assert not known.is_doubted(POD), "the kernel gives no number twice: it is the same one"
    learn(known, None, None, now_ns=5)
    learn(known, ONE, 9, now_ns=6)
    assert not known.is_doubted(POD)


def test_what_a_former_agent_knew_goes_on_and_another_device_is_doubted_here_too() -> None:
    for device, is_doubted in ((7, False), (8, True)):
        known = Classification()
        known.inherit({POD: 7})
        learn(known, ONE, device, now_ns=1)
        assert known.is_doubted(POD) is is_doubted
