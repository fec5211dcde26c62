"""One seeded history of faults for the lease protocol, and the search for a seed that breaks a mutated one."""

from collections.abc import Callable

from service.model.lease import LEADER_KEY
from tests.simulation.lease_world import DEFAULT, LONG, MS, InvariantViolated, LeaseWorld, Link

KEYS = ("192.0.2.100", "192.0.2.101")
CONTROLLERS = ("controller-a", "controller-b")
CHAOS_NS = 3_000 * MS
HEALED_NS = 3_500 * MS
"""From the end of the faults to the check that all is held: the silence of a rebooted elector, then a few leases."""


class Chaos:
    """Faults at random times on a site of three electors, one or two other nodes, and two controllers."""

    chaos_ns = CHAOS_NS
    healed_ns = HEALED_NS

    def __init__(self, seed: int, prepare: Callable[[LeaseWorld], None] = lambda world: None) -> None:
        self.world = self.make_world(seed)
        self.random = self.world.random
        self.version = 0
        self.rows: dict[str, tuple[str, str, int]] = {}
        self.known: dict[str, dict[str, tuple[str, str, int]]] = {}
        self.agents = list(self.world.nodes)
        for index, name in enumerate(CONTROLLERS):
            self.world.add(name, f"10.0.1.{index}", random_clocks=True)
        prepare(self.world)
        self.known = {name: {} for name in self.agents}

    def make_world(self, seed: int) -> LeaseWorld:
        return LeaseWorld(seed, others=1 + seed % 2, random_clocks=True)

    def begin(self) -> None:
        """What else goes on from the start."""

    def run(self) -> None:
        """Raises InvariantViolated, or AssertionError where all is healed and a key is not held."""
        world = self.world
        world.start_all()
        self.begin()
        for name in CONTROLLERS:
            world.claim(name, {LEADER_KEY: ("holder", 0, 0)})
        for key in KEYS:
            self.assign(key)
        world.run_for(300 * MS)
        while world.now_ns < self.chaos_ns:
            self.fault()
            world.run_for(self.random.randrange(1, 150) * MS)
        self.heal()
        world.run_for(self.healed_ns)
        self.check()

    def check(self) -> None:
        world = self.world
        for key in KEYS:
            holder, successor, _ = self.rows[key]
            assert world.holders(key) in ([holder], [successor]), f"{key} is held by {world.holders(key)}"
        assert world.holders(LEADER_KEY) in ([CONTROLLERS[0]], [CONTROLLERS[1]])

    def heal(self) -> None:
        world = self.world
        world.heal()
        for name, node in world.nodes.items():
            world.set_claiming(name, True)
            if not node.alive:
                world.start(name)
        for name in self.agents:
            for key, row in self.rows.items():
                self.learn(name, key, row)

    def assign(self, key: str) -> None:
        """A new row of the leader's table, known to each agent after a while."""
        self.version += 1
        holder, successor = self.random.sample(self.agents, 2)
        row = self.rows[key] = (holder, successor, self.version)
        for name in self.agents:
            delay = self.random.choice((1, 5, 50, 400)) * MS
            self.world.at(self.world.now_ns + delay, lambda name=name: self.learn(name, key, row))  # type: ignore[misc]

    def learn(self, name: str, key: str, row: tuple[str, str, int]) -> None:
        known = self.known[name]
        if key in known and known[key][2] > row[2]:
            return
        known[key] = row
        claims = {}
        for other, (holder, successor, version) in known.items():
            if name in (holder, successor):
                claims[other] = ("holder" if name == holder else "successor", 1, version)
        self.world.claim(name, claims)

    def fault(self) -> None:
        self.random.choice(self.faults())()

    def faults(self) -> tuple[Callable[[], None], ...]:
        return (
            self.cut,
            self.cut,
            self.isolate,
            self.mend,
            self.pause,
            self.pause,
            self.kill,
            self.kill,
            self.reboot,
            self.reassign,
            self.lose,
            self.stall,
            self.forbid,
        )

    def any_node(self) -> str:
        return self.random.choice(list(self.world.nodes))

    def cut(self) -> None:
        left, right = self.random.sample(list(self.world.nodes), 2)
        self.world.cut_between(left, right, one_way=self.random.random() < 0.5)

    def isolate(self) -> None:
        self.world.isolate(self.any_node())

    def mend(self) -> None:
        self.world.cut.clear()

    def pause(self) -> None:
        self.world.pause(self.any_node(), self.random.randrange(1, 900) * MS)

    def kill(self) -> None:
        name = self.any_node()
        self.world.kill(name)
        self.restart(name, 300)

    def reboot(self) -> None:
        name = self.any_node()
        self.world.reboot(name)
        self.restart(name, 500)

    def restart(self, name: str, within_ms: int) -> None:
        # A restarted keeper may have been given another profile: its leases get longer or shorter (rule P1).
        self.world.nodes[name].profile = self.random.choice((DEFAULT, LONG))
        self.world.at(self.world.now_ns + self.random.randrange(1, within_ms) * MS, lambda: self.world._restart(name))

    def reassign(self) -> None:
        self.assign(self.random.choice(KEYS))

    def lose(self) -> None:
        delay_ms = self.random.choice((1, 1, 30, 150))
        self.world.link = Link(
            loss=self.random.choice((0.0, 0.1, 0.3)),
            duplication=self.random.choice((0.0, 0.2)),
            delay_ns_min=200_000,
            delay_ns_max=delay_ms * MS,
        )

    def stall(self) -> None:
        self.world.stall_chance = self.random.choice((0.0, 0.002, 0.02))
        self.world.crash_chance = self.random.choice((0.0, 0.002, 0.02))

    def forbid(self) -> None:
        name = self.any_node()
        self.world.set_claiming(name, not self.world.nodes[name].claiming)


def first_violation(
    seeds: range,
    prepare: Callable[[LeaseWorld], None] = lambda world: None,
    make: Callable[[int, Callable[[LeaseWorld], None]], Chaos] = Chaos,
) -> int | None:
    """The first seed whose history breaks an invariant of safety; None where none does."""
    for seed in seeds:
        try:
            make(seed, prepare).run()
        except InvariantViolated:
            return seed
        except AssertionError:
            continue
    return None
