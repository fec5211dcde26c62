"""The gateway's side as a whole: what it answers, in which order."""

import pytest

from service.model.errors import PeerError
from service.model.lease import Stamp, Token
from service.port_block.block import NEVER_GIVEN, TIMES, Row
from service.port_block.gateway import TABLES_MAX, GatewayBlocks, SetOwner, Trust
from service.port_block.message import (
    Ack,
    Ask,
    Correction,
    Entry,
    Grant,
    HeldRow,
    Poll,
    Push,
    Read,
    Receiver,
    Table,
    Whole,
    cut,
    encode,
)
from tests.port_block.site import HOSTS, IP, LEADER, MS, SECOND, FakeKernel, of, say, source, told

GATEWAY = Receiver.GATEWAY
NUMBER = int(IP)
ROW = Row("node1", Stamp(5, 1))


def gateway(kernel: FakeKernel | None = None) -> GatewayBlocks:
    machine = GatewayBlocks(kernel or FakeKernel(Token(1, 1, 1)), now_ns=SECOND)
    machine.set_members(HOSTS, now_ns=SECOND)
    machine.observe(IP, now_ns=SECOND)
    machine.drain()
    return machine


def read(machine: GatewayBlocks, term: int, now_ns: int = SECOND) -> Table:
    (table,) = say(machine, GATEWAY, "controller", Read(term, 1, NUMBER, 0, 0), now_ns=now_ns)
    assert isinstance(table, Table)
    return table


def grant(session: int, *, term: int = 5) -> Grant:
    return Grant(term, 9, session, NUMBER, "", *cut([Entry(3, ROW)])[0])


def test_q3_the_kernel_knows_before_the_leader_is_told() -> None:
    machine = gateway()
    outputs = say(machine, GATEWAY, "controller", grant(read(machine, 5).session), now_ns=SECOND)
    assert [type(output) for output in outputs] == [SetOwner, Ack]
    assert outputs[0] == SetOwner(IP, 3, ROW)
    assert outputs[1].taken == (True,)


def test_q7_what_was_said_in_another_session_or_term_is_not_taken() -> None:
    machine = gateway()
    former = read(machine, 5).session
    now = read(machine, 6).session
    for late in (grant(former, term=5), grant(now, term=5), grant(former, term=6)):
        (ack,) = say(machine, GATEWAY, "controller", late, now_ns=SECOND)
        assert (ack.taken, ack.session) == ((), now)
    assert machine.rows(IP) == {}


def test_q7_a_tenure_that_ended_unnoticed_has_ended_the_session() -> None:
    kernel = FakeKernel(Token(1, 1, 1))
    machine = gateway(kernel)
    session = read(machine, 5).session
    kernel.token = None
    kernel.token = Token(1, 1, 2)
    (ack,) = of(Ack, say(machine, GATEWAY, "controller", grant(session), now_ns=2 * SECOND))
    assert ack.taken == ()


def test_q1_a_term_above_what_the_electors_have_on_disk_is_not_believed() -> None:
    machine = gateway()
    machine.set_leader(LEADER, term_max=5, now_ns=SECOND)
    assert say(machine, GATEWAY, "controller", Read(6, 1, NUMBER, 0, 0), now_ns=SECOND) == []
    push = Push(1, (HeldRow(NUMBER, 3, 6, 1, True),))
    (ack,) = of(Ack, say(machine, GATEWAY, "node1", push, now_ns=SECOND))
    assert ack.taken == (False,)
    assert read(machine, 5).term == 5


def test_r3_a_holder_that_never_was_a_successor_learns_from_the_owner_itself() -> None:
    machine = gateway()
    outputs = say(machine, GATEWAY, "node1", Push(7, (HeldRow(NUMBER, 3, 5, 1, True),)), now_ns=SECOND)
    assert outputs == [SetOwner(IP, 3, ROW), Ack(7, 0, NUMBER, True, (True,))]


def test_q3_an_owner_whose_packet_was_dropped_is_told_whose_the_block_is_once_in_a_while() -> None:
    machine = gateway()
    say(machine, GATEWAY, "controller", grant(read(machine, 5).session), now_ns=SECOND)
    for _ in range(3):
        machine.note_foreign(IP, 3, "node2", now_ns=SECOND)
    (correction,) = told(machine)
    assert correction == Correction(NUMBER, *cut([Entry(3, ROW)])[0])
    machine.note_foreign(IP, 3, "node2", now_ns=SECOND + 100 * MS)
    assert len(told(machine)) == 1
    machine.note_foreign(IP, 3, "nobody", now_ns=SECOND + 100 * MS)
    assert told(machine) == []


def test_an_owner_that_knows_more_is_not_corrected() -> None:
    machine = gateway()
    outputs = say(machine, GATEWAY, "node1", Push(7, (HeldRow(NUMBER, 3, 5, 1),)), now_ns=SECOND)
    assert outputs == [Ack(7, 0, NUMBER, True, (False,))]


def test_a_leader_that_has_the_table_already_is_told_so_in_one_datagram() -> None:
    machine = gateway()
    machine.restore(IP, [(block, Row("node1", Stamp(1, 1))) for block in range(200)], Token(1, 1, 1), now_ns=SECOND)
    assert told(machine) == []
    tables = say(machine, GATEWAY, "controller", Read(5, 1, NUMBER, 0, 0), now_ns=SECOND)
    assert [table.part for table in tables] == list(range(tables[0].parts))
    assert sum(len(table.rows) for table in tables) == 200
    known = Read(5, 1, NUMBER, tables[0].session, tables[0].edition)
    (table,) = say(machine, GATEWAY, "controller", known, now_ns=SECOND)
    assert (table.parts, table.rows) == (0, ())


def test_q8_a_successor_asks_the_leader_ten_times_a_second() -> None:
    kernel = FakeKernel()
    machine = gateway(kernel)
    machine.set_leader(LEADER, term_max=9, now_ns=SECOND)
    machine.serve([IP], now_ns=SECOND)
    assert machine.deadline_ns() == SECOND
    session = read(machine, 5).session
    machine.advance(now_ns=SECOND)
    (poll,) = of(Poll, told(machine))
    assert (poll.floating_ips, poll.sessions) == ((NUMBER,), (session,))
    assert machine.deadline_ns() == SECOND + 100 * MS
    say(machine, GATEWAY, "controller", Whole(5, poll.sequence, (NUMBER,)), now_ns=SECOND + 50 * MS)
    kernel.token = Token(1, 1, 1)
    machine.observe(IP, now_ns=SECOND + 300 * MS)
    assert told(machine) == [Trust(IP, Token(1, 1, 1))]
    assert read(machine, 6, SECOND + 300 * MS).is_whole


def test_the_word_of_a_leader_that_has_not_read_it_makes_nobody_whole() -> None:
    kernel = FakeKernel(Token(1, 1, 1))
    machine = gateway(kernel)
    machine.set_leader(LEADER, term_max=9, now_ns=SECOND)
    machine.serve([IP], now_ns=SECOND)
    read(machine, 6)
    machine.advance(now_ns=2 * SECOND)
    (poll,) = of(Poll, told(machine))
    say(machine, GATEWAY, "controller", Whole(5, poll.sequence, (NUMBER,)), now_ns=2 * SECOND)
    assert not read(machine, 6, 2 * SECOND).is_whole


def test_what_is_no_floating_ip_any_more_has_no_owners() -> None:
    machine = gateway()
    say(machine, GATEWAY, "node1", Push(7, (HeldRow(NUMBER, 3, 5, 1, True),)), now_ns=SECOND)
    machine.forget(IP, now_ns=SECOND)
    assert told(machine) == [SetOwner(IP, 3, NEVER_GIVEN)]
    assert machine.rows(IP) == {}


def test_rows_of_a_former_gateway_end_when_each_of_their_blocks_may_be_anothers() -> None:
    kernel = FakeKernel(Token(1, 1, 1))
    machine = gateway(kernel)
    say(machine, GATEWAY, "controller", grant(read(machine, 5).session), now_ns=SECOND)
    machine.serve([], now_ns=SECOND)
    machine.advance(now_ns=SECOND + TIMES.down_ns)
    assert machine.rows(IP) == {3: ROW}, "it holds still, whatever is said of it"
    kernel.token = None
    later_ns = SECOND + 2 * TIMES.down_ns
    assert machine.deadline_ns() == later_ns
    machine.advance(now_ns=later_ns - 1)
    assert machine.rows(IP) == {3: ROW}
    machine.advance(now_ns=later_ns)
    assert SetOwner(IP, 3, NEVER_GIVEN) in machine.drain()
    assert (machine.rows(IP), machine.deadline_ns()) == ({}, None)


def test_rows_of_a_gateway_that_serves_again_in_time_stay() -> None:
    kernel = FakeKernel(Token(1, 1, 1))
    machine = gateway(kernel)
    say(machine, GATEWAY, "controller", grant(read(machine, 5).session), now_ns=SECOND)
    kernel.token = None
    for number, served in enumerate(([], [IP], [])):
        machine.serve(served, now_ns=SECOND + number * TIMES.down_ns // 2)
    machine.advance(now_ns=SECOND + 3 * TIMES.down_ns // 2)
    assert machine.rows(IP) == {3: ROW}


def test_floating_ips_that_peers_make_up_have_a_bound() -> None:
    machine = gateway(FakeKernel())
    for number in range(TABLES_MAX - 1):
        machine.receive(source("node1"), encode(GATEWAY, Push(1, (HeldRow(number, 3, 5, 1),))), now_ns=SECOND)
        machine.drain()
    with pytest.raises(PeerError):
        machine.receive(source("node1"), encode(GATEWAY, Push(1, (HeldRow(TABLES_MAX, 3, 5, 1),))), now_ns=SECOND)
    with pytest.raises(PeerError):
        machine.receive(source("node1"), encode(GATEWAY, Ask(1, 1)), now_ns=SECOND)
