"""Two gateway nodes and a witness: an elector that claims nothing, so that one node and it are a majority."""

import pytest

from tests.simulation.lease_chaos import Chaos
from tests.simulation.lease_world import MS, LeaseWorld

IP = "192.0.2.100"
FIRST, SECOND, WITNESS = "node0", "node1", "node2"
SEEDS = 100


def two_and_a_witness(seed: int = 1) -> LeaseWorld:
    """The first holds, the second stands by."""
    world = LeaseWorld(seed, others=0)
    world.start_all()
    world.claim(FIRST, {IP: ("holder", 1, 1)})
    world.run_for(100 * MS)
    world.claim(SECOND, {IP: ("successor", 1, 1)})
    world.run_for(400 * MS)
    assert world.holders(IP) == [FIRST]
    return world


def test_the_second_takes_over_when_the_first_is_off() -> None:
    world = two_and_a_witness()
    world.kill(FIRST)
    world.run_for(500 * MS)
    assert world.holders(IP) == [SECOND]


def test_two_that_lose_each_other_go_on_as_they_are_because_both_reach_the_witness() -> None:
    world = two_and_a_witness()
    world.cut_between(FIRST, SECOND)
    world.run_for(3000 * MS)
    assert world.holders(IP) == [FIRST]


def test_whoever_of_the_two_reaches_the_witness_has_the_address() -> None:
    world = two_and_a_witness()
    world.isolate(FIRST)
    world.run_for(500 * MS)
    assert world.holders(IP) == [SECOND]


@pytest.mark.parametrize("seed", range(5))
def test_without_the_witness_both_nodes_go_on_and_of_two_votes_lost_none_holds(seed: int) -> None:
    world = two_and_a_witness(seed)
    world.kill(WITNESS)
    world.run_for(2000 * MS)
    assert world.holders(IP) == [FIRST]
    world.cut_between(FIRST, SECOND)
    world.run_for(1000 * MS)
    assert world.holders(IP) == []


class WitnessChaos(Chaos):
    """Faults at random times, the witness not spared; only the two nodes are ever assigned anything."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.agents = [FIRST, SECOND]

    def make_world(self, seed: int) -> LeaseWorld:
        return LeaseWorld(seed, others=0, random_clocks=True)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_chaos_never_makes_two_holders_and_healed_everything_is_held(seed: int) -> None:
    WitnessChaos(seed).run()
