"""Port blocks under faults: seeded chaos, and for each rule a history that breaks when the rule is cut.

A longer search: EGRESSGW_BLOCK_SEEDS=2000 pytest tests/simulation/test_block.py -k chaos

The rules are in docs/port-blocks.md. A story is told twice: as it is, where no block is used by two nodes, and with one
rule cut, where one is.
"""

import os
from typing import Any

import pytest

from service.model.lease import Stamp
from service.port_block.block import Row
from service.port_block.gateway import GatewayBlocks
from service.port_block.gateway_table import GatewayTable
from service.port_block.gateway_view import GatewayView
from service.port_block.leader_table import LeaderTable
from service.port_block.owned_block import OwnedBlock
from service.port_block.owner_view import OwnerView
from service.port_block.push import Pushes
from tests.simulation.block_chaos import BlockChaos
from tests.simulation.block_story import FAR, FIRST, HOLDER, IP, NEXT, SECOND_LEADER, A, B, BlockStory, breaks
from tests.simulation.block_world import BlockWorld, InvariantViolated
from tests.simulation.world import MS, SECOND, Link

SEEDS_THAT_FAILED = (3, 5, 12, 17, 22, 25, 27, 29, 33, 36, 2002, 2018, 2029, 2032, 2042, 2116, 3097, 3121, 5176, 5242)
"""Histories that broke an earlier version; kept although later changes may have made other histories of them."""
SEEDS = int(os.environ.get("EGRESSGW_BLOCK_SEEDS", "30"))
Patch = pytest.MonkeyPatch


def test_chaos_never_shows_two_nodes_with_one_block_and_ends_with_ports_for_all() -> None:
    for seed in (*SEEDS_THAT_FAILED, *range(100_000, 100_000 + SEEDS)):
        BlockChaos(seed).run()


def test_a_seed_is_a_whole_history() -> None:
    runs = [BlockChaos(seed).run() for seed in (7, 7, 8)]
    hashes = [world.net.trace_hash() for world in runs]
    assert hashes[0] == hashes[1] != hashes[2]
    assert all(world.accepted > 1000 and world.moved > 10 for world in runs)


# -- what a user sees --


def test_q2_a_pods_node_has_ports_within_milliseconds_of_its_binding() -> None:
    world = BlockStory()
    world.run(1)
    world.bind(A)
    world._inform_leader()
    began_ns = world.net.now_ns
    assert world.net.run_for(900 * MS, condition=lambda: world.is_usable(A))
    assert world.net.now_ns - began_ns < 10 * MS
    assert world.send(A)


def test_q3_a_successor_that_is_cut_off_costs_half_a_second() -> None:
    world = BlockStory()
    world.run(1)
    world.sever(NEXT)
    world.bind(A)
    world._inform_leader()
    began_ns = world.net.now_ns
    assert world.net.run_for(2_000 * MS, condition=lambda: world.is_usable(A))
    assert 500 * MS <= world.net.now_ns - began_ns < 600 * MS


def test_a_successor_that_takes_over_forwards_at_once() -> None:
    world = BlockStory()
    world.given_to(A)
    world.run(0.5)
    world.succeed(NEXT, B)
    assert world.send(A)


def without_a_leader() -> BlockStory:
    world = BlockStory()
    world.given_to(A)
    world.barred = {FIRST: None, SECOND_LEADER: None}
    world.run(20)
    assert world.send(A)
    return world


def test_q6_without_a_leader_everything_goes_on_and_a_node_without_a_block_waits() -> None:
    world = without_a_leader()
    world.bind(B)
    world.run(2)
    assert not world.is_usable(B)


def test_r3_two_gateways_lost_at_once_and_no_leader_cost_milliseconds() -> None:
    world = without_a_leader()
    world.succeed(FAR, B)
    world.run(0.005)
    assert world.send(A)


def test_r3_a_holder_that_does_not_listen_to_owners_forwards_nothing(monkeypatch: Patch) -> None:
    """Rule R3 dropped."""
    monkeypatch.setattr(GatewayTable, "take_push", lambda self, block, row, *, is_acknowledged: self.row(block) == row)
    world = without_a_leader()
    world.succeed(FAR, B)
    world.run(5)
    assert not world.send(A)


def with_much_loss() -> bool:
    world = BlockStory()
    world.net.link = Link(loss=0.5)
    world.run(1)
    world.bind(A)
    world.run(8)
    return world.is_usable(A)


def test_q1_what_is_lost_is_sent_again() -> None:
    assert with_much_loss()


@pytest.mark.parametrize("sender", [GatewayView, OwnerView, Pushes])
def test_q1_without_sending_again_a_node_never_gets_its_ports(monkeypatch: Patch, sender: type) -> None:
    """Rule Q1 dropped."""
    if sender is Pushes:
        monkeypatch.setattr(Pushes, "again", lambda self, floating_ip, *rest, **more: self.forget(floating_ip))
    else:
        monkeypatch.setattr(sender, "again", lambda self, now_ns: setattr(self, "due_ns", 1 << 62))
    assert not with_much_loss()


def test_q5_a_block_that_is_given_back_serves_another_node_at_once() -> None:
    world = BlockStory()
    world.given_to(A)
    world.kernels[A].flows.clear()
    world.bind(B)
    world.needs[(A, IP)] = 0
    for _ in range(20):
        world.run(0.2)
        BlockWorld.scan(world)
    assert world.is_usable(B)
    assert world.send(B)


# -- each rule, and what happens without it --


def taken_by_time() -> BlockStory:
    """A is away until its block is taken, has rested, and is B's."""
    world = BlockStory()
    world.given_to(A)
    world.sever(A)
    world.uninformed[A] = None
    world.bind(B)
    assert world.net.run_for(20 * SECOND, condition=lambda: world.is_usable(B))
    world.send(B)
    return world


def back_with_an_old_row() -> None:
    """The address moves to a node that never was a gateway; A is the first to tell it of the block."""
    world = taken_by_time()
    world.sever(B)
    world.barred = {FIRST: None, SECOND_LEADER: None}
    world.run(0.5)
    world.join(A, FAR)
    del world.uninformed[A]
    world.succeed(FAR, NEXT)
    world.run(1)
    world.send(A)


def test_q9_a_node_that_was_away_for_long_takes_nothing_back() -> None:
    back_with_an_old_row()


def test_q9_an_owner_that_does_not_count_how_long_it_was_away_takes_its_block_back(monkeypatch: Patch) -> None:
    """Rule Q9 dropped."""
    monkeypatch.setattr(OwnedBlock, "is_acknowledged", lambda self, times, now_ns: self.contact_ns is not None)
    breaks(back_with_an_old_row)


def back_at_the_holder() -> None:
    """A has heard nothing yet, and sends."""
    world = taken_by_time()
    world.send(A)


def test_q3_the_holders_kernel_takes_packets_of_a_block_from_its_owner_alone() -> None:
    back_at_the_holder()


def test_q3_without_the_look_into_the_kernel_two_nodes_use_one_block(monkeypatch: Patch) -> None:
    """Rule Q3 dropped."""

    def arrive(self: BlockWorld, name: str, gateway: str, floating_ip: Any, block: int) -> None:
        self._check(name, floating_ip, block)
        self.used[(floating_ip, block)] = (name, self.net.now_ns)
        self.accepted += 1

    def story() -> None:
        world = taken_by_time()
        monkeypatch.setattr(BlockWorld, "_arrive", arrive)
        world.send(A)

    breaks(story)


def old_rows_of_a_former_successor() -> None:
    """FAR stood by when A had the block. A's agent is dead, and its kernel sends when the address comes to FAR."""
    world = BlockStory()
    world.give_lease(IP, HOLDER, FAR)
    world.given_to(A)
    world.run(1)
    world.successors[IP] = NEXT
    world.run(1)
    world.kill(A)
    world.bind(B)
    world.run(14)
    assert world.is_usable(B)
    world.send(B)
    world.succeed(FAR, NEXT)
    world.ways[A][IP] = (FAR, NEXT)
    world.send(A)


def test_r3_rows_that_may_be_old_count_for_nothing_when_the_lease_comes() -> None:
    old_rows_of_a_former_successor()


def test_r3_a_holder_that_goes_by_old_rows_takes_packets_of_a_former_owner(monkeypatch: Patch) -> None:
    """Rule R3 dropped; forgetting what was not served for minutes would hide it, for these minutes."""
    monkeypatch.setattr(GatewayBlocks, "_forget_unserved", lambda self: self._unserved_ns.clear())
    monkeypatch.setattr(
        GatewayTable, "_begin", lambda self, tenure, keeps: self._changes.trust(self.floating_ip, tenure)
    )
    breaks(old_rows_of_a_former_successor)


def down_and_forwarding() -> None:
    """Gossip takes A for Down for long, while it forwards."""
    world = BlockStory()
    world.given_to(A)
    world.slandered[A] = None
    world.bind(B)
    for _ in range(40):
        world.run(0.5)
        world.send(A)
        if world.is_usable(B):
            world.send(B)
    assert world.send(A)


def test_q5_a_block_with_packets_stays_its_owners_though_gossip_takes_it_for_down() -> None:
    down_and_forwarding()


def test_q5_a_holder_that_does_not_look_for_packets_gives_a_block_in_use_away(monkeypatch: Patch) -> None:
    """Rule Q5 dropped."""
    monkeypatch.setattr(GatewayTable, "_is_idle", lambda self, block, now_ns: True)
    breaks(down_and_forwarding)


def word_of_a_former_process() -> None:
    """A gives the block back; its word is slow. Its next process is given the block again, and uses it."""
    world = BlockStory()
    world.given_to(A)
    world.run(0.5)
    world.kernels[A].flows.clear()
    world.needs[(A, IP)] = 0
    world.demand[IP] = {}
    world.slow_down(A, FIRST, 2)
    world.net.run_for(3 * SECOND, condition=lambda: BlockWorld.scan(world) or (IP, 0) not in world.kernels[A].own)
    del world.net.links[(A, FIRST)]
    world.kill(A)
    world.restart(A)
    world.bind(A)
    world.run(1)
    world.send(A)
    world.needs[(A, IP)] = 0
    world.bind(B)
    world.run(2)
    if world.is_usable(B):
        world.send(B)


def test_q5_the_word_of_a_former_process_is_not_taken_for_its_nodes() -> None:
    word_of_a_former_process()


def test_q5_a_leader_that_takes_it_gives_a_block_in_use_away(monkeypatch: Patch) -> None:
    """Rule Q5 dropped."""
    monkeypatch.setattr(OwnerView, "is_current", lambda self, start_id: True)
    breaks(word_of_a_former_process)


def test_q5_a_block_that_does_not_rest_is_used_too_soon(monkeypatch: Patch) -> None:
    """Rule Q5 dropped."""
    free = LeaderTable.free
    taken_by_time()
    monkeypatch.setattr(LeaderTable, "free", lambda self, now_ns: free(self, now_ns + 10**12))
    breaks(taken_by_time)


def row_that_nobody_confirmed() -> None:
    """A has a row of the first leader that no gateway ever had; the second gave the block to B."""
    world = BlockStory()
    world.run(1)
    world.sever(FIRST, HOLDER, NEXT)
    world.sever(A, HOLDER, NEXT)
    world.bind(A)
    world.run(0.2)
    world.demand[IP] = {}
    world.sever(A)
    world.change_leader()
    world.given_to(B)
    world.sever(B)
    world.sever(SECOND_LEADER)
    world.join(A, FAR)
    world.succeed(FAR, NEXT)
    for _ in range(20):
        world.run(0.1)
        if world.is_usable(A):
            world.send(A)


def test_q9_a_row_that_no_holder_confirmed_is_not_taken_from_its_owner() -> None:
    row_that_nobody_confirmed()


def test_q9_an_owner_that_tells_of_unconfirmed_rows_uses_anothers_block(monkeypatch: Patch) -> None:
    """Rule Q9 dropped."""
    monkeypatch.setattr(OwnedBlock, "is_acknowledged", lambda self, times, now_ns: True)
    breaks(row_that_nobody_confirmed)


def test_the_world_sees_a_block_that_two_nodes_use() -> None:
    world = BlockStory()
    world.given_to(A)
    world.kernels[HOLDER].owners[(IP, 0)] = Row(B, Stamp(9, 9))
    with pytest.raises(InvariantViolated):
        world.send(B)
