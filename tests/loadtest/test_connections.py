"""Survivors of a fault are counted by kind, and what is alive for its client alone is told."""

import pytest

from loadtest.connections import FAULTS, Survivors, measure_connections
from loadtest.conversation import KINDS

ASKED = {"push": 4, "idle": 4, "download": 2}


def survivors(alive: dict[str, int], still_open: int = 0) -> Survivors:
    return Survivors("crash", "worker1", "worker2", ASKED, alive, still_open)


def test_where_all_live_and_their_ends_are_heard_nothing_has_failed() -> None:
    assert survivors(ASKED).failures == []


def test_the_dead_are_told_by_kind() -> None:
    found = survivors({"push": 4, "download": 1})
    assert found.failures == ["crash: dead: 4 of 4 idle, 1 of 2 download"]


def test_ends_that_the_server_never_heard_are_a_failure() -> None:
    assert survivors(ASKED, still_open=3).failures == ["crash: 3 ends were not heard"]


@pytest.mark.root
@pytest.mark.bpf
@pytest.mark.timeout(300)
def test_connections_of_every_kind_live_through_a_planned_move_and_end_as_they_should() -> None:
    found = measure_connections("stop", 24, "egwconn", lambda line: None)
    assert found.failures == []
    assert found.next_holder != found.holder
    assert found.asked.keys() == {*KINDS, "half-closed", "download"}


def test_each_fault_says_what_it_is() -> None:
    assert all(case.told for case in FAULTS.values())
    assert not FAULTS["crash"].spares_own_pods
