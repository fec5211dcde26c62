"""When one of two electors asks to go on alone. Section of leases.md: Two nodes."""

import pytest

from service.lease.electorate_message import Standing, Survey, decode_electorate_message, encode_electorate_message
from service.lease.message import MessageKind, kind_of
from service.lease.tiebreaker import GRACE_NS, UNFIT_PATIENCE, Swap, Tiebreaker
from service.model.errors import PeerError
from service.model.lease import LEASE_PROFILES, Elector, Electorate, ProfileName
from service.model.machine import Address, Send, Source

MS = 1_000_000
PROFILE = LEASE_PROFILES[ProfileName.DEFAULT]
A, B, C = (Elector(name, f"10.0.0.{index}", index) for index, name in enumerate("abc", start=1))
BOTH = Electorate(4, (A, B))
ALONE = Electorate(5, (A,), (A, B))
PEER = Source(Address(B.host, 9644), "b", 7)


class Node:
    """Node a, its elector voting and settled."""

    def __init__(self, electorate: Electorate = BOTH, *, ready: bool = True, fit: bool = True) -> None:
        self.now_ns = 0
        self.ready, self.fit = ready, fit
        self.electorate = electorate
        self.machine = Tiebreaker(node="a", lease_port=9644, profile=PROFILE, now_ns=0)
        self.stand(electorate)

    def stand(self, electorate: Electorate) -> None:
        self.electorate = electorate
        self.machine.set_standing(electorate, ready=self.ready, fit=self.fit, now_ns=self.now_ns)

    def hear(self, *, epoch: int = 4, voting: bool = True, elector: bool = True) -> None:
        standing = Standing(epoch, 1, B.memory, voting, True, elector)
        self.machine.receive(PEER, encode_electorate_message(standing), now_ns=self.now_ns)

    def wait(self, span_ns: int, *, hearing: bool = False) -> None:
        """As the driver does: whenever it is due."""
        end_ns = self.now_ns + span_ns
        while self.now_ns < end_ns:
            due_ns = self.machine.deadline_ns()
            self.now_ns = min(end_ns, max(due_ns, self.now_ns + 1)) if due_ns is not None else end_ns
            if hearing:
                self.hear()
            self.machine.advance(now_ns=self.now_ns)


def heard(node: Node) -> Node:
    node.wait(GRACE_NS, hearing=True)
    return node


def test_who_misses_the_other_for_half_a_lease_asks_for_the_next_epoch_alone() -> None:
    node = heard(Node())
    node.wait(PROFILE.lease_ns // 2 - MS)
    assert node.machine.swap is None
    node.wait(2 * MS)
    assert node.machine.swap == Swap(BOTH, ALONE)
    assert [output for output in node.machine.drain() if isinstance(output, Swap)] == [Swap(BOTH, ALONE)]


def test_it_asks_no_more_when_the_other_is_heard_again() -> None:
    node = heard(Node())
    node.wait(PROFILE.lease_ns)
    node.hear()
    assert node.machine.swap is None


def test_who_has_not_settled_or_does_not_vote_does_not_ask() -> None:
    node = heard(Node(ready=False))
    node.wait(10 * PROFILE.lease_ns)
    assert node.machine.swap is None


@pytest.mark.parametrize(
    ("voting", "elector", "epoch"),
    [(False, True, 4), (True, False, 4), (True, True, 3)],
    ids=["silent", "another disk", "an older epoch"],
)
def test_an_other_that_does_not_vote_in_this_epoch_is_missed(voting: bool, elector: bool, epoch: int) -> None:
    node = heard(Node())
    for _ in range(10):
        node.wait(PROFILE.renew_ns)
        node.hear(voting=voting, elector=elector, epoch=epoch)
    assert node.machine.swap is not None


def test_who_is_in_another_epoch_is_told_of_this_one() -> None:
    node = heard(Node())
    node.machine.drain()
    node.hear(epoch=3)
    (told,) = (output for output in node.machine.drain() if isinstance(output, Send))
    assert told.to == PEER.address
    assert decode_electorate_message(told.payload) == BOTH


def test_a_new_epoch_is_given_time_to_be_written_down_by_both() -> None:
    node = Node()
    node.wait(GRACE_NS)
    assert node.machine.swap is None


def test_a_node_that_could_not_serve_lets_the_other_ask_first() -> None:
    node = heard(Node(fit=False))
    node.wait(UNFIT_PATIENCE * PROFILE.lease_ns // 2 - MS)
    assert node.machine.swap is None
    node.wait(2 * MS)
    assert node.machine.swap is not None


def test_a_process_that_was_stopped_listens_before_it_asks() -> None:
    node = heard(Node())
    node.now_ns += 10 * PROFILE.lease_ns
    node.machine.advance(now_ns=node.now_ns)
    assert node.machine.swap is None
    node.wait(PROFILE.lease_ns)
    assert node.machine.swap is not None


def test_the_other_is_asked_several_times_within_its_patience() -> None:
    node = heard(Node())
    node.machine.drain()
    node.wait(PROFILE.lease_ns // 2)
    asked = [output for output in node.machine.drain() if isinstance(output, Send)]
    assert {output.to for output in asked} == {PEER.address}
    assert all(isinstance(decode_electorate_message(output.payload), Survey) for output in asked)
    assert len(asked) >= 5


@pytest.mark.parametrize("electorate", [Electorate(1, (A,)), Electorate(1, (A, B, C)), Electorate(1, (B, C))])
def test_nobody_is_asked_where_there_is_no_other_of_two(electorate: Electorate) -> None:
    node = Node(electorate)
    node.wait(10 * GRACE_NS)
    assert node.machine.deadline_ns() is None
    assert node.machine.drain() == []


def test_one_that_goes_on_alone_misses_the_one_it_lost_until_it_is_heard_in_this_epoch() -> None:
    node = Node(ALONE)
    assert node.machine.is_missing_other
    node.hear(epoch=4, elector=False)
    assert node.machine.is_missing_other
    node.hear(epoch=5, elector=False)
    assert not node.machine.is_missing_other
    node.wait(10 * PROFILE.lease_ns)
    assert node.machine.is_missing_other
    assert node.machine.swap is None


def test_a_datagram_that_is_no_standing_is_refused() -> None:
    survey = encode_electorate_message(Survey(4, 1))
    assert kind_of(survey) is MessageKind.SURVEY
    with pytest.raises(PeerError):
        Node().machine.receive(PEER, survey, now_ns=0)
