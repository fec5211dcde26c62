from pathlib import Path

from loadtest.scale.driven_controller import DrivenController, node_name
from loadtest.scale.placement import fill
from service.controller.elector_client import OBSERVE_NS
from service.model.gateway_node import NodeState


def leading(folder: Path, nodes: int = 6, floating_ips: int = 4) -> DrivenController:
    controller = DrivenController(folder)
    fill(controller, nodes, floating_ips)
    controller.lead()
    return controller


def test_it_leads_a_site_in_which_every_address_is_held_by_its_node_and_has_a_successor(tmp_path: Path) -> None:
    controller = leading(tmp_path)
    rows = controller.rows()
    assert len(rows) == 4
    assert {ip: held.node for ip, held in controller.knowledge.holders().items()} == {
        ip: row.holder for ip, row in rows.items()
    }
    assert all(row.successor not in (None, row.holder) for row in rows.values())
    assert {node.name for node in controller.knowledge.nodes()} == {node_name(number) for number in range(6)}


def test_electors_are_heard_once_an_interval_and_what_is_left_of_promises_is_news_to_the_table(tmp_path: Path) -> None:
    controller = leading(tmp_path)
    before_ns = controller.clock()
    renewed = controller.knowledge.sightings().renewed_ns
    for _ in range(3):
        assert controller.hear_electors() > 0
    assert 2 * OBSERVE_NS < controller.clock() - before_ns < 4 * OBSERVE_NS
    assert controller.knowledge.sightings().renewed_ns != renewed
    assert controller.knowledge.has_caught_up()


def test_a_members_word_and_a_members_death_arrive_by_gossip(tmp_path: Path) -> None:
    controller = leading(tmp_path)
    _, before = controller.cluster.members()[node_name(1)]
    controller.change_member(1, 2)
    assert controller.cluster.members()[node_name(1)][1] != before
    controller.bury_member(5)
    (node,) = (node for node in controller.knowledge.nodes() if node.name == node_name(5))
    assert node.state is NodeState.DOWN
    assert controller.is_dirty
    controller.turn("a turn")
    assert not controller.is_dirty


def test_the_leases_of_a_node_go_to_the_successors_that_the_table_names(tmp_path: Path) -> None:
    controller = leading(tmp_path)
    rows = controller.rows()
    node = next(row.holder for row in rows.values() if row.holder is not None)
    controller.fail_over(node)
    controller.hear_electors()
    controller.turn("a turn")
    held = [ip for ip, row in rows.items() if row.holder == node]
    assert held
    assert all(controller.rows()[ip].holder == rows[ip].successor for ip in held)
