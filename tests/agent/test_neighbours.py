"""What agents tell each other of their pods and of addresses: two of them, over sockets on loopback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import msgspec
import pytest

from service.agent.neighbours import Neighbours
from service.datapath.reconciler import Reconciler
from service.host.clock import boot_ns
from service.model.assignment import Assignment, Location
from service.model.gateway_node import NodeState
from service.model.lease import Stamp, Token
from service.model.machine import Address
from service.model.objects import Object, Upsert
from service.policy.index import PolicyIndex
from service.settings import PortSettings, Settings
from tests.agent.site import FLOATING_IP, StandInCluster, free_port, node, settings_of
from tests.datapath.stand_in import UPLINK, StandInPool
from tests.sources.kubernetes.fake_api_server import until

POD = IPv4Address("10.0.0.1")
NODES = (node("worker1", 21), node("worker2", 22))


class Side:
    """One node: what it knows, and its end of the channel."""

    def __init__(self, folder: Path, name: str, host: str, port: int) -> None:
        settings = replace_address(settings_of(folder, name), host, port)
        self.cluster = StandInCluster(settings, *NODES)
        self.index = PolicyIndex(pod_cidrs_known=True)
        self.reconciler = Reconciler(settings, self.index)
        own = next(one for one in NODES if one.name == name)
        self.reconciler.learn_uplinks((replace(UPLINK, mac=own.segments[0].mac),))
        table = {FLOATING_IP: Assignment(FLOATING_IP, "worker2", None, Stamp(1, 1))}
        self.reconciler.learn_members(NODES, table)
        self.maps = StandInPool()
        self.neighbours = Neighbours(
            settings,
            self.cluster,
            self.reconciler,
            start_id=sum(map(ord, name)),
            clock=boot_ns,
            changed=lambda: None,
            others=lambda source, payload: False,
        )

    def know(self, *items: Object) -> None:
        self.index.apply([Upsert(item) for item in items])

    def turn(self) -> None:
        """As the agent does it."""
        self.neighbours.tell(now_ns=boot_ns())


def replace_address(settings: Settings, host: str, port: int) -> Settings:
    ports = msgspec.structs.replace(PortSettings(), state=port)
    return msgspec.structs.replace(settings, bind_address=host, ports=ports)


@pytest.fixture
async def sides(tmp_path: Path) -> AsyncIterator[tuple[Side, Side]]:
    port = free_port()
    hosts = {"worker1": "127.0.0.1", "worker2": "127.0.0.2"}
    here, there = (Side(tmp_path, name, host, port) for name, host in hosts.items())
    for side in (here, there):
        side.cluster.addresses = {name: Address(host, port) for name, host in hosts.items()}
    async with AsyncExitStack() as stack:
        for side in (here, there):
            await stack.enter_async_context(side.neighbours.socket)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(side.neighbours.pump.run()) for side in (here, there)]
            yield here, there
            for task in tasks:
                task.cancel()


def test_peers_are_the_other_agents_that_are_not_dead(tmp_path: Path) -> None:
    side = Side(tmp_path, "worker1", "127.0.0.1", free_port())
    side.cluster.nodes = (*NODES, node("worker3", 23, state=NodeState.DOWN))
    assert side.neighbours.up() == ("worker2",)
    assert not side.neighbours.is_up("worker1")
    assert not side.neighbours.is_up("worker3")


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_peer_that_came_and_one_that_is_somewhere_else_now_are_told_there(
    sides: tuple[Side, Side], is_new: bool
) -> None:
    here, there = sides
    right, wrong = here.cluster.addresses, {"worker2": Address("127.0.0.9", 9)}
    for nodes, addresses in ((NODES[:1] if is_new else NODES, right if is_new else wrong), (NODES, right)):
        here.reconciler.learn_members(nodes, here.reconciler.assignments)
        here.cluster.addresses = addresses
        here.turn()
    there.turn()
    here.neighbours.locate(Location(FLOATING_IP, "worker1", Token(7, 1, 1)))
    await until(lambda: there.reconciler.holder_of(FLOATING_IP) == "worker1")


async def test_the_new_holders_own_word_reaches_its_peers_directly(sides: tuple[Side, Side]) -> None:
    here, there = sides
    for side in sides:
        side.turn()
    here.neighbours.locate(Location(FLOATING_IP, "worker1", Token(7, 1, 1)))
    await until(lambda: there.reconciler.holder_of(FLOATING_IP) == "worker1")
