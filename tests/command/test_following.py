"""What an operator reads while an order is carried out, how it ends, and that it always does."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from service.command.following import (
    STAYS_S,
    Watch,
    follow_drain,
    follow_move,
    follow_rebalance,
    follow_undrain,
)

A, B = "192.0.2.100", "192.0.2.101"


class Desk:
    """An operator's terminal. Each look gets the next answer, and the last one from then on."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers: Iterator[dict[str, Any]] = iter(answers)
        self.last: dict[str, Any] = {}
        self.lines: list[str] = []
        self.posted: list[tuple[str, dict[str, Any]]] = []
        self.now = 0.0
        self.on_sleep: Callable[[], None] = lambda: None
        self.watch = Watch(self, self.lines.append, lambda: self.now, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()

    def get(self, page: str, **query: str) -> dict[str, Any]:
        self.last = next(self.answers, self.last)
        return self.last

    def post(self, page: str, order: dict[str, Any]) -> dict[str, Any]:
        self.posted.append((page, order))
        return self.get(page) if page != "/v1/withdraw" else self.last


def emptying(*, schedulable: bool = False, **holders: tuple[str, str | None, str]) -> dict[str, Any]:
    """`a` and `b`: (holder, who is to take it, why it stays)."""
    names = {"a": A, "b": B}
    return {
        "node": "worker1",
        "drained": True,
        "schedulable": schedulable,
        "held": {names[key]: {"to": to, "stays": why} for key, (on, to, why) in holders.items() if on == "worker1"},
        "holders": {names[key]: on for key, (on, _, _) in holders.items()},
        "leader": "controller-a",
    }


def moving(state: str, *, number: int = 1, source: str | None = None, to: str | None = None, reason: str = "") -> Any:
    return {
        "floatingIP": A,
        "id": [number, 1],
        "state": state,
        "from": source,
        "to": to,
        "reason": reason,
        "holder": "worker1",
        "leader": "controller-a",
    }


# -- drain --


def test_o3_a_drain_ends_well_when_the_node_has_nothing_any_more() -> None:
    desk = Desk(
        emptying(a=("worker1", "worker2", ""), b=("worker1", "worker3", "")),
        emptying(a=("worker2", "worker2", ""), b=("worker1", "worker3", "")),
        emptying(a=("worker2", "worker2", ""), b=("worker3", "worker3", "")),
    )
    assert follow_drain(desk.watch, "worker1", timeout_s=60)
    assert desk.posted == [("/v1/drain", {"node": "worker1", "drained": True})]
    assert desk.lines == [
        "node worker1 is drained: it is given no floating IP until egressgw undrain worker1",
        f"{A}: to move from worker1 to worker2",
        f"{B}: to move from worker1 to worker3",
        f"{A}: moved from worker1 to worker2",
        f"{B}: moved from worker1 to worker3",
        "2 floating IPs moved, none is left on worker1",
    ]


def test_a_node_that_had_nothing_is_drained_at_once() -> None:
    desk = Desk(emptying(a=("worker2", None, "")))
    assert follow_drain(desk.watch, "worker1", timeout_s=60)
    assert desk.lines[-1] == "0 floating IPs moved, none is left on worker1"
    assert desk.now < 1


def test_o3_what_nobody_can_take_is_told_with_why_and_the_drain_does_not_end_well() -> None:
    desk = Desk(
        emptying(a=("worker1", "worker2", ""), b=("worker1", None, "nobody can")),
        emptying(a=("worker2", None, ""), b=("worker1", None, "nobody can")),
    )
    assert not follow_drain(desk.watch, "worker1", timeout_s=60)
    assert desk.lines[-2:] == [
        f"{B}: stays on worker1: nobody can",
        "1 floating IPs moved, 1 stay on worker1; it is drained all the same",
    ]
    assert STAYS_S <= desk.now < STAYS_S + 1


def test_an_address_between_two_holders_has_not_moved_yet() -> None:
    desk = Desk(emptying(a=("worker1", "worker2", "")), emptying(), emptying(a=("worker2", None, "")))
    assert follow_drain(desk.watch, "worker1", timeout_s=60)
    assert f"{A}: moved from worker1 to worker2" in desk.lines


def test_o3_a_drain_that_nobody_carries_out_ends_with_its_time_and_names_what_is_left_and_the_leader() -> None:
    desk = Desk(emptying(a=("worker1", "worker2", "")))
    assert not follow_drain(desk.watch, "worker1", timeout_s=7)
    assert desk.lines[-2:] == [
        f"after 7 s still on worker1: {A} (leader: controller-a)",
        "worker1 is drained all the same; what is left moves when it can",
    ]


def test_a_drain_that_is_interrupted_stays_in_force() -> None:
    desk = Desk(emptying(a=("worker1", "worker2", "")))

    def interrupt() -> None:
        raise KeyboardInterrupt

    desk.on_sleep = interrupt
    with pytest.raises(KeyboardInterrupt):
        follow_drain(desk.watch, "worker1", timeout_s=7)
    assert len(desk.posted) == 1


@pytest.mark.parametrize(("schedulable", "lines"), [(True, 1), (False, 2)])
def test_the_end_of_a_drain_says_what_else_keeps_the_node_empty(schedulable: bool, lines: int) -> None:
    desk = Desk(emptying(schedulable=schedulable))
    follow_undrain(desk.watch, "worker1")
    assert desk.posted == [("/v1/drain", {"node": "worker1", "drained": False})]
    assert len(desk.lines) == lines


# -- move --


def test_o4_a_move_is_followed_to_its_end() -> None:
    desk = Desk(
        moving("asked"),
        moving("moving", source="worker1", to="worker2"),
        moving("moving", source="worker1", to="worker2"),
        moving("done", source="worker1", to="worker2"),
    )
    assert follow_move(desk.watch, A, "", timeout_s=30)
    assert desk.posted == [("/v1/move", {"floatingIP": A, "node": ""})]
    assert desk.lines == [
        f"{A}: ordered to another node; on worker1 now",
        f"{A}: to move from worker1 to worker2",
        f"{A}: moved from worker1 to worker2",
    ]


def test_o4_a_move_that_failed_says_why() -> None:
    desk = Desk(moving("asked", to="worker9"), moving("failed", to="worker9", reason="there is no node worker9"))
    assert not follow_move(desk.watch, A, "worker9", timeout_s=30)
    assert desk.lines[-1] == f"{A}: not moved: there is no node worker9"


def test_o4_a_move_that_nobody_waits_for_any_more_is_withdrawn() -> None:
    desk = Desk(moving("asked"))
    assert not follow_move(desk.watch, A, "", timeout_s=5)
    assert desk.posted[-1] == ("/v1/withdraw", {"floatingIP": A, "id": [1, 1]})
    assert desk.lines[-1] == f"{A}: not moved within 5 s, given up (leader: controller-a)"

    def interrupt() -> None:
        raise KeyboardInterrupt

    desk = Desk(moving("asked"))
    desk.on_sleep = interrupt
    with pytest.raises(KeyboardInterrupt):
        follow_move(desk.watch, A, "", timeout_s=5)
    assert desk.posted[-1] == ("/v1/withdraw", {"floatingIP": A, "id": [1, 1]})


def test_the_end_of_another_order_is_not_taken_for_that_of_this_one() -> None:
    desk = Desk(moving("asked"), moving("done", number=2, source="worker1", to="worker3"))
    assert not follow_move(desk.watch, A, "worker2", timeout_s=5)
    assert desk.lines[-1] == f"{A}: another order has taken the place of this one"


# -- rebalance --

PLAN = {
    "moves": [{"floatingIP": A, "from": "worker1", "to": "worker2"}],
    "load": {"worker1": 2, "worker2": 0},
    "after": {"worker1": 1, "worker2": 1},
}


def test_a_dry_run_says_what_would_move_and_orders_nothing() -> None:
    desk = Desk(PLAN)
    assert follow_rebalance(desk.watch, is_dry=True, timeout_s=30)
    assert desk.posted == []
    assert desk.lines == [
        "now: worker1 2, worker2 0; 1 moves make it: worker1 1, worker2 1",
        f"{A}: would move from worker1 to worker2",
    ]


@pytest.mark.parametrize(
    ("end", "is_well", "line"),
    [
        (moving("done", source="worker1", to="worker2"), True, "1 of 1 moved"),
        (moving("failed", reason="not ready"), False, f"0 of 1 moved; not moved: {A}"),
    ],
)
def test_a_rebalance_orders_each_move_and_says_what_became_of_them(end: Any, is_well: bool, line: str) -> None:
    desk = Desk(PLAN, end)
    assert follow_rebalance(desk.watch, is_dry=False, timeout_s=30) is is_well
    assert desk.posted == [("/v1/move", {"floatingIP": A, "node": "worker2"})]
    assert desk.lines[-1] == line


def test_an_even_load_is_left_alone() -> None:
    desk = Desk(PLAN | {"moves": []})
    assert follow_rebalance(desk.watch, is_dry=False, timeout_s=30)
    assert desk.posted == []
