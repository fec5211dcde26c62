from ipaddress import collapse_addresses
from pathlib import Path

from loadtest.driven_agent import DrivenAgent
from loadtest.driven_objects import (
    LISTED_MAX,
    beginnings,
    floating_ip,
    group,
    location,
    namespace,
    networks,
    place_floating_ips,
    pod,
    policy,
)
from service.model.objects import LabelSelector, NetworkGateway, Upsert


def test_nothing_of_one_number_is_another_ones() -> None:
    policies = [policy(number, networks(number)) for number in range(1000)]
    destinations = [network for one in policies for network in one.destinations]
    assert len(set(destinations)) == 8000
    assert sum(network.num_addresses for network in collapse_addresses(destinations)) == 8000 * 256
    pods = [pod(number, group(0)) for number in range(100_000)]
    assert len({one.ip for one in pods}) == len({one.key for one in pods}) == len({one.uid for one in pods}) == 100_000


def test_networks_of_more_bits_are_no_neighbours() -> None:
    assert len(list(collapse_addresses(networks(3, 8, 24)))) == 1
    assert len(list(collapse_addresses(networks(3, 8, 25)))) == 8


def test_of_more_policies_than_there_is_room_the_rest_have_an_address_that_nobody_lists() -> None:
    changes = beginnings([policy(number, ()) for number in range(LISTED_MAX + 1)])
    assert isinstance(changes[0], Upsert)
    gateway = changes[0].object
    assert isinstance(gateway, NetworkGateway)
    assert gateway.floating_ips == tuple(map(floating_ip, range(LISTED_MAX)))
    assert len(changes) == LISTED_MAX + 2


async def test_an_agent_that_is_told_of_them_has_their_selections_and_holders(tmp_path: Path) -> None:
    agent = DrivenAgent(tmp_path)
    by_label = policy(1, networks(1), namespaces=LabelSelector((("egress", "on"),)))
    agent.take([*beginnings([policy(0, networks(0)), by_label]), Upsert(namespace())])
    agent.take([Upsert(pod(0, group(0))), Upsert(pod(1, "none")), Upsert(pod(2, group(0), "elsewhere"))])
    assert set(agent.reconciler.local_selections()) == {pod(0, group(0)).ip}
    agent.take([Upsert(namespace(egress="on"))])
    assert set(agent.reconciler.local_selections()) == {pod(0, "").ip, pod(1, "").ip}
    place_floating_ips(agent, 2, members=2)
    assert agent.cluster.locations() == {
        floating_ip(0): location(0, 1),
        floating_ip(1): location(1, 1, "node-0001"),
    }
