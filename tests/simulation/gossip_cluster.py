"""A gossip cluster in the simulated world, and what the tests ask of one."""

from service.gossip.config import DEFAULT_CONFIG, GossipConfig
from service.gossip.event import MemberChanged
from service.gossip.member import MemberState
from service.gossip.membership import Membership
from service.model.machine import Address, Send
from tests.simulation.world import MS, SECOND, Link, Node, World

PORT = 9640
PERFECT = Link()


class GossipCluster:
    """`size` members called m0, m1, ...; the first three are everybody's seeds."""

    def __init__(
        self, size: int, seed: int | str, *, link: Link = PERFECT, config: GossipConfig = DEFAULT_CONFIG
    ) -> None:
        self.world = World(seed, link=link)
        self.world.on_send = self._check_size
        self.config = config
        self.names = [f"m{index}" for index in range(size)]
        self.starts: dict[str, int] = {}
        for name in self.names:
            self.start(name)

    @staticmethod
    def _check_size(node: Node, send: Send) -> None:
        assert len(send.payload) <= 1250, f"{node.name} sent {len(send.payload)} bytes"

    def address(self, name: str) -> Address:
        return Address(f"10.0.{int(name[1:]) // 250}.{int(name[1:]) % 250 + 1}", PORT)

    def start(self, name: str, *, incarnation: int = 1, metadata: bytes = b"worker ready " * 6) -> None:
        """Start a member, or start it again as a new process that remembers nothing."""
        count = self.starts[name] = self.starts.get(name, 0) + 1
        machine = Membership(
            name=name,
            address=self.address(name),
            incarnation=incarnation,
            metadata=metadata,
            seeds=[self.address(seed) for seed in self.names[:3]],
            random=self.world.random_for(f"{name}/{count}"),
            config=self.config,
            now_ns=self.world.now_ns,
        )
        self.world.add(name, self.address(name), machine, start_id=count)

    def machine(self, name: str) -> Membership:
        machine = self.world.nodes[name].machine
        assert isinstance(machine, Membership)
        return machine

    def settle(self, name: str) -> None:
        self.world.settle(self.world.nodes[name])

    def running(self) -> list[str]:
        return [name for name, node in self.world.nodes.items() if not node.stopped]

    def state(self, observer: str, name: str) -> MemberState | None:
        return next((m.state for m in self.machine(observer).members() if m.name == name), None)

    def sees_all_alive(self) -> bool:
        """Every running member sees every running member alive."""
        running = self.running()
        return all(self.state(observer, name) is MemberState.ALIVE for observer in running for name in running)

    def converge(self, *, within_ns: int = 10 * SECOND) -> int:
        """Run until all see all alive; returns how long that took."""
        start_ns = self.world.now_ns
        while not self.sees_all_alive():
            assert self.world.now_ns - start_ns < within_ns, f"no full view (seed {self.world.seed})"
            self.world.run_for(10 * MS)
        return self.world.now_ns - start_ns

    def deaths(self, *, since_ns: int = 0) -> list[tuple[int, str, str]]:
        """(time, observer, dead member) of every death that a member took note of."""
        return sorted(
            (when_ns, observer, output.member.name)
            for when_ns, observer, output in self.world.outputs(MemberChanged)
            if when_ns >= since_ns and output.member.state is MemberState.DEAD
        )

    def crash(self, name: str, *, patience_ns: int = 15 * SECOND) -> tuple[int, int]:
        """Crash a member; returns the times until the first and until the last of the others know."""
        start_ns = self.world.now_ns
        self.world.stop(name)
        others = self.running()
        found = self.world.run_for(
            patience_ns,
            condition=lambda: all(self.state(observer, name) is MemberState.DEAD for observer in others),
        )
        assert found, f"{name} not found dead (seed {self.world.seed})"
        times = [when_ns for when_ns, _, dead in self.deaths(since_ns=start_ns) if dead == name]
        return min(times) - start_ns, max(times) - start_ns
