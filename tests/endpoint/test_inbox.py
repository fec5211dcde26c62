"""Claims of one announcing node's inbox: copies, reordering, tombstones and former rows."""

from ipaddress import IPv4Address

from service.endpoint.inbox import FORMER_LIFE_NS, TOMBSTONE_NS, Inbox
from service.endpoint.message import EndpointRow, LocationRow, Status, WithdrawnRow


def row(revision: int, pod_ip: int = 1) -> EndpointRow:
    return EndpointRow(revision, pod_ip, "uid", (b"\x02" * 6,), 1, (), revision)


def complete(inbox: Inbox) -> Status:
    return Status(inbox.epoch, True, inbox.count, inbox.digest, 0, 0, 0, 0, False)


def test_a_copy_is_acknowledged_again_only_once_installed() -> None:
    inbox = Inbox("a")
    endpoint, _ = inbox.take_endpoint(row(5))
    assert endpoint is not None
    assert endpoint.node == "a"
    assert inbox.take_endpoint(row(5)) == (endpoint, False), "its sender waits: it is to be installed, still"
    assert not inbox.confirm(1, 4)
    assert inbox.confirm(1, 5)
    assert inbox.take_endpoint(row(5)) == (None, True)


def test_an_older_version_changes_nothing() -> None:
    inbox = Inbox("a")
    inbox.take_endpoint(row(5))
    digest = inbox.digest
    assert inbox.take_endpoint(row(4)) == (None, False)
    assert inbox.take_withdrawal(WithdrawnRow(4, 1), 0) == (False, False)
    assert (inbox.count, inbox.digest) == (1, digest)


def test_a_late_copy_does_not_undo_a_withdrawal() -> None:
    inbox = Inbox("a")
    inbox.take_endpoint(row(5))
    assert inbox.take_withdrawal(WithdrawnRow(6, 1), 0) == (True, True)
    assert inbox.take_withdrawal(WithdrawnRow(6, 1), 1) == (False, True)
    assert inbox.take_endpoint(row(5)) == (None, False)
    assert (inbox.count, inbox.digest) == (0, 0)
    assert inbox.take_endpoint(row(7))[0] is not None


def test_tombstones_are_forgotten_in_time() -> None:
    inbox = Inbox("a")
    for pod_ip in range(100):
        inbox.take_withdrawal(WithdrawnRow(pod_ip + 1, pod_ip), pod_ip)
    inbox.take_withdrawal(WithdrawnRow(200, 200), TOMBSTONE_NS + 99)
    assert list(inbox._tombstones) == [200]


def test_former_rows_end_only_after_a_full_announcement_and_its_grace() -> None:
    inbox = Inbox("a")
    inbox.take_endpoint(row(5, pod_ip=1))
    inbox.take_endpoint(row(6, pod_ip=2))
    inbox.begin_life()
    inbox.enter_epoch(1)
    inbox.take_endpoint(row(2, pod_ip=1))
    partial = Status(1, False, inbox.count, inbox.digest, 0, 0, 0, 0, False)
    inbox.settle(partial, 10)
    assert inbox.purge_at_ns is None
    inbox.settle(complete(inbox), 10)
    assert inbox.purge_at_ns == 10 + FORMER_LIFE_NS
    assert list(inbox.purge()) == [IPv4Address(2)]


def test_within_a_life_a_new_epoch_needs_no_grace() -> None:
    inbox = Inbox("a")
    inbox.enter_epoch(1)
    inbox.take_endpoint(row(5))
    assert inbox.enter_epoch(2)
    assert not inbox.enter_epoch(1)
    inbox.settle(complete(inbox), 10)
    assert inbox.purge_at_ns == 10


def test_a_former_row_can_be_withdrawn_by_name() -> None:
    inbox = Inbox("a")
    inbox.adopt([IPv4Address(1)])
    assert inbox.take_withdrawal(WithdrawnRow(1, 1), 0) == (True, True)
    assert inbox.is_empty


def test_only_a_higher_token_is_news() -> None:
    inbox = Inbox("a")
    assert inbox.take_location(LocationRow(1, 9, 1, 1, 5)) is not None
    assert inbox.take_location(LocationRow(2, 9, 1, 1, 5)) is None
    assert inbox.take_location(LocationRow(3, 9, 1, 1, 4)) is None
    assert inbox.take_location(LocationRow(4, 9, 2, 0, 0)) is not None
