"""The order is what is tested: fence, announcement, report."""

import errno
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

from service.keeper.fence import FenceEntry
from service.keeper.fenced_leases import FencedLeases, FirstAnnouncement
from service.lease.holder import CloseFence, OpenFence
from service.model.errors import InvariantError, TransientError
from service.model.keeper_message import Uplink
from service.model.lease import Token
from service.network.arp import parse_arp

IP, OTHER = "192.0.2.100", "192.0.2.101"
TOKEN = Token(1, 2, 3)
MAC = bytes.fromhex("020000000001")


class Kernel:
    """A fence that notes what it is asked for among all else that happens."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.released: list[tuple[str, ...]] = []
        self.held: set[str] = set()
        self.trouble = ""
        self.broken: list[int] = []
        """Deadlines that cannot be written."""
        self.leases = FencedLeases(
            self,
            opened=lambda address, token: self.seen.append(f"announce {address}"),
            changed=self._report,
            refused=lambda key, reason: self.seen.append(f"refused {key}: {reason}"),
        )

    def refresh(self) -> bool:
        return True

    def entries(self) -> dict[IPv4Address, FenceEntry]:
        return {}

    def write(self, address: IPv4Address, token: Token, deadline_ns: int) -> None:
        assert token == TOKEN
        if deadline_ns in self.broken:
            raise OSError(errno.E2BIG, "Argument list too long")
        self.seen.append(f"fence {address} {deadline_ns}")

    def _report(self) -> None:
        self.seen.append("report")
        self.released.append(self.leases.released(self.held, now_ns=50))


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def test_a_new_lease_is_announced_once_its_fence_is_open_and_then_reported(kernel: Kernel) -> None:
    kernel.leases.handle(OpenFence(IP, TOKEN, 100, first=True))
    assert kernel.seen == [f"fence {IP} 100", f"announce {IP}", "report"]


def test_a_longer_lease_only_moves_the_deadline(kernel: Kernel) -> None:
    kernel.leases.handle(OpenFence(IP, TOKEN, 100, first=False))
    assert kernel.seen == [f"fence {IP} 100"]


def test_a_lease_that_is_over_is_closed_before_anybody_hears_of_it(kernel: Kernel) -> None:
    kernel.leases.handle(CloseFence(IP, TOKEN, "expired"))
    assert kernel.seen == [f"fence {IP} 0", "report"]


def test_the_report_of_the_end_says_what_was_released_before_its_deadline(kernel: Kernel) -> None:
    kernel.leases.handle(OpenFence(IP, TOKEN, 100, first=False))
    kernel.leases.handle(CloseFence(IP, TOKEN, "released"))
    assert kernel.released == [(IP,)]
    assert kernel.leases.released((), now_ns=50) == ()


def test_what_ended_by_its_deadline_was_not_released(kernel: Kernel) -> None:
    kernel.leases.handle(OpenFence(IP, TOKEN, 50, first=False))
    kernel.leases.handle(CloseFence(IP, TOKEN, "expired"))
    assert kernel.released == [()]


def test_the_last_deadline_counts(kernel: Kernel) -> None:
    for deadline_ns in (40, 60):
        kernel.leases.handle(OpenFence(IP, TOKEN, deadline_ns, first=False))
    assert kernel.leases.released((), now_ns=50) == (IP,)


def test_of_several_given_up_at_once_all_are_told_with_the_first(kernel: Kernel) -> None:
    for key in (IP, OTHER):
        kernel.leases.handle(OpenFence(key, TOKEN, 100, first=False))
    kernel.leases.handle(CloseFence(IP, TOKEN, "released"))
    kernel.leases.handle(CloseFence(OTHER, TOKEN, "released"))
    assert kernel.released == [(IP, OTHER), (OTHER,)]


def test_what_is_held_is_not_released(kernel: Kernel) -> None:
    kernel.leases.handle(OpenFence(IP, TOKEN, 100, first=False))
    assert kernel.leases.released({IP}, now_ns=50) == ()


def test_a_lease_that_the_fence_does_not_take_is_refused_and_neither_announced_nor_reported(kernel: Kernel) -> None:
    kernel.broken = [100]
    kernel.leases.handle(OpenFence(IP, TOKEN, 100, first=True))
    assert kernel.seen == [f"refused {IP}: its fence cannot be opened: Argument list too long"]
    assert kernel.leases.released((), now_ns=50) == ()


def test_a_fence_that_cannot_be_closed_ends_the_keeper_before_anything_is_said(kernel: Kernel) -> None:
    kernel.broken = [0]
    with pytest.raises(InvariantError, match=f"{IP} cannot be closed"):
        kernel.leases.handle(CloseFence(IP, TOKEN, "released"))
    assert kernel.seen == []


def test_what_is_no_order_to_the_fence_changes_nothing(kernel: Kernel) -> None:
    kernel.leases.handle(object())
    assert kernel.seen == []


# -- the first announcement --


def test_both_forms_leave_by_the_interface_with_its_address() -> None:
    sent: list[tuple[int, bytes]] = []
    uplink = Uplink(IP, "eth1", 7, MAC.hex(), True)
    announcement = FirstAnnouncement(uplink={IP: uplink}.get, send_frame=lambda *frame: sent.append(frame))
    announcement.announce(IPv4Address(IP), TOKEN)
    packets = [parse_arp(frame) for _, frame in sent]
    assert [ifindex for ifindex, _ in sent] == [7, 7]
    assert [packet.operation for packet in packets if packet] == [1, 2]
    assert all(packet and (packet.sender_mac, packet.sender) == (MAC, IPv4Address(IP)) for packet in packets)


def test_without_an_uplink_nothing_is_sent() -> None:
    sent: list[tuple[int, bytes]] = []
    announcement = FirstAnnouncement(uplink=lambda _: None, send_frame=lambda *frame: sent.append(frame))
    announcement.announce(IPv4Address(IP), TOKEN)
    assert sent == []


def test_an_announcement_that_cannot_be_sent_is_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(ifindex: int, frame: bytes) -> None:
        raise TransientError("eth1: no buffer")

    uplink = Uplink(IP, "eth1", 7, MAC.hex(), True)
    FirstAnnouncement(uplink={IP: uplink}.get, send_frame=refuse).announce(IPv4Address(IP), TOKEN)
    assert "no buffer" in caplog.text


def test_what_is_handed_over_is_announced_once_this_node_is_ready() -> None:
    sent: list[bytes] = []
    answers = [True, True, False]
    waited: list[float] = []

    def later(delay_s: float, call: Callable[[], None]) -> None:
        waited.append(delay_s)
        assert sent == []
        call()

    announcement = FirstAnnouncement(
        uplink={IP: Uplink(IP, "eth1", 3, MAC.hex(), True)}.get,
        send_frame=lambda index, frame: sent.append(frame),
        is_awaited=lambda address, token: answers.pop(0),
        later=later,
    )
    announcement.announce(IPv4Address(IP), TOKEN)
    assert (len(waited), len(sent)) == (2, 2)
