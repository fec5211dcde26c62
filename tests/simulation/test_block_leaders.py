"""Port blocks and changes of leader and gateway: who may be believed (docs/port-blocks.md, Q7 and Q8).

A story is told twice: as it is, where no block is used by two nodes, and with one rule cut, where one is.
"""

from ipaddress import IPv4Address
from typing import Any

import msgspec
import pytest

from service.model.lease import Stamp
from service.port_block.block import Row
from service.port_block.evidence import merge
from service.port_block.gateway import GatewayBlocks
from service.port_block.gateway_table import GatewayTable
from service.port_block.leader import LeaderBlocks
from service.port_block.leader_table import LeaderTable
from service.port_block.message import Entry, Grant, Poll
from service.port_block.owned_block import OwnedBlock
from service.port_block.owner_view import OwnerView
from tests.simulation.block_story import FAR, FIRST, HOLDER, IP, NEXT, SECOND_LEADER, A, B, BlockStory, breaks
from tests.simulation.block_world import BlockWorld
from tests.simulation.world import MS, SECOND

Patch = pytest.MonkeyPatch


def fresh_holder_and_fresh_leader(*, is_a_up: bool) -> None:
    """Neither knows anything of A's block, and A cannot say it."""
    world = BlockStory()
    world.given_to(A)
    world.sever(A)
    world.uninformed[A] = None
    if not is_a_up:
        world.kill(A)
    world.sever(FIRST)
    world.succeed(FAR, B)
    world.change_leader()
    world.bind(B)
    world.run(2)
    if world.is_usable(B):
        world.send(B)


@pytest.mark.parametrize("is_a_up", [True, False])
def test_q7_a_leader_gives_nothing_that_somebody_may_have(is_a_up: bool) -> None:
    fresh_holder_and_fresh_leader(is_a_up=is_a_up)


def test_q7_a_leader_that_does_not_read_first_gives_a_block_in_use_away(monkeypatch: Patch) -> None:
    """Rule Q7 dropped."""
    monkeypatch.setattr(LeaderBlocks, "_knows_all", lambda self, table: table.holder is not None)
    breaks(lambda: fresh_holder_and_fresh_leader(is_a_up=True))


def test_q7_a_leader_that_does_not_wait_for_who_is_down_gives_its_block_away(monkeypatch: Patch) -> None:
    """Rule Q7 dropped."""
    settled = OwnerView.is_settled
    monkeypatch.setattr(
        OwnerView,
        "is_settled",
        lambda self, held_ns, now_ns: self.down_ns is not None or settled(self, held_ns, now_ns + 10**12),
    )
    breaks(lambda: fresh_holder_and_fresh_leader(is_a_up=False))


def power_failure() -> None:
    """A and both gateways are rebooted at once, and say truly that they have nothing."""
    world = BlockStory()
    world.given_to(A)
    world.run(13)
    world.send(A)
    world.sever(FIRST)
    for name in (NEXT, A, HOLDER):
        world.reboot(name)
        world.restart(name)
    world.succeed(FAR, NEXT)
    world.change_leader()
    world.bind(B)
    world.run(2)
    if world.is_usable(B):
        world.send(B)


def test_q7_a_node_that_was_rebooted_is_known_to_have_forgotten() -> None:
    power_failure()


def test_q7_a_leader_that_takes_a_rebooted_nodes_word_gives_its_block_away(monkeypatch: Patch) -> None:
    """Rule Q7 dropped."""
    monkeypatch.setattr(OwnerView, "is_settled", lambda self, held_ns, now_ns: self.is_read)
    breaks(power_failure)


def late_grant() -> None:
    """The first leader's grant to A reaches FAR and A when FAR holds, the second leads and B uses the block."""
    world = BlockStory()
    world.give_lease(IP, HOLDER, FAR)
    world.run(1)
    world.sever(FIRST, HOLDER, NEXT)
    world.sever(A, SECOND_LEADER, NEXT)
    for name in (FAR, A):
        world.slow_down(FIRST, name, 3)
    world.bind(A)
    world.run(0.2)
    world.demand[IP] = {}
    world.successors[IP] = NEXT
    world.change_leader()
    world.given_to(B)
    world.sever(B)
    world.sever(SECOND_LEADER)
    world.succeed(FAR, NEXT)
    for _ in range(40):
        world.run(0.1)
        if world.is_usable(A):
            world.send(A)


def test_q7_what_a_former_leader_said_is_not_taken_by_a_holder_that_came_later() -> None:
    late_grant()


def test_q7_a_gateway_without_sessions_takes_a_late_grant(monkeypatch: Patch) -> None:
    """Rule Q7 dropped."""
    original = GatewayBlocks._take_grant

    def take(self: GatewayBlocks, source: Any, message: Grant) -> None:
        table = self._table(IP)
        original(self, source, msgspec.structs.replace(message, term=table.term, session=table.session))

    monkeypatch.setattr(GatewayBlocks, "_take_grant", take)
    breaks(late_grant)


def two_leaders() -> None:
    """The first has lost its lease and not noticed. FAR, which the second cannot reach, comes to hold."""
    world = BlockStory()
    world.run(1)
    world.sever(A, SECOND_LEADER, NEXT)
    world.change_leader()
    world.given_to(B)
    world.sever(B, FAR)
    world.sever(SECOND_LEADER)
    world.succeed(FAR, NEXT)
    world.demand[IP] = {A: None}
    # It is still told of the site, and nobody renews its lease.
    world.leading = (FIRST, 2)
    world.barred = {SECOND_LEADER: None, FIRST: None}
    for _ in range(20):
        world._inform_leader()
        world.run(0.1)
        if world.is_usable(A):
            world.send(A)


def test_q7_a_leader_whose_lease_is_over_gives_nothing() -> None:
    two_leaders()


def test_q7_a_leader_that_speaks_on_after_its_lease_gives_a_block_in_use_away(monkeypatch: Patch) -> None:
    """Rule Q7 dropped."""
    monkeypatch.setattr(LeaderBlocks, "_leads", property(lambda self: True))
    breaks(two_leaders)


def successor_that_missed_a_row(*, seconds: float) -> None:
    """NEXT is cut off when A gets the block. Then holder and leader die, NEXT takes over, and A cannot be heard."""
    world = BlockStory()
    world.run(1)
    world.sever(NEXT)
    world.bind(A)
    world._inform_leader()
    world.net.run_for(int(seconds * 1000) * MS, condition=lambda: world.is_usable(A))
    if world.is_usable(A):
        world.send(A)
    world.sever(A)
    world.sever(FIRST)
    world.join(NEXT, B, SECOND_LEADER)
    world.succeed(NEXT, B)
    world.bind(B)
    world.change_leader()
    world.run(2)
    if world.is_usable(B):
        world.send(B)


@pytest.mark.parametrize("seconds", [0.05, 0.3, 0.8, 2])
def test_q8_a_successor_that_may_have_missed_a_row_is_not_taken_for_whole(seconds: float) -> None:
    successor_that_missed_a_row(seconds=seconds)


def test_q8_a_successor_that_counts_on_an_old_word_hides_a_block_in_use(monkeypatch: Patch) -> None:
    """Rule Q8 dropped."""

    def take_whole(self: GatewayTable, asked_ns: int, now_ns: int) -> None:
        self._whole_until_ns = 1 << 62

    monkeypatch.setattr(GatewayTable, "take_whole", take_whole)
    breaks(lambda: successor_that_missed_a_row(seconds=2))


def test_q3_an_owner_that_does_not_wait_for_the_successor_uses_a_block_that_it_lacks(monkeypatch: Patch) -> None:
    """Rule Q3 dropped."""
    monkeypatch.setattr(OwnedBlock, "is_usable", lambda self, holder, times, now_ns: self.contact_ns is not None)
    breaks(lambda: successor_that_missed_a_row(seconds=0.05))


def lease_that_came_back() -> None:
    """HOLDER loses the lease for a moment, strikes its rows, and hears from the leader before it is read again."""
    world = BlockStory()
    world.given_to(A)
    world.run(1)
    world.sever(A)
    world.sever(NEXT)
    world.sever(HOLDER, FIRST)
    world.give_lease(IP, NEXT, HOLDER)
    world.run(0.6)
    world.give_lease(IP, HOLDER, NEXT)
    world._inform(HOLDER)
    world.join(HOLDER, FIRST)
    world.net.run_for(120 * MS)
    world.sever(FIRST)
    world.bind(B)
    world.change_leader()
    world.run(2)
    if world.is_usable(B):
        world.send(B)


def test_q8_a_holder_that_struck_its_rows_is_not_told_that_it_has_all() -> None:
    lease_that_came_back()


def test_q8_a_leader_that_does_not_look_at_the_session_tells_it_so(monkeypatch: Patch) -> None:
    """Rule Q8 dropped."""
    original = LeaderBlocks._take_poll

    def take(self: LeaderBlocks, source: Any, message: Poll) -> None:
        views = [self._tables[IPv4Address(number)].gateways.get(source.node) for number in message.floating_ips]
        sessions = tuple((view.session or 0) if view is not None else 0 for view in views)
        original(self, source, msgspec.structs.replace(message, sessions=sessions))

    monkeypatch.setattr(LeaderBlocks, "_take_poll", take)
    breaks(lease_that_came_back)


def test_r3_a_lease_that_came_back_costs_one_dropped_packet_and_a_round_trip() -> None:
    world = BlockStory()
    world.given_to(A)
    world.sever(FIRST)
    world.uninformed[A] = None
    world.give_lease(IP, NEXT, HOLDER)
    world.run(1)
    world.give_lease(IP, HOLDER, NEXT)
    world._inform(HOLDER)
    assert not world.send(A)
    world.net.run_for(5 * MS)
    assert world.send(A)


def former_successor_takes_over() -> None:
    """FAR is the successor since a moment; NEXT still counts on the word it got, and has the older claim."""
    world = BlockStory()
    world.run(1)
    world.sever(NEXT)
    world.successors[IP] = FAR
    world.bind(A)
    world.inform()
    world.net.run_for(50 * MS, condition=lambda: world.is_usable(A))
    if world.is_usable(A):
        world.send(A)
    world.sever(A)
    world.sever(FIRST)
    world.join(NEXT, B, SECOND_LEADER)
    world.succeed(NEXT, B)
    world.bind(B)
    world.change_leader()
    world.run(2)
    if world.is_usable(B):
        world.send(B)


def test_q8_after_a_change_of_successor_nothing_is_given_for_half_a_second() -> None:
    former_successor_takes_over()


def test_q8_a_leader_that_does_not_wait_after_it_gives_a_block_that_the_next_holder_lacks(monkeypatch: Patch) -> None:
    """Rule Q8 dropped."""
    give = LeaderBlocks._give

    def at_once(self: LeaderBlocks, floating_ip: Any, table: LeaderTable, gifts: Any) -> None:
        table.quiet_until_ns = 0
        give(self, floating_ip, table, gifts)

    monkeypatch.setattr(LeaderBlocks, "_give", at_once)
    breaks(former_successor_takes_over)


def told_between_read_and_grant() -> None:
    """A leader is told, wrongly, that the address is new. A tells the holder of its block after the leader has read."""
    world = BlockStory()
    world.given_to(A)
    world.sever(A)
    world.sever(FIRST)
    world.unasking[FAR] = None
    world.succeed(FAR, B)
    world.new_in_term = 2
    world.demand[IP] = {}
    world.change_leader()
    world.join(A, FAR)
    world.run(0.3)
    assert world.send(A)
    world.sever(A)
    world.bind(B)
    world.run(2)
    if world.is_usable(B):
        world.send(B)


def test_q7_what_an_owner_told_after_the_read_is_not_overwritten() -> None:
    told_between_read_and_grant()


def test_q7_without_compare_and_swap_a_block_in_use_is_given_away(monkeypatch: Patch) -> None:
    """Rule Q7 dropped."""

    def take(self: GatewayTable, entry: Entry, now_ns: int) -> bool:
        if entry.row.stamp > self.row(entry.block).stamp:
            self._set(entry.block, entry.row)
        return self.row(entry.block) == entry.row

    monkeypatch.setattr(GatewayTable, "take_grant", take)
    breaks(told_between_read_and_grant)


def stamp_that_nobody_remembers() -> None:
    """B had the block under a newer stamp and gave it back. Only FAR, away since, has that row; A has the block."""
    world = BlockStory()
    world.give_lease(IP, HOLDER, FAR)
    world.given_to(B)
    world.run(0.5)
    world.kill(FAR)
    world.kernels[B].flows.clear()
    world.needs[(B, IP)] = 0
    world.demand[IP] = {}
    world.net.run_for(3 * SECOND, condition=lambda: BlockWorld.scan(world) or (IP, 0) not in world.kernels[B].own)
    world.run(0.5)
    # As a leader would have left it that read an older row than FAR's, and believed it.
    world.sever(FIRST)
    for name in (HOLDER, NEXT):
        world.kernels[name].owners[(IP, 0)] = Row(A, Stamp(1, 0))
        world.restart(name)
    world.kernels[A].own[(IP, 0)] = (Stamp(1, 0), world.local_ns(A))
    world.restart(A)
    world.succeed(HOLDER, NEXT)
    world.bind(A)
    world.change_leader()
    world.run(14)
    assert world.send(A)
    world.restart(FAR)
    world.succeed(HOLDER, FAR)
    world.demand[IP] = {B: None, A: None}
    for _ in range(20):
        world.run(0.1)
        if world.is_usable(B):
            world.send(B)
    assert world.send(A)


def test_q7_a_newer_stamp_of_a_gateway_that_does_not_hold_moves_no_block() -> None:
    stamp_that_nobody_remembers()


def test_q7_a_leader_that_goes_by_the_stamp_alone_gives_a_block_in_use_away(monkeypatch: Patch) -> None:
    """Rule Q7 dropped."""
    monkeypatch.setattr("service.port_block.leader.judge", merge)
    breaks(stamp_that_nobody_remembers)


def beside_its_own_gateway() -> None:
    """A holds the address itself, and is cut off with it for long. Then the address comes to FAR."""
    world = BlockStory()
    world.give_lease(IP, A, NEXT)
    world.given_to(A)
    world.sever(A)
    world.sever(FIRST)
    world.change_leader()
    world.bind(B)
    for _ in range(30):
        world.run(0.5)
        assert world.send(A)
    world.succeed(FAR, B)
    world.run(1)
    if world.is_usable(B):
        world.send(B)


def test_q7_a_member_that_was_down_for_long_under_another_holder_is_waited_for() -> None:
    beside_its_own_gateway()


def test_q7_a_leader_that_does_not_ask_since_when_the_holder_holds_gives_it_away(
    monkeypatch: Patch,
) -> None:
    """Rule Q7 dropped."""

    def is_settled(self: OwnerView, held_ns: int, now_ns: int, original: Any = OwnerView.is_settled) -> bool:
        return original(self, 0, now_ns)

    monkeypatch.setattr(OwnerView, "is_settled", is_settled)
    breaks(beside_its_own_gateway)
