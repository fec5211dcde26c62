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
from service.datapath.layout import MapName
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
from tests.policy.objects import gateway, namespace, pod, policy
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
        )

    def know(self, *items: Object) -> None:
        self.index.apply([Upsert(item) for item in items])

    def turn(self) -> None:
        """As the agent does it."""
        self.neighbours.tell(now_ns=boot_ns())
        self.neighbours.resolve()
        for name, rows in self.reconciler.rows(self.maps).items():
            self.maps.replace(name, rows)
        self.neighbours.confirm(lambda endpoint: self.reconciler.is_served(endpoint, self.maps))

    def serves(self, pod_ip: IPv4Address) -> bool:
        """After a turn; the pod has a row in the kernel."""
        self.turn()
        return any(key.startswith(pod_ip.packed) for key in self.maps.rows[MapName.ENDPOINTS])


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


async def test_a_pod_is_acknowledged_once_its_policies_are_known_there_and_it_is_confirmed(
    sides: tuple[Side, Side],
) -> None:
    here, there = sides
    objects = (gateway(str(FLOATING_IP)), namespace(), pod("web", str(POD), node="worker1"), policy())
    here.know(*objects)
    here.turn()
    there.turn()
    # Announced, and not yet resolvable: the other node has not read the policy.
    await asyncio.sleep(0.2)
    assert not there.serves(POD)
    assert here.neighbours.acknowledged(POD) == ()
    there.know(*objects)
    await until(lambda: there.serves(POD))
    await until(lambda: here.neighbours.acknowledged(POD) == ("worker2",))


async def test_c1_a_pod_whose_row_finds_no_room_waits_and_others_are_acknowledged(sides: tuple[Side, Side]) -> None:
    here, there = sides
    other = IPv4Address("10.0.0.2")
    for side in sides:
        side.know(gateway(str(FLOATING_IP)), namespace(), policy())
        side.know(pod("web", str(POD), node="worker1"), pod("other", str(other), node="worker1"))
    there.maps.rooms[MapName.ENDPOINTS] = 1
    here.turn()
    await until(lambda: there.serves(POD))
    await until(lambda: here.neighbours.acknowledged(POD) == ("worker2",))
    assert here.neighbours.acknowledged(other) == ()
    (shortage,) = there.reconciler.shortages(there.maps)
    assert (shortage.map, shortage.entries, shortage.pods) == (MapName.ENDPOINTS, 1, (other,))
    there.maps.rooms[MapName.ENDPOINTS] = 2
    await until(lambda: there.serves(other))
    await until(lambda: here.neighbours.acknowledged(other) == ("worker2",))
    assert there.reconciler.shortages(there.maps) == ()


async def test_a_pod_that_is_no_longer_selected_is_served_no_more(sides: tuple[Side, Side]) -> None:
    here, there = sides
    objects = (gateway(str(FLOATING_IP)), namespace(), pod("web", str(POD), node="worker1"), policy())
    for side in sides:
        side.know(*objects)
    here.turn()
    await until(lambda: there.serves(POD))
    here.know(replace(pod("web", str(POD), node="worker1"), ip=None))
    here.turn()
    await until(lambda: not there.serves(POD))


async def test_the_new_holders_own_word_reaches_its_peers_directly(sides: tuple[Side, Side]) -> None:
    here, there = sides
    for side in sides:
        side.turn()
    here.neighbours.locate(Location(FLOATING_IP, "worker1", Token(7, 1, 1)))
    await until(lambda: there.reconciler.holder_of(FLOATING_IP) == "worker1")
