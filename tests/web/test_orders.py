"""What may be ordered of a process, and what it answers on it."""

from dataclasses import replace

import pytest

from service.model.assignment import Assignment
from service.model.errors import OperatorError
from service.model.lease import Stamp
from service.model.objects import LabelSelector, Upsert
from service.model.order import MoveState
from tests.policy.objects import gateway
from tests.web.order_site import IP, OTHER, OrderSite


def test_o3_a_drain_is_written_down_and_answered_with_what_the_node_has() -> None:
    site = OrderSite()
    site.holders[OTHER] = "worker3"
    found = site.orders.drain("worker1", is_drained=True)
    assert site.board.drains()["worker1"].is_drained
    assert found["drained"]
    assert found["held"] == {str(IP): {"to": "worker2", "stays": ""}}
    assert found["holders"] == {str(IP): "worker1", str(OTHER): "worker3"}
    assert not site.orders.drain("worker1", is_drained=False)["drained"]


def test_what_cannot_go_anywhere_is_answered_with_why() -> None:
    site = OrderSite()
    site.table[IP] = Assignment(IP, "worker1", None, Stamp(7, 2), "nobody else can")
    site.table[OTHER] = Assignment(OTHER, "worker3", "worker2", Stamp(7, 2))
    assert site.orders.emptying("worker1")["held"] == {
        str(IP): {"to": None, "stays": "nobody else can"},
        str(OTHER): {"to": "worker3", "stays": ""},
    }


def test_a_node_that_nobody_knows_is_not_drained_and_one_that_is_gone_can_be_undrained() -> None:
    site = OrderSite()
    with pytest.raises(OperatorError, match="there is no node worker9; known are worker1, worker2, worker3"):
        site.orders.drain("worker9", is_drained=True)
    site.orders.drain("worker3", is_drained=True)
    site.nodes = site.nodes[:2]
    site.orders.drain("worker3", is_drained=False)
    assert not site.board.drains()["worker3"].is_drained


def test_o4_an_order_is_written_down_and_answered_with_how_far_it_is() -> None:
    site = OrderSite()
    found = site.orders.move(str(IP), "worker2")
    assert (found["state"], found["to"], found["holder"], found["leader"]) == (
        "asked",
        "worker2",
        "worker1",
        "controller-a",
    )
    order = site.board.moves()[IP]
    site.board.report(replace(order, state=MoveState.DONE, source="worker1"), term=7)
    assert site.orders.moving(str(IP))["state"] == "done"


@pytest.mark.parametrize("address", ["192.0.2.109", "somewhere", ""])
def test_what_is_no_floating_ip_is_not_ordered_anywhere(address: str) -> None:
    site = OrderSite()
    with pytest.raises(OperatorError, match="is no"):
        site.orders.move(address, "")
    with pytest.raises(OperatorError):
        site.orders.moving(address)
    assert not site.board.moves()


def test_only_the_order_that_is_meant_is_withdrawn() -> None:
    site = OrderSite()
    number, writer = site.orders.move(str(IP), "worker2")["id"]
    other = site.orders.move(str(IP), "worker3")["id"]
    assert site.orders.withdraw(str(IP), number, writer)["state"] == "asked"
    assert site.orders.withdraw(str(IP), *other)["state"] == "failed"


async def test_a_plan_says_what_would_move_and_changes_nothing() -> None:
    site = OrderSite()
    found = await site.orders.plan()
    assert [(move["from"], move["to"]) for move in found["moves"]] == [("worker1", "worker2")]
    assert (found["load"], found["after"]) == (
        {"worker1": 2, "worker2": 0, "worker3": 0},
        {"worker1": 1, "worker2": 1, "worker3": 0},
    )
    assert site.rows.tables == {}


async def test_o2_a_plan_gives_nothing_to_a_node_that_the_selector_leaves_out() -> None:
    site = OrderSite()
    selector = LabelSelector((("kubernetes.io/hostname", "worker1"),))
    site.intake.take((Upsert(replace(gateway(str(IP), str(OTHER)), node_selector=selector)),))
    assert (await site.orders.plan())["moves"] == []
