"""The owner's side as a whole: what it pushes, asks, gives back and ends."""

import pytest

from service.model.errors import PeerError
from service.model.lease import Stamp
from service.port_block.block import Row
from service.port_block.message import (
    Ack,
    Ask,
    Correction,
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
    cut,
    encode,
)
from service.port_block.owner import HOLDINGS_MAX, RESERVE_S, EndFlows, OwnerBlocks, Store, Usable
from service.port_block.push import QUESTIONS_MAX
from tests.port_block.site import HOSTS, IP, LEADER, MS, SECOND, of, say, source, told

OWNER = Receiver.OWNER
NUMBER = int(IP)
ME, B, NEXT = "node0", "node1", "node2"


def owner(successor: str = "") -> OwnerBlocks:
    machine = OwnerBlocks(ME, 5, remembers_since_ns=0, now_ns=SECOND)
    machine.set_members(HOSTS, now_ns=SECOND)
    machine.set_leader(LEADER, term_max=9, now_ns=SECOND)
    machine.set_way(IP, B, successor, now_ns=SECOND)
    machine.drain()
    return machine


def grant(
    machine: OwnerBlocks, *blocks: int, name: str | None = ME, version: int = 1, now_ns: int = SECOND, session: int = 5
) -> list[object]:
    rows = [Entry(block, Row(name, Stamp(5, version))) for block in blocks]
    return say(machine, OWNER, "controller", Grant(5, 1, session, NUMBER, "", *cut(rows)[0]), now_ns=now_ns)


def answer(
    machine: OwnerBlocks, push: Push, *, node: str = B, holds: bool = True, now_ns: int = SECOND
) -> list[object]:
    ack = Ack(push.sequence, 0, NUMBER, holds, (True,) * len(push.rows))
    return say(machine, OWNER, node, ack, now_ns=now_ns)


def with_blocks(*blocks: int) -> OwnerBlocks:
    machine = owner()
    (push,) = of(Push, grant(machine, *blocks))
    answer(machine, push)
    assert machine.usable(IP) == blocks
    return machine


def test_q3_a_block_is_stored_pushed_and_used_once_the_holder_has_it() -> None:
    machine = owner()
    outputs = grant(machine, 3)
    assert [type(output) for output in outputs] == [Store, Push, Ack]
    assert outputs[1].rows == (HeldRow(NUMBER, 3, 5, 1, False),)
    assert machine.usable(IP) == ()
    assert Usable(IP, (3,)) in answer(machine, outputs[1])


def test_an_answer_of_another_node_or_of_another_length_is_none() -> None:
    machine = owner()
    (push,) = of(Push, grant(machine, 3))
    answer(machine, push, node="node3")
    say(machine, OWNER, B, Ack(push.sequence, 0, NUMBER, True, (True, True)), now_ns=SECOND)
    assert machine.usable(IP) == ()


def test_what_is_not_acknowledged_is_pushed_again_with_patience_that_doubles() -> None:
    machine = owner()
    grant(machine, 3)
    waits = []
    now_ns = SECOND
    for _ in range(6):
        due_ns = machine.deadline_ns()
        assert due_ns is not None
        machine.advance(now_ns=due_ns)
        if of(Push, told(machine)):
            waits.append((due_ns - now_ns) // MS)
            now_ns = due_ns
    assert waits[:4] == [5, 10, 20, 40]


def test_q9_a_block_is_confirmed_again_and_told_as_confirmed() -> None:
    machine = with_blocks(3)
    pushes = []
    for second in range(2, 120):
        machine.advance(now_ns=second * SECOND)
        for push in of(Push, told(machine)):
            pushes.append(second)
            assert push.rows[0].is_acknowledged
            answer(machine, push, now_ns=second * SECOND)
    assert 2 <= len(pushes) <= 3
    machine.set_way(IP, NEXT, "", now_ns=330 * SECOND)
    machine.advance(now_ns=330 * SECOND)
    (late,) = of(Push, told(machine))
    assert not late.rows[0].is_acknowledged


def test_r3_a_way_that_moves_has_all_blocks_pushed_to_the_new_holder_at_once() -> None:
    machine = with_blocks(3, 4)
    machine.set_way(IP, NEXT, "", now_ns=2 * SECOND)
    assert Usable(IP, ()) in told(machine)
    machine.advance(now_ns=2 * SECOND)
    (push,) = of(Push, told(machine))
    assert [(row.block, row.is_acknowledged) for row in push.rows] == [(3, True), (4, True)]
    assert Usable(IP, (3, 4)) in answer(machine, push, node=NEXT, now_ns=2 * SECOND)


def test_q3_a_newer_row_of_a_gateway_ends_the_flows_and_an_older_one_is_answered_by_a_push() -> None:
    machine = with_blocks(3, 4)
    newer = Correction(NUMBER, *cut([Entry(3, Row("node3", Stamp(5, 9)))])[0])
    assert say(machine, OWNER, B, newer, now_ns=2 * SECOND) == [
        Usable(IP, (4,)),
        EndFlows(IP, 3),
        Store(IP, 3, None, None),
    ], "no new flow gets a port of it between"
    machine.advance(now_ns=2 * SECOND)
    machine.drain()
    older = Correction(NUMBER, *cut([Entry(4, Row("node3", Stamp(4, 9)))])[0])
    say(machine, OWNER, B, older, now_ns=2 * SECOND)
    machine.advance(now_ns=2 * SECOND)
    (push,) = of(Push, told(machine))
    assert [(row.block, row.is_acknowledged) for row in push.rows] == [(4, True)]
    answer(machine, push, now_ns=2 * SECOND)
    assert machine.usable(IP) == (4,)


def test_q2_a_node_asks_when_its_ports_do_not_last_and_until_it_has_enough() -> None:
    machine = with_blocks(3)
    machine.note_use(IP, 65, 64.0 / RESERVE_S, now_ns=2 * SECOND)
    machine.advance(now_ns=3 * SECOND)
    assert of(Ask, told(machine)) == []
    machine.note_use(IP, 10, 140.0 / RESERVE_S, now_ns=3 * SECOND)
    machine.advance(now_ns=4 * SECOND)
    assert of(Ask, told(machine)) == [Ask(NUMBER, 4)]
    grant(machine, 4, 5, 6, version=2, now_ns=4 * SECOND)
    machine.advance(now_ns=5 * SECOND)
    assert of(Ask, told(machine)) == []


def test_q2_who_becomes_short_asks_at_once_whatever_it_had_to_do_a_moment_before() -> None:
    machine = with_blocks(3)
    machine.advance(now_ns=3 * SECOND)
    machine.note_use(IP, 0, 64.0 / RESERVE_S, now_ns=3 * SECOND + MS)
    assert (machine.deadline_ns() or 0) <= 3 * SECOND + MS
    machine.advance(now_ns=3 * SECOND + MS)
    assert len(of(Ask, told(machine))) == 1
    machine.advance(now_ns=3 * SECOND + 2 * MS)
    assert of(Ask, told(machine)) == [], "and not again at once"


def test_q5_a_block_that_is_called_back_is_struck_from_the_store_before_the_leader_is_told() -> None:
    machine = with_blocks(3, 4)
    assert say(machine, OWNER, "controller", Recall(5, NUMBER, 1), now_ns=2 * SECOND) == [Usable(IP, (3,))]
    machine.note_scan(IP, [], begun_ns=5 * SECOND, now_ns=6 * SECOND)
    assert told(machine) == [Store(IP, 4, None, None), Return((HeldRow(NUMBER, 4, 5, 1),))]
    machine.advance(now_ns=7 * SECOND)
    assert len(of(Return, told(machine))) == 1, "until it is answered"
    grant(machine, 4, name=None, version=2, now_ns=7 * SECOND)
    machine.advance(now_ns=8 * SECOND)
    assert of(Return, told(machine)) == []


def test_a_node_that_is_short_gives_nothing_back() -> None:
    machine = with_blocks(3)
    machine.note_use(IP, 0, 64.0, now_ns=2 * SECOND)
    assert say(machine, OWNER, "controller", Recall(5, NUMBER, 1), now_ns=2 * SECOND) == []


def test_q7_what_was_forgotten_with_its_address_is_told_to_a_leader_that_did_not_hear_of_that() -> None:
    """The address is a floating IP again before everybody has heard that it was none."""
    machine = with_blocks(3)
    (before,) = say(machine, OWNER, "controller", Read(5, 1, 0, 0, 0), now_ns=2 * SECOND)
    machine.forget(IP, now_ns=2 * SECOND)
    told(machine)
    (after,) = say(machine, OWNER, "controller", Read(5, 2, 0, 0, before.edition), now_ns=3 * SECOND)
    assert (before.rows, after.rows, after.parts) == ((HeldRow(NUMBER, 3, 5, 1),), (), 1)


def test_q1_a_leader_of_a_former_term_is_not_listened_to_nor_one_above_the_electors() -> None:
    machine = owner()
    say(machine, OWNER, "controller", Read(6, 1, 0, 0, 0), now_ns=SECOND)
    assert grant(machine, 3) == []
    assert say(machine, OWNER, "controller", Read(10, 1, 0, 0, 0), now_ns=SECOND) == []


def test_q7_it_says_what_it_has_and_for_how_long_it_remembers() -> None:
    machine = owner()
    for first in range(0, 100, 25):
        grant(machine, *range(first, first + 25))
    answers = say(machine, OWNER, "controller", Read(5, 1, 0, 0, 0), now_ns=9 * SECOND)
    assert all(isinstance(one, Holdings) and one.age_ns == 9 * SECOND for one in answers)
    assert [row.block for one in answers for row in one.rows] == list(range(100))
    known = Read(5, 1, 0, 0, answers[0].edition)
    assert [one.parts for one in say(machine, OWNER, "controller", known, now_ns=9 * SECOND)] == [0]


def test_a_new_process_goes_on_with_what_was_stored() -> None:
    machine = owner()
    machine.restore(IP, [(3, Stamp(5, 1), SECOND // 2)], now_ns=SECOND)
    machine.advance(now_ns=SECOND)
    (push,) = of(Push, told(machine))
    assert push.rows[0].is_acknowledged
    assert Usable(IP, (3,)) in answer(machine, push)


def test_q5_what_was_said_to_an_earlier_process_is_not_taken() -> None:
    machine = owner()
    assert grant(machine, 3, session=4) == []


def test_q6_without_a_leader_nothing_ends() -> None:
    machine = with_blocks(3)
    machine.set_leader(None, term_max=9, now_ns=2 * SECOND)
    for second in range(2, 2000, 5):
        machine.advance(now_ns=second * SECOND)
        for push in of(Push, told(machine)):
            answer(machine, push, now_ns=second * SECOND)
    assert machine.usable(IP) == (3,)


def test_what_is_no_floating_ip_any_more_ends_and_gives_no_port_first() -> None:
    machine = with_blocks(3)
    machine.forget(IP, now_ns=SECOND)
    assert told(machine) == [Usable(IP, ()), EndFlows(IP, 3), Store(IP, 3, None, None)]


def test_q3_a_flow_in_a_block_that_this_node_does_not_know_to_have_ends_when_it_is_dropped() -> None:
    machine = with_blocks(3)
    for block, name in ((7, "node3"), (8, None)):
        other = Correction(NUMBER, *cut([Entry(block, Row(name, Stamp(5, 9)))])[0])
        assert say(machine, OWNER, B, other, now_ns=2 * SECOND)[0] == EndFlows(IP, block)


def test_what_peers_make_up_has_a_bound() -> None:
    machine = owner()
    for number in range(HOLDINGS_MAX - 1):
        machine.receive(source("controller"), encode(OWNER, Correction(number, (), ())), now_ns=SECOND)
    with pytest.raises(PeerError):
        machine.receive(source("controller"), encode(OWNER, Correction(HOLDINGS_MAX, (), ())), now_ns=SECOND)
    with pytest.raises(PeerError):
        machine.receive(source("controller"), encode(OWNER, Poll(1, (), ())), now_ns=SECOND)


def test_questions_that_are_never_answered_are_forgotten() -> None:
    machine = owner()
    (first,) = of(Push, grant(machine, 3))
    for turn in range(QUESTIONS_MAX):
        machine.set_way(IP, (B, NEXT)[turn % 2], "", now_ns=SECOND)
        machine.advance(now_ns=SECOND)
        machine.drain()
    answer(machine, first)
    assert machine.usable(IP) == ()
