"""Electors that forget whatever nobody holds or claims, as soon as they can: tokens grow all the same (rule K1)."""

import pytest

from service.lease import claimants, elector, oblivion
from service.model.lease import ZERO_TOKEN
from tests.simulation.lease_chaos import Chaos, first_violation
from tests.simulation.lease_world import MS, LeaseWorld

SEEDS = range(40)


@pytest.fixture(autouse=True)
def forget_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oblivion, "IDLE_KEYS_MAX", 0)
    monkeypatch.setattr(claimants, "IDLE_NS", 200 * MS)


class SoleChaos(Chaos):
    """One elector decides alone: what it forgets nobody else can name."""

    def make_world(self, seed: int) -> LeaseWorld:
        return LeaseWorld(seed, majority_of=1, others=2, random_clocks=True)


@pytest.mark.parametrize("make", [Chaos, SoleChaos])
def test_k1_chaos_among_electors_that_forget_at_once_never_shows_a_token_that_does_not_grow(make: type[Chaos]) -> None:
    assert first_violation(SEEDS, make=make) is None


def test_k1_forgetting_without_keeping_the_highest_token_gives_tokens_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(promises: dict[str, oblivion.Promise], key: str) -> object:
        promise = promises.get(key)
        return promise.token if promise is not None else ZERO_TOKEN

    monkeypatch.setattr(elector, "highest_token", forgetful)
    assert first_violation(range(250), make=SoleChaos) is not None
