"""The leader's side as a whole: it reads before it changes, and says nothing when it leads no more."""

import itertools
from ipaddress import IPv4Address
from typing import Any

import pytest

from service.model.errors import PeerError
from service.model.lease import Stamp
from service.port_block.block import TIMES, Row
from service.port_block.leader import LeaderBlocks
from service.port_block.message import (
    Ack,
    Ask,
    Entry,
    Grant,
    HeldRow,
    Holdings,
    Poll,
    Push,
    Read,
    Recall,
    Receiver,
    Return,
    Table,
    Whole,
    cut,
    encode,
    entries_of,
)
from service.port_block.record import BlockMoved
from service.port_block.way import LeaderMember, Way
from tests.port_block.site import HOSTS, IP, MS, SECOND, of, say, source, told

LEADER = Receiver.LEADER
NUMBER = int(IP)
HOLDER, NEXT, A, B = HOSTS
DAY_NS = 86_400 * SECOND


class Site:
    """A leader of term 5, two gateways and two more nodes; what they answer is said by the test."""

    def __init__(self, *, is_new: bool = False, demand: tuple[str, ...] = (A,)) -> None:
        self.now_ns = SECOND
        self.leader = LeaderBlocks(term=5, now_ns=SECOND)
        self.leader.set_leading_until(DAY_NS, now_ns=SECOND)
        self.members(down=())
        self.leader.set_floating_ips({IP: Way(HOLDER, NEXT, is_new)}, now_ns=SECOND)
        self.leader.set_demand({IP: demand}, now_ns=SECOND)

    def rows(self) -> dict[int, Row]:
        """The table as the leader has it."""
        table = self.leader._tables.get(IP)
        return {} if table is None else {block: one.row for block, one in table.rows.items()}

    def members(self, down: tuple[str, ...]) -> None:
        members = {name: LeaderMember(address, name not in down) for name, address in HOSTS.items()}
        self.leader.set_members(members, now_ns=self.now_ns)

    def table(self, node: str, *entries: Entry, session: int = 7, whole: bool = False) -> list[Any]:
        batch = cut(entries)[0]
        table = Table(5, 9, session, 1, 0, 1, NUMBER, node == HOLDER, whole, *batch)
        return say(self.leader, LEADER, node, table, now_ns=self.now_ns)

    def holdings(self, node: str, *rows: HeldRow, age_ns: int = DAY_NS) -> None:
        say(self.leader, LEADER, node, Holdings(5, 9, 1, age_ns, 0, 1, rows), now_ns=self.now_ns)

    def later(self, span_ns: int = 0) -> list[Any]:
        self.now_ns += span_ns
        self.leader.advance(now_ns=self.now_ns)
        return told(self.leader)

    def taken(self, node: str, grant: Grant) -> None:
        ack = Ack(grant.sequence, grant.session, NUMBER, node == HOLDER, (True,) * len(grant.rows))
        say(self.leader, LEADER, node, ack, now_ns=self.now_ns)


def owners(outputs: list[Any]) -> set[tuple[int, str | None]]:
    grants = of(Grant, outputs)
    return {(e.block, e.row.owner) for one in grants for e in entries_of(one.names, one.rows)}


def complete(**options: Any) -> Site:
    site = Site(**options)
    site.later()
    site.table(HOLDER, whole=True)
    site.table(NEXT)
    return site


def test_q7_everybody_is_read_first_and_nothing_is_given_before() -> None:
    site = Site()
    first = site.later()
    assert len(of(Read, first)) == 2 + len(HOSTS)
    assert of(Grant, first + site.later(10 * SECOND)) == []


def test_q7_a_whole_holder_makes_the_table_complete() -> None:
    site = complete()
    assert of(BlockMoved, site.later(SECOND))
    assert site.leader.is_complete(IP)


def test_q7_an_address_that_is_listed_again_is_told_anew_to_owners_that_have_forgotten_it() -> None:
    """Its holder may not have: what it still knows to be theirs is not theirs before they know it too."""
    site = complete()
    site.holdings(A)
    grants = [one for one in of(Grant, site.later(SECOND)) if one.session == 1]
    given = owners(grants)
    assert given
    for grant in grants:
        site.taken(A, grant)
    assert [one for one in of(Grant, site.later(SECOND)) if one.session == 1] == [], "it knows"
    site.leader.set_floating_ips({}, now_ns=site.now_ns)
    site.leader.set_floating_ips({IP: Way(HOLDER, NEXT, False)}, now_ns=site.now_ns)
    site.leader.set_demand({IP: (A,)}, now_ns=site.now_ns)
    site.later()
    kept = [entry for one in grants for entry in entries_of(one.names, one.rows)]
    site.table(HOLDER, *(Entry(entry.block, entry.row) for entry in kept), whole=True)
    site.table(NEXT)
    assert owners([one for one in of(Grant, site.later(SECOND)) if one.session == 1]) == given


def test_q7_else_each_member_has_to_say_what_it_has() -> None:
    site = Site()
    site.later()
    site.table(HOLDER)
    for node in (HOLDER, NEXT, A):
        site.holdings(node)
        assert of(BlockMoved, site.later(SECOND)) == []
    site.holdings(B, HeldRow(NUMBER, 0, 4, 1))
    moved = of(BlockMoved, site.later(SECOND))
    assert moved
    assert all(one.block != 0 for one in moved if one.row.owner == A), "it is B's"


def test_q1_whatever_the_order_in_which_rows_are_heard_the_highest_stamp_counts() -> None:
    def by_holder(site: Site) -> None:
        site.table(HOLDER, Entry(0, Row(A, Stamp(4, 9))), Entry(1, Row(None, Stamp(4, 3))))

    def by_owner(site: Site) -> None:
        site.holdings(B, HeldRow(NUMBER, 0, 4, 10), HeldRow(NUMBER, 1, 4, 2))

    def by_others(site: Site) -> None:
        for node in (HOLDER, NEXT, A):
            site.holdings(node)

    for order in itertools.permutations((by_holder, by_owner, by_others)):
        site = Site(demand=())
        site.later()
        for hear in order:
            hear(site)
        site.later(100 * MS)
        assert site.rows() == {0: Row(B, Stamp(4, 10)), 1: Row(None, Stamp(4, 3))}


def test_q7_a_member_that_is_down_and_was_not_heard_is_waited_for() -> None:
    site = Site()
    site.later()
    site.table(HOLDER)
    for node in (HOLDER, NEXT, A):
        site.holdings(node)
    site.members(down=(B,))
    site.later(479 * SECOND)
    assert not site.leader.is_complete(IP)
    site.later(SECOND)
    assert site.leader.is_complete(IP)


def test_q8_a_leader_that_is_new_to_an_address_gives_nothing_for_half_a_second() -> None:
    site = complete()
    assert of(Grant, site.later(400 * MS)) == []
    assert of(Grant, site.later(101 * MS))


def test_q8_after_another_successor_was_chosen_nothing_is_given_for_half_a_second_either() -> None:
    site = complete()
    site.later(SECOND)
    site.leader.set_floating_ips({IP: Way(HOLDER, B)}, now_ns=site.now_ns)
    site.leader.set_demand({IP: (A, NEXT)}, now_ns=site.now_ns)
    assert of(BlockMoved, site.later(400 * MS)) == []
    assert of(BlockMoved, site.later(101 * MS))


def test_q2_the_base_goes_at_once_to_owner_holder_and_successor_of_a_new_address() -> None:
    site = Site(is_new=True)
    site.later()
    site.table(NEXT)
    site.table(HOLDER)
    site.holdings(A)
    outputs = site.later()
    moved = of(BlockMoved, outputs)
    assert [(one.block, one.row.owner) for one in moved] == [(block, A) for block in range(64)]
    assert {one.row.stamp for one in moved} == {Stamp(5, 1)}
    grants = of(Grant, outputs)
    assert sorted(one.session for one in grants) == [1, 1, 7, 7, 7, 7]
    assert {one.successor for one in grants} == {NEXT}


def test_what_is_not_acknowledged_is_said_again_and_what_is_is_not() -> None:
    site = complete()
    grants = of(Grant, site.later(SECOND))
    for grant in grants:
        site.taken(A if grant.session == 1 else HOLDER, grant)
    again = of(Grant, site.later(SECOND))
    assert {one.session for one in again} == {7}, "the successor alone has not answered"


def test_q7_a_gateway_whose_session_is_over_is_read_again() -> None:
    site = complete()
    grant = next(one for one in of(Grant, site.later(SECOND)) if one.session == 7)
    outputs = say(site.leader, LEADER, HOLDER, Ack(grant.sequence, 8, NUMBER, True, ()), now_ns=site.now_ns)
    outputs += site.later()
    assert [one.floating_ip for one in of(Read, outputs)].count(NUMBER) == 1


def test_q7_a_leader_whose_lease_is_over_is_silent() -> None:
    site = complete()
    site.leader.set_leading_until(site.now_ns + 100 * MS, now_ns=site.now_ns)
    assert site.later(SECOND) == []
    assert site.leader.deadline_ns() is None
    assert say(site.leader, LEADER, HOLDER, Poll(1, (NUMBER,), (7,)), now_ns=site.now_ns) == []


def test_q7_a_leader_whose_lease_is_over_tells_no_gateway_that_it_has_all_rows() -> None:
    site, poll = complete(demand=()), Poll(1, (NUMBER,), (7,))
    site.later()
    assert of(Whole, say(site.leader, LEADER, HOLDER, poll, now_ns=site.now_ns))
    site.leader.set_leading_until(site.now_ns + 100 * MS, now_ns=site.now_ns)
    assert say(site.leader, LEADER, HOLDER, poll, now_ns=site.now_ns + 100 * MS) == []


def test_q7_a_block_that_turns_out_to_be_in_use_stays_its_owners() -> None:
    site = complete()
    grant = next(one for one in of(Grant, site.later(SECOND)) if one.session == 7)
    used = Entry(grant.rows[0].block, Row(B, Stamp(4, 9)))
    names, rows = cut([used])[0]
    taken = (False,) + (True,) * (len(grant.rows) - 1)
    ack = Ack(grant.sequence, 7, NUMBER, True, taken, names, rows)
    moved = of(BlockMoved, say(site.leader, LEADER, HOLDER, ack, now_ns=site.now_ns))
    assert [(one.block, one.former, one.row.owner) for one in moved] == [(used.block, A, B)]
    assert moved[0].row.stamp > Stamp(5, 1)


def test_q8_a_gateway_that_has_all_rows_is_told_so_and_one_that_lacks_any_is_not() -> None:
    site = complete()
    assert of(Whole, say(site.leader, LEADER, NEXT, Poll(3, (NUMBER, 99), (7, 7)), now_ns=site.now_ns)) == []
    site.later(100 * MS)
    (word,) = say(site.leader, LEADER, NEXT, Poll(3, (NUMBER, 99), (7, 7)), now_ns=site.now_ns)
    assert word == Whole(5, 3, (NUMBER,))
    site.later(SECOND)
    assert of(Whole, say(site.leader, LEADER, NEXT, Poll(4, (NUMBER,), (7,)), now_ns=site.now_ns)) == []


def test_q8_a_gateway_in_another_session_is_not_told_so_and_is_read_again() -> None:
    site = complete(demand=())
    site.later(SECOND)
    outputs = say(site.leader, LEADER, HOLDER, Poll(3, (NUMBER,), (8,)), now_ns=site.now_ns) + site.later()
    assert of(Whole, outputs) == []
    assert [one.floating_ip for one in of(Read, outputs)].count(NUMBER) == 1


def test_q5_what_an_owner_let_go_of_is_free_at_once() -> None:
    site = complete(demand=())
    site.holdings(A, HeldRow(NUMBER, 3, 4, 1))
    site.later(SECOND)
    outputs = say(site.leader, LEADER, A, Return((HeldRow(NUMBER, 3, 4, 1),)), now_ns=site.now_ns)
    assert [(one.former, one.row.owner, one.row.is_resting) for one in of(BlockMoved, outputs)] == [(A, None, False)]
    assert (3, None) in owners(site.later())
    late = say(site.leader, LEADER, A, Return((HeldRow(NUMBER, 3, 4, 1),)), now_ns=site.now_ns)
    assert of(BlockMoved, late) == []


def test_q5_the_blocks_of_a_node_that_is_down_are_its_own_until_the_holder_has_taken_them() -> None:
    site = Site(demand=())
    site.later()
    site.table(HOLDER, Entry(3, Row(A, Stamp(4, 1))), whole=True)
    site.later(SECOND)
    site.members(down=(A,))
    assert not any(row.if_idle for one in of(Grant, site.later(239 * SECOND)) for row in one.rows)
    grants = [one for one in of(Grant, site.later(2 * SECOND)) if any(row.if_idle for row in one.rows)]
    assert site.rows()[3].owner == A
    taken = Ack(grants[-1].sequence, 7, NUMBER, True, (True,) * len(grants[-1].rows))
    moved = of(BlockMoved, say(site.leader, LEADER, HOLDER, taken, now_ns=site.now_ns))
    assert [(one.block, one.former, one.row.is_resting) for one in moved] == [(3, A, True)]


def test_q2_a_node_that_is_short_gets_more_and_one_without_pods_is_asked_to_give_back() -> None:
    site = complete(demand=(A,))
    site.later(SECOND)
    site.holdings(A)
    site.holdings(B, HeldRow(NUMBER, 1000, 4, 1))
    say(site.leader, LEADER, A, Ask(NUMBER, 80), now_ns=site.now_ns)
    outputs = site.later(100 * MS) + site.later(SECOND)
    assert sum(row.owner == A for row in site.rows().values()) == 80
    assert site.leader.counts(IP)[A] == 80
    assert of(Recall, outputs) == [Recall(5, NUMBER, 1)]


def test_q2_a_node_that_asks_for_more_has_it_within_some_ms_and_asking_again_makes_no_haste() -> None:
    site = complete(demand=(A,))
    site.holdings(A)
    site.later(SECOND)
    ask = Ask(NUMBER, 80)
    say(site.leader, LEADER, A, ask, now_ns=site.now_ns)
    assert site.leader.deadline_ns() == site.now_ns + TIMES.push_ns
    site.later(TIMES.push_ns)
    assert site.leader.counts(IP)[A] == 80
    say(site.leader, LEADER, A, ask, now_ns=site.now_ns)
    assert site.leader.deadline_ns() == site.now_ns + TIMES.resend_ns


def test_q2_a_node_that_asks_for_fewer_than_it_was_told_of_has_forgotten_them_and_hears_of_them_again() -> None:
    """Where an address was unlisted and listed again so quickly that only some nodes have seen it."""
    site = complete()
    for name in HOSTS:
        site.holdings(name)
    grants = [one for one in of(Grant, site.later(SECOND)) if one.session == 1]
    ask = Ask(NUMBER, 1)
    say(site.leader, LEADER, A, ask, now_ns=site.now_ns)
    assert of(Read, site.later(SECOND)) == [], "it may not have heard of them yet"
    for grant in grants:
        site.taken(A, grant)
    assert of(Read, site.later(SECOND)) == []
    say(site.leader, LEADER, A, ask, now_ns=site.now_ns)
    assert len(of(Read, site.later(TIMES.resend_ns))) == 1
    say(site.leader, LEADER, A, Holdings(5, 20, 2, DAY_NS, 0, 1, ()), now_ns=site.now_ns)
    assert owners([one for one in of(Grant, site.later(SECOND)) if one.session == 1]) == owners(grants)


def test_q2_what_nodes_lack_of_their_base_is_told() -> None:
    site = complete(demand=())
    site.holdings(B, *(HeldRow(NUMBER, block, 4, 1) for block in range(42)))
    leader = LeaderBlocks(term=6, now_ns=SECOND, blocks=1)
    assert leader.shortages() == {}
    leader.set_leading_until(DAY_NS, now_ns=SECOND)
    members = {name: LeaderMember(address, True) for name, address in HOSTS.items()}
    leader.set_members(members, now_ns=SECOND)
    leader.set_floating_ips({IP: Way(HOLDER, "", True)}, now_ns=SECOND)
    leader.set_demand({IP: (A, B)}, now_ns=SECOND)
    table = Table(6, 9, 7, 1, 0, 1, NUMBER, True, False, (), ())
    say(leader, LEADER, HOLDER, table, now_ns=SECOND)
    leader.advance(now_ns=SECOND)
    assert leader.shortages() == {IP: {B: 1}}


def test_what_is_no_floating_ip_any_more_is_forgotten_and_strangers_are_refused() -> None:
    site = complete()
    site.leader.set_floating_ips({IPv4Address("192.0.2.9"): Way("", "")}, now_ns=site.now_ns)
    assert site.rows() == {}
    assert of(Grant, site.later(TIMES.confirm_ns)) == []
    with pytest.raises(PeerError):
        site.leader.receive(source(A), encode(LEADER, Push(1, (HeldRow(1, 1, 1, 1),))), now_ns=site.now_ns)
