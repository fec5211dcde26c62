"""R4: the device at which packets wait."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from service.model.errors import OperatorError
from service.network.handover_device import (
    HANDOVER_DEVICE,
    HANDOVER_PEER,
    ensure_handover_device,
    handover_sysctls,
    remove_handover_device,
)
from service.network.netlink import Netlink
from service.network.route_socket import RouteSocket
from service.network.sysctl import Sysctl
from tests.network.namespace import Namespace, namespaces

pytestmark = pytest.mark.root


@pytest.fixture
def node() -> Iterator[Namespace]:
    with namespaces("n") as (node,), node.entered():
        yield node


def ensure() -> int:
    with closing(RouteSocket()) as ipr:
        return ensure_handover_device(ipr, Sysctl()).index


def test_it_is_made_once_with_room_for_what_waits(node: Namespace) -> None:
    index = ensure()
    assert ensure() == index
    assert "UP" in node.ip(f"link show {HANDOVER_DEVICE}")
    for key, value in handover_sysctls().items():
        # Times are of whole ticks of the kernel.
        assert int(value) <= int((Sysctl()._folder / key).read_text()) < 2 * int(value)


def test_what_others_have_taken_down_or_deleted_is_put_back(node: Namespace) -> None:
    index = ensure()
    node.ip(f"link set {HANDOVER_PEER} down")
    assert ensure() == index
    assert "LOWER_UP" in node.ip(f"link show {HANDOVER_DEVICE}")
    node.ip(f"link del {HANDOVER_DEVICE}")
    assert ensure() != index


def test_a_device_of_others_by_that_name_is_left_alone(node: Namespace) -> None:
    node.ip(f"link add {HANDOVER_DEVICE} type bridge")
    with pytest.raises(OperatorError, match="egw1 exists and is not ours"):
        ensure()
    with closing(RouteSocket()) as ipr:
        remove_handover_device(ipr)
    assert HANDOVER_DEVICE in node.ip("link")


async def test_it_is_no_pods_device_and_goes_with_both_its_ends(node: Namespace) -> None:
    async with Netlink() as netlink:
        device = await netlink.ensure_handover_device()
        assert device.name == HANDOVER_DEVICE
        await netlink.remove_handover_device()
        await netlink.remove_handover_device()
    assert "egw1" not in node.ip("link")
