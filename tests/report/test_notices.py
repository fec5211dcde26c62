"""Owners of policies are told of planned moves: once before, once after, and of no others (rule O5)."""

from dataclasses import replace
from ipaddress import IPv4Address

from service.model.assignment import PlannedMove
from service.model.objects import Upsert
from service.report.facts import Facts
from service.report.notices import MoveNotices
from tests.policy.objects import policy, policy_key
from tests.report.facts import FIRST, SECOND, two_held

MOVE = PlannedMove(IPv4Address(FIRST), "worker1", "worker2", "node worker1 is drained")


class Watch:
    def __init__(self) -> None:
        self.site = two_held()
        self.site.take(Upsert(policy("one", ip=FIRST)), Upsert(policy("two", ip=SECOND)))
        self.notices = MoveNotices()

    def facts(self, *moves: PlannedMove) -> Facts:
        return replace(self.site.facts(), moves=moves)

    def told(self, *moves: PlannedMove) -> list[tuple[str, str, str]]:
        return [(event.regarding.name, event.reason, event.note) for event in self.notices.due(self.facts(*moves))]


def test_o5_the_policies_of_the_address_are_told_before_and_after() -> None:
    watch = Watch()
    assert watch.told() == []
    before = f"{FIRST} is about to move from worker1 to worker2: node worker1 is drained"
    assert watch.told(MOVE) == [("one", "FloatingIPMoving", before)]
    assert watch.told(MOVE) == []
    watch.site.held[FIRST] = "worker2"
    after = f"{FIRST} moved from worker1 to worker2: node worker1 is drained"
    assert watch.told() == [("one", "FloatingIPMoved", after)]
    assert watch.told() == []


def test_o5_a_moment_without_a_holder_is_part_of_the_move() -> None:
    watch = Watch()
    watch.told(MOVE)
    del watch.site.held[FIRST]
    assert watch.told() == []
    watch.site.held[FIRST] = "worker2"
    assert [reason for _, reason, _ in watch.told()] == ["FloatingIPMoved"]


def test_o5_a_move_that_does_not_come_to_be_is_told_too() -> None:
    watch = Watch()
    watch.told(MOVE)
    assert watch.told() == [("one", "FloatingIPStays", f"{FIRST} stays on worker1, and does not move to worker2")]


def test_o5_another_heir_is_news() -> None:
    watch = Watch()
    watch.told(MOVE)
    assert "to worker3" in watch.told(replace(MOVE, heir="worker3"))[0][2]


def test_events_of_one_address_do_not_hide_each_other_and_are_no_warnings() -> None:
    watch = Watch()
    (event,) = watch.notices.due(watch.facts(MOVE))
    assert (event.regarding, event.subject, event.is_warning) == (policy_key("one"), FIRST, False)


def test_a_policy_that_is_not_in_force_is_not_concerned() -> None:
    watch = Watch()
    facts = watch.facts(MOVE)
    refused = {key: replace(state, accepted=False) for key, state in facts.policies.items()}
    assert watch.notices.due(replace(facts, policies=refused)) == []


def test_who_stops_leading_tells_nothing_of_what_it_began() -> None:
    watch = Watch()
    watch.told(MOVE)
    watch.notices.forget()
    watch.site.held[FIRST] = "worker2"
    assert watch.told() == []
