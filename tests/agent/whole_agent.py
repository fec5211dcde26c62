"""A whole agent on loopback with what its keeper hears of it, for tests of what is wired to what."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import aiohttp

from service.agent.agent import Agent
from service.datapath import layout
from service.datapath.desired import LocalUplink
from service.datapath.layout import MapName
from service.host import clock
from service.model.keeper_message import AGENT_SOCKET, KEEPER_SOCKET, Heartbeat, HeldLease, KeeperMessage, LeaseReport
from service.model.lease import Token
from service.settings import GossipSettings, HttpSettings, PortSettings, Settings
from service.wire.local_socket import LocalSocket
from tests.agent.site import FLOATING_IP, SECOND
from tests.datapath.stand_in import StandInDatapath

NODE, OTHER = "worker1", "worker2"
POD_IP = IPv4Address("10.244.1.10")
KEY = "11" * 32
DEVICE = 7
MANIFESTS = """
apiVersion: v1
kind: Namespace
metadata: {name: alice}
---
apiVersion: v1
kind: Pod
metadata: {name: pod, namespace: alice, uid: uid-1}
spec: {nodeName: worker1}
status: {podIP: 10.244.1.10, phase: Running}
---
apiVersion: networking.gke.io/v1alpha1
kind: AnthosNetworkGateway
metadata: {name: default, namespace: kube-system}
spec: {floatingIPs: [192.168.1.100]}
"""
POLICY = """
apiVersion: networking.gke.io/v1alpha1
kind: EgressNATPolicy
metadata: {name: egress}
spec:
  egress:
  - namespaceSelector: {}
    podSelector: {}
  destinationCIDRs: [8.8.8.0/24]
  egressSourceIP: 192.168.1.100
"""


def free_ports() -> tuple[int, int, int]:
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        for probe in (one, two, three):
            probe.bind(("127.0.0.1", 0))
        first, second, third = (int(probe.getsockname()[1]) for probe in (one, two, three))
    return first, second, third


class Site:
    """One agent, with what its keeper hears of it and what its datapath was told."""

    def __init__(self, folder: Path, index: int, ports: tuple[int, int, int]) -> None:
        self.manifests = manifests = folder / "manifests"
        self.run_dir = folder / f"run{index}"
        manifests.mkdir(exist_ok=True)
        (manifests / "cluster.yaml").write_text(MANIFESTS, encoding="ascii")
        gossip, state, http = ports
        self.settings = Settings(
            node=f"worker{index}",
            source=f"manifests:{manifests}",
            bind_address=f"127.0.0.{index}",
            keyring=(KEY,),
            state_dir=str(folder / f"state{index}"),
            run_dir=str(self.run_dir),
            ports=PortSettings(gossip=gossip, state=state, http=http),
            gossip=GossipSettings(seeds=("127.0.0.1",)),
            http=HttpSettings(address=f"127.0.0.{index}"),
        )
        uplink = LocalUplink(2, "none0", bytes((2, 0, 0, 0, 0, index)), IPv4Interface(f"192.168.1.2{index}/24"), True)
        self.datapath = StandInDatapath(self.settings, uplink)
        self.datapath.devices = {POD_IP: DEVICE}
        self.datapath.pool.is_idle = True
        self.heartbeats: list[Heartbeat] = []
        self.keeper = LocalSocket(self.run_dir / KEEPER_SOCKET, self.run_dir / AGENT_SOCKET, on_messages=self._hear)

    def _hear(self, messages: list[KeeperMessage]) -> None:
        self.heartbeats += [message for message in messages if isinstance(message, Heartbeat)]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Agent]:
        async with AsyncExitStack() as stack:
            self.agent = Agent(self.settings, self.datapath)
            await self.agent.enter(stack)
            await stack.enter_async_context(self.keeper)
            task = asyncio.create_task(self.agent.serve())
            try:
                yield self.agent
                assert not task.done()
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    def select(self, *excluded: str) -> None:
        """Write the policy that selects the pod."""
        text = f"{POLICY}  excludedCIDRs: [{', '.join(excluded)}]\n"
        (self.manifests / "policy.yaml").write_text(text, encoding="ascii")

    def hold(self, counter: int = 1, *, lasts_ns: int = 60 * SECOND) -> None:
        """The keeper opens the fence, and says so."""
        deadline_ns = clock.boot_ns() + lasts_ns
        lease = layout.lease_value(deadline_ns, Token(1, 1, counter).packed())
        self.datapath.maps[MapName.LEASE_DEADLINES].update(FLOATING_IP.packed, lease)
        self.keeper.send(
            LeaseReport(
                (HeldLease(str(FLOATING_IP), 1, 1, counter, deadline_ns),),
                elector=True,
                voting=True,
                scheduling="fifo",
            )
        )

    async def metrics(self) -> str:
        """What is scraped."""
        url = f"http://{self.settings.http.address}:{self.settings.ports.http}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as found:
            return await found.text()

    def carriers(self) -> list[bool]:
        """Of each floating IP's uplinks, as the keeper was told last."""
        return [uplink.carrier for heartbeat in self.heartbeats[-1:] for uplink in heartbeat.uplinks]

    def way_kind(self) -> int | None:
        """How FLOATING_IP is reached, as the map is told to have it."""
        row = self.datapath.content.get(MapName.WAYS, {}).get(FLOATING_IP.packed)
        return None if row is None else row[8]

    def state(self) -> int | None:
        """Of the pod, as the map is told to have it."""
        row = self.datapath.content.get(MapName.SELECTED, {}).get(layout.selected_key(POD_IP, DEVICE))
        return None if row is None else layout.parse_selected(layout.selected_key(POD_IP, DEVICE), row)[3]


async def until(holds: Callable[[], object], *, within_s: float = 20) -> None:
    deadline_ns = clock.boot_ns() + round(within_s * SECOND)
    while not holds():
        assert clock.boot_ns() < deadline_ns, f"waited for {within_s} s"
        await asyncio.sleep(0.01)
