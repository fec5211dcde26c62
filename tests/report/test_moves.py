"""Which moves of floating IPs are told, with which cause, and by whom when leadership changes meanwhile."""

from ipaddress import IPv4Address

import pytest

from service.model.assignment import Assignment
from service.model.gateway_node import GatewayNode, NodeState
from service.model.lease import Stamp
from service.report.moves import RECENT_NS, MoveLog
from service.report.objects import GATEWAY
from tests.report.facts import FIRST, SECOND, Site, node, two_held

UP = (node("worker1", 1), node("worker2", 2))
SUCCESSION = "the lease of worker1 ended, and its successor took over"


class Watch:
    """A log and the site that it observes, on one clock."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.site = two_held(lambda: self.now_ns)
        self.log = MoveLog()
        self.is_source_heard = True
        self.observe()

    def observe(self, after_s: float = 0.0) -> None:
        self.now_ns += round(after_s * 1e9)
        self.log.observe(self.site.sightings(), now_ns=self.now_ns, is_source_heard=self.is_source_heard)

    def move(self, holder: str = "worker2") -> None:
        self.site.held[FIRST] = holder
        self.observe(after_s=0.1)


def test_what_stays_where_it_is_has_not_moved() -> None:
    watch = Watch()
    watch.observe(after_s=0.1)
    assert watch.log.take() == ()


def test_the_first_holder_that_is_seen_has_not_moved_there() -> None:
    watch = Watch()
    watch.site.held["192.168.1.102"] = "worker1"
    watch.observe()
    assert watch.log.take() == ()


def test_a_move_is_told_once_on_the_gateway_with_its_address() -> None:
    watch = Watch()
    watch.move()
    (event,) = watch.log.take()
    assert (event.regarding, event.reason, event.subject, event.is_warning) == (
        GATEWAY,
        "FloatingIPMoved",
        FIRST,
        False,
    )
    assert event.note.startswith(f"{FIRST} moved from worker1 to worker2: reassigned")
    watch.observe(after_s=0.1)
    assert watch.log.take() == ()


def test_a_time_without_a_holder_is_part_of_the_move_and_of_its_gap() -> None:
    watch = Watch()
    watch.site.age_ns = 60_000_000
    watch.observe()
    watch.site.age_ns = 0
    del watch.site.held[FIRST]
    watch.observe(after_s=0.2)
    watch.site.held[FIRST] = "worker2"
    watch.observe(after_s=0.2)
    (event,) = watch.log.take()
    assert "gap at most 0.46 s" in event.note


def test_who_had_it_before_and_has_it_again_makes_no_move() -> None:
    watch = Watch()
    del watch.site.held[FIRST]
    watch.observe(after_s=0.2)
    watch.move("worker1")
    assert watch.log.take() == ()


@pytest.mark.parametrize(
    ("nodes", "successor", "cause"),
    [
        ((node("worker1", 1, state=NodeState.DOWN, schedulable=False), UP[1]), "worker2", "node worker1 is down"),
        ((node("worker1", 1, schedulable=False), UP[1]), "worker2", "node worker1 is cordoned or draining"),
        (
            (node("worker1", 1, ready=False), UP[1]),
            "worker2",
            "the lease of worker1 ended, and its successor took over",
        ),
        (UP, "worker2", SUCCESSION),
        (UP, "worker3", "reassigned"),
        ((node("worker1", 1, ready=False), UP[1]), None, "node worker1 is not ready"),
        ((UP[1],), "worker2", "node worker1 has left"),
    ],
)
def test_a_move_is_told_with_its_cause(nodes: tuple[GatewayNode, ...], successor: str | None, cause: str) -> None:
    watch = Watch()
    watch.site.place(FIRST, "worker1", successor=successor)
    watch.observe()
    watch.site.nodes = nodes
    watch.move()
    (event,) = watch.log.take()
    assert f"worker2: {cause}; gap" in event.note


def test_a_grant_to_the_successor_under_another_row_is_no_succession() -> None:
    watch = Watch()
    watch.site.rows[IPv4Address(FIRST)] = Assignment(IPv4Address(FIRST), "worker1", "worker2", Stamp(6, 9))
    watch.observe()
    watch.move()
    (event,) = watch.log.take()
    assert "worker2: reassigned" in event.note


def test_a_move_that_somebody_else_has_told_by_now_is_not_told_later() -> None:
    watch = Watch()
    watch.move()
    watch.observe(after_s=RECENT_NS / 1e9)
    assert len(watch.log.take()) == 1, "the last leader may have died with the node"
    watch.log.recall()
    watch.observe(after_s=0.1)
    assert watch.log.take() == ()


def test_a_move_of_a_time_when_nobody_could_tell_is_told_however_old() -> None:
    watch = Watch()
    watch.is_source_heard = False
    watch.move()
    watch.observe(after_s=60)
    watch.is_source_heard = True
    watch.observe(after_s=RECENT_NS / 1e9)
    assert len(watch.log.take()) == 1


def test_what_was_taken_and_not_told_is_handed_out_again() -> None:
    watch = Watch()
    watch.move()
    taken = watch.log.take()
    watch.log.recall()
    assert watch.log.take() == taken


def test_what_was_told_stands_for_all_moves_of_that_address_and_for_no_other() -> None:
    watch = Watch()
    watch.move()
    watch.site.held[SECOND] = "worker1"
    watch.observe(after_s=0.1)
    watch.move("worker1")
    first, second, last = watch.log.take()
    assert (first.subject, second.subject, last.subject) == (FIRST, SECOND, FIRST)
    watch.log.tell(last)
    watch.log.recall()
    assert watch.log.take() == (second,)


def test_moves_that_nobody_takes_are_bounded() -> None:
    watch = Watch()
    watch.is_source_heard = False
    for turn in range(1000):
        watch.move(f"worker{turn % 500}")
    assert len(watch.log.take()) <= 256


def test_a_controller_that_loses_sight_of_the_electors_sees_no_move_in_it() -> None:
    site, log = two_held(), MoveLog()
    log.observe(site.sightings(), now_ns=0, is_source_heard=True)
    log.observe(Site().sightings(), now_ns=1, is_source_heard=True)
    log.observe(site.sightings(), now_ns=2, is_source_heard=True)
    assert log.take() == ()
