"""Claims of one peer's outbox that the channel as a whole shows only by chance."""

from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

from service.endpoint.announcements import RESEND_FIRST_NS, RESEND_LAST_NS, Announcements
from service.endpoint.message import Rows, WithdrawnRow, decode
from service.model.endpoint import Endpoint


@pytest.fixture
def next_revision() -> Callable[[], int]:
    revisions = iter(range(100, 10_000))
    return lambda: next(revisions)


def endpoint(number: int, sequence: int = 1) -> Endpoint:
    return Endpoint(IPv4Address(number), "uid", "a", (b"\x02" * 6,), 1, (1,), sequence)


def wanted(*numbers: int) -> dict[int, Endpoint]:
    return {number: endpoint(number) for number in numbers}


def sent(outbox: Announcements, now_ns: int, datagrams_max: int = 32) -> list[Rows]:
    decoded = [decode(datagram) for datagram in outbox.take_due(now_ns, datagrams_max=datagrams_max)]
    return [message for message in decoded if isinstance(message, Rows)]


def test_upserts_come_before_withdrawals(next_revision: Callable[[], int]) -> None:
    outbox = Announcements(1)
    outbox.replace_endpoints(wanted(1, 2), next_revision, keep_withdrawals=True)
    sent(outbox, 0)
    outbox.replace_endpoints(wanted(2, 3), next_revision, keep_withdrawals=True)
    (message,) = sent(outbox, 1)
    assert [(type(row) is WithdrawnRow, row.pod_ip) for row in message.rows if hasattr(row, "pod_ip")] == [
        (False, 3),
        (True, 1),
    ]


def test_count_and_digest_are_of_the_rows_wanted(next_revision: Callable[[], int]) -> None:
    outbox = Announcements(1)
    outbox.replace_endpoints(wanted(1, 2), next_revision, keep_withdrawals=True)
    assert outbox.count == 2
    outbox.replace_endpoints({}, next_revision, keep_withdrawals=True)
    assert (outbox.count, outbox.digest, outbox.pending_count) == (0, 0, 2)


def test_an_old_revision_acknowledges_nothing(next_revision: Callable[[], int]) -> None:
    outbox = Announcements(1)
    outbox.replace_endpoints({1: endpoint(1)}, next_revision, keep_withdrawals=True)
    outbox.replace_endpoints({1: endpoint(1, sequence=2)}, next_revision, keep_withdrawals=True)
    assert outbox.acknowledge(100) is None
    assert not outbox.is_acknowledged(1)
    assert outbox.acknowledge(101) == IPv4Address(1)
    assert outbox.acknowledge(101) is None


def test_a_new_epoch_takes_no_acknowledgement_of_the_old_one(next_revision: Callable[[], int]) -> None:
    outbox = Announcements(1)
    outbox.replace_endpoints(wanted(1), next_revision, keep_withdrawals=True)
    outbox.begin_epoch(next_revision)
    assert outbox.acknowledge(100) is None
    assert outbox.pending_count == 1
    assert [message.epoch for message in sent(outbox, 0)] == [101]


def test_what_a_round_holds_back_follows_in_the_next(next_revision: Callable[[], int]) -> None:
    outbox = Announcements(1)
    outbox.replace_endpoints(wanted(*range(200)), next_revision, keep_withdrawals=True)
    first = sent(outbox, 0, datagrams_max=1)
    assert len(first) == 1
    assert outbox.next_due_ns == RESEND_LAST_NS
    second = sent(outbox, 1, datagrams_max=2)
    assert len(second) == 2
    assert outbox.next_due_ns == 1 + RESEND_FIRST_NS
    revisions = [row.revision for message in first + second for row in message.rows]
    assert revisions == list(range(100, 100 + len(revisions)))


def test_a_detached_peer_has_acknowledged_nothing_and_owes_nothing(next_revision: Callable[[], int]) -> None:
    outbox = Announcements(1)
    outbox.replace_endpoints(wanted(1, 2), next_revision, keep_withdrawals=True)
    outbox.acknowledge(100)
    outbox.replace_endpoints(wanted(1), next_revision, keep_withdrawals=True)
    outbox.detach()
    assert not outbox.is_acknowledged(1)
    outbox.replace_endpoints({}, next_revision, keep_withdrawals=False)
    assert outbox.is_empty
