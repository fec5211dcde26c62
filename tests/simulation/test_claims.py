"""Claims that are given up and made again while answers are under way."""

import pytest

from tests.simulation.lease_world import MS, Link
from tests.simulation.test_lease import IP, held_by, site


@pytest.mark.parametrize("seed", range(20))
def test_a_grant_that_arrives_after_its_claim_was_given_up_and_made_again_is_not_counted(seed: int) -> None:
    world = site(seed, others=2)
    for elector in ("node0", "node1", "node2"):
        world.links[elector, "node3"] = Link(delay_ns_min=40 * MS, delay_ns_max=60 * MS)
    world.claim("node3", {IP: ("holder", 1, 1)})
    for allowed in (False, True):
        world.run_for(2 * MS)
        world.set_claiming("node3", allowed)
    world.run_for(2 * MS)
    world.claim("node4", {IP: ("holder", 1, 2)})
    world.run_for(500 * MS)
    assert held_by(world, "node4")
