"""One seeded history of faults for port blocks, and the search for a seed that breaks a mutated rule."""

from collections.abc import Callable
from ipaddress import IPv4Address

from service.port_block.block import base_blocks
from tests.simulation.block_world import BLOCKS, IPS, TIMES, BlockWorld, InvariantViolated
from tests.simulation.world import MS, SECOND, Link

CHAOS_NS = 60 * SECOND
CALM_NS = TIMES.down_ns + TIMES.rest_ns + 14 * SECOND
"""From the end of the faults until every node has its base: by the slowest clock what was taken has rested."""


class BlockChaos:
    """Faults at random times on a site of five nodes and two controllers."""

    def __init__(self, seed: int, prepare: Callable[[BlockWorld], None] = lambda world: None) -> None:
        self.world = BlockWorld(seed)
        self.random = self.world.random
        self.names = 5
        self.is_calm = False
        self.away: dict[str, None] = {}
        """Nodes whose absence is no passing fault."""
        prepare(self.world)

    def run(self) -> BlockWorld:
        """Raises InvariantViolated, or AssertionError where all is calm and a node lacks its base."""
        world = self.world
        for floating_ip in IPS:
            for name in self.random.sample(self.agents, 3):
                world.demand[floating_ip][name] = None
        world.begin()
        world.net.run_for(2 * SECOND)
        faults, pauses_ms = self.faults(), self.random.choice(((20, 100, 400, 1500), (400, 1500, 3000)))
        while world.net.now_ns < CHAOS_NS:
            self.random.choice(faults)()
            world.net.run_for(self.random.choice(pauses_ms) * MS)
        self.calm()
        world.net.run_for(CALM_NS)
        self.check()
        return world

    @property
    def agents(self) -> list[str]:
        return sorted(self.world.kernels)

    def check(self) -> None:
        world = self.world
        leader = world.leader()
        assert leader is not None
        base = base_blocks(len(world.kernels) + len(world.departed), BLOCKS)
        for floating_ip in IPS:
            short = leader.shortages().get(floating_ip, {})
            for name in world.demand[floating_ip]:
                have = len(world.kernels[name].usable.get(floating_ip, ()))
                what = f"{name} has {have} of {base} blocks of {floating_ip} (seed {world.net.seed})"
                assert have >= base - short.get(name, 0), what

    def calm(self) -> None:
        world = self.world
        self.is_calm = True
        self.away.clear()
        self.mend()
        world.net.link = Link()
        world.barred.clear()
        world.slandered.clear()
        for name in [*self.agents, *world.controllers]:
            if world.net.nodes[name].paused:
                world.net.resume(name)
            if world.net.nodes[name].stopped:
                world.restart(name)
        for key in list(world.needs):
            world.needs[key] = 1

    def faults(self) -> tuple[Callable[[], None], ...]:
        """Every kind of fault, and how often for each: a history has some of them (swarm testing, Groce et al., 2012).

        With all at once no leader lives long enough for a block to be taken, rest and be given again.
        """
        rare = (self.reboot, self.kill_leader, self.depose, self.rename, self.slander, self.pause)
        common = (self.cut, self.isolate, self.kill, self.fail_over, self.move_far, self.flap, self.lapse, self.lose)
        usual = (self.want, self.bind, self.leave_long, self.come_and_go, self.mend)
        return (*self._some(rare), *self._some(common), *self._some(common), *usual, *usual, *usual)

    def _some(self, kinds: tuple[Callable[[], None], ...]) -> list[Callable[[], None]]:
        return [kind for kind in kinds if self.random.random() < 0.4]

    def come_and_go(self) -> None:
        """The selected pods of one node end, and another node gets some."""
        demand = self.world.demand[self.random.choice(IPS)]
        if demand:
            del demand[self.random.choice(sorted(demand))]
        demand[self.random.choice(self.agents)] = None

    def slander(self) -> None:
        """Gossip takes a node for Down that goes on forwarding, and is heard by all but the leader."""
        name = self.random.choice(self.agents)
        self.world.slandered[name] = None
        span_ns = self.random.choice((3, 8, 14)) * SECOND
        self.world.net.after(span_ns, lambda: self.world.slandered.pop(name, None))

    def cut(self) -> None:
        left, right = self.random.sample([*self.agents, *self.world.controllers], 2)
        self._cut([left], [right])

    def isolate(self) -> None:
        name = self.random.choice(self.agents)
        self._cut([name], [one for one in [*self.agents, *self.world.controllers] if one != name])

    def _cut(self, left: list[str], right: list[str]) -> None:
        self.world.net.cut(left, right, both_ways=self.random.random() < 0.6)
        # A cut of what agents say to each other need not be one of the datapath.
        if self.random.random() < 0.5:
            self.world.dark |= {(a, b) for a in left for b in right} | {(b, a) for a in left for b in right}

    def leave_long(self) -> None:
        """A node is away for as long as it takes until its blocks are another's, or nearly; then the address moves."""
        name = self.random.choice(self.agents)
        if len(self.away) >= 2:
            return
        self.away[name] = None
        self._cut([name], [one for one in [*self.agents, *self.world.controllers] if one != name])
        span_ns = self.random.choice((8, 14, 17)) * SECOND
        self.world.net.after(span_ns, lambda: self._come_back(name))
        self.world.net.after(span_ns, self.move_far)

    def _come_back(self, name: str) -> None:
        self.away.pop(name, None)
        self.mend()

    def mend(self) -> None:
        """All cuts end but those of who is away."""
        net = self.world.net
        net.cuts = {pair for pair in net.cuts if self.away.keys() & set(pair)}
        self.world.dark = {pair for pair in self.world.dark if self.away.keys() & set(pair)}

    def pause(self) -> None:
        name = self.random.choice([*self.agents, *self.world.controllers])
        self.world.net.pause(name)
        self.world.net.after(self.random.choice((100, 900, 4000, 9000)) * MS, lambda: self._resume(name))

    def _resume(self, name: str) -> None:
        if name in self.world.net.nodes and self.world.net.nodes[name].paused:
            self.world.net.resume(name)

    def kill(self) -> None:
        name = self.random.choice(self.agents)
        self.world.kill(name)
        self._restart_later(name)

    def reboot(self) -> None:
        name = self.random.choice(self.agents)
        self.world.reboot(name)
        self._restart_later(name)

    def _restart_later(self, name: str) -> None:
        def restart() -> None:
            if name in self.world.net.nodes and self.world.net.nodes[name].stopped:
                self.world.restart(name)

        self.world.net.after(self.random.choice((50, 500, 3000, 8000)) * MS, restart)

    def fail_over(self) -> None:
        self.world.fail_over(self.random.choice(IPS))

    def move_far(self) -> None:
        """Two gateways are lost at once: the address goes to a node that never was a successor."""
        if self.is_calm:
            return
        self.world.fail_over(self.random.choice(IPS), to=self.random.choice(self.agents))

    def flap(self) -> None:
        """The lease goes to the successor and comes back, sooner than some hear of it."""
        floating_ip = self.random.choice(IPS)
        holder = self.world.leases[floating_ip][0]
        self.world.fail_over(floating_ip)
        span_ns = self.random.choice((1, 50, 300, 1500)) * MS
        self.world.net.after(span_ns, lambda: self._flap_back(floating_ip, holder))

    def _flap_back(self, floating_ip: IPv4Address, holder: str) -> None:
        if not self.is_calm and holder in self.world.kernels and not self.world.net.nodes[holder].stopped:
            self.world.fail_over(floating_ip, to=holder)

    def lapse(self) -> None:
        """The holder stands still for longer than its lease, and nobody else takes it."""
        floating_ip = self.random.choice(IPS)
        if self.world.leases[floating_ip][0]:
            self.world.lapse(floating_ip, self.random.choice((1, 50, 300, 1500)) * MS)

    def depose(self) -> None:
        """The leader's renewals stop, and it goes on for as long as its lease lives."""
        name = self.world.leading[0]
        self.world.barred[name] = None
        self.world.net.after(self.random.choice((400, 2000)) * MS, lambda: self.world.barred.pop(name, None))

    def kill_leader(self) -> None:
        name = self.world.leading[0]
        self.world.kill(name)
        self._restart_later(name)

    def lose(self) -> None:
        delay_ms = self.random.choice((1, 1, 30, 150, 1500))
        self.world.net.link = Link(
            loss=self.random.choice((0.0, 0.1, 0.3)),
            duplication=self.random.choice((0.0, 0.2)),
            delay_ns_max=delay_ms * MS,
        )

    def want(self) -> None:
        key = (self.random.choice(self.agents), self.random.choice(IPS))
        self.world.needs[key] = self.random.choice((1, 2, 4, 6))

    def bind(self) -> None:
        demand = self.world.demand[self.random.choice(IPS)]
        name = self.random.choice(self.agents)
        if name in demand:
            del demand[name]
        else:
            demand[name] = None

    def rename(self) -> None:
        """A node is installed anew under another name; the old one never comes back."""
        if self.names >= 7 or self.random.random() < 0.7:
            return
        former, name = self.random.choice(self.agents), f"node{self.names}"
        self.world.rename(former, name, self.names)
        self.names += 1


def first_violation(
    seeds: range, prepare: Callable[[BlockWorld], None] = lambda world: None, *, safety: bool = True
) -> int | None:
    """The first seed whose history breaks an invariant of safety, or, without `safety`, any."""
    for seed in seeds:
        try:
            BlockChaos(seed, prepare).run()
        except InvariantViolated:
            return seed
        except AssertionError:
            if not safety:
                return seed
    return None
