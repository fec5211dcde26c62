"""One elector that decides alone, on a disk that is slower than a lease: nobody else knows what it granted."""

from typing import Any

import pytest

from service.lease import elector as elector_module
from service.lease.message import Ack
from tests.simulation.lease_chaos import Chaos, first_violation
from tests.simulation.lease_world import MS, LeaseWorld

SEEDS = 50
Patch = pytest.MonkeyPatch


class SoleChaos(Chaos):
    """One elector decides alone, and its disk is slower than a lease."""

    def make_world(self, seed: int) -> LeaseWorld:
        world = LeaseWorld(seed, majority_of=1, others=2, random_clocks=True)
        world.disk_ns_max = 700 * MS
        return world


def test_k1_chaos_with_a_sole_elector_and_a_slow_disk_never_shows_a_token_that_does_not_grow() -> None:
    for seed in range(SEEDS):
        SoleChaos(seed).run()


def test_k1_a_sole_elector_that_tells_of_tokens_before_they_are_on_disk_gives_them_again(monkeypatch: Patch) -> None:
    """Rule K1 dropped where one elector decides alone: it loses power, and nobody else knows what it granted."""

    def tell_at_once(*args: Any, original: Any = elector_module.acknowledgement, **options: Any) -> Ack:
        answer: Ack = original(*args, **options | {"withheld": ()})
        return answer

    monkeypatch.setattr(elector_module, "acknowledgement", tell_at_once)
    assert first_violation(range(250), make=SoleChaos) is not None
