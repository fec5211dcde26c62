"""Seeded histories in which the electorate changes under faults, by compare-and-swap on one object."""

from collections.abc import Callable
from dataclasses import replace

from service.lease.electorate import Candidate, step
from service.lease.registrar import Registrar
from service.model.lease import LEADER_KEY, Elector, Electorate
from tests.simulation.lease_chaos import CONTROLLERS, Chaos
from tests.simulation.lease_world import LEASE_NS_MAX, MS, PORT, LeaseWorld

AGENTS = 6
CHANGES_NS = 4_000 * MS
SETTLED_NS = 9_000 * MS
"""From the end of the faults to the check: several silences, each of which a newcomer may have to wait out."""
_INTERVAL_NS = 30 * MS


class ElectorateSite:
    """The object, its writers, and who is told of it. `wanted` is what the electorate is steered to, by name."""

    def __init__(self, world: LeaseWorld, *, waits_for_newcomers: bool = True) -> None:
        self.world = world
        self.random = world.random
        self.object = world.electorate
        self.in_force = True
        self.api_is_down = False
        self.waits_for_newcomers = waits_for_newcomers
        self.written: list[Electorate] = [world.electorate]
        self.wanted = tuple(member.name for member in world.electorate.members)
        self.agents = [name for name in world.nodes if name.startswith("node")]
        world.learnt = self.restore

    def keep_registrars(self) -> None:
        """Every so often each controller looks whether a step is due; starts with it."""
        for name in CONTROLLERS:
            self._look(name)

    def _look(self, name: str) -> None:
        world = self.world
        node = world.nodes[name]
        world.at(world.now_ns + _INTERVAL_NS, lambda: self._look(name))
        if not node.alive or node.paused_until_ns or self.api_is_down:
            return
        now_ns = node.boot.read(world.now_ns)
        if node.registrar is None:
            node.registrar = Registrar(lease_port=PORT, now_ns=now_ns, interval_ns=_INTERVAL_NS)
        hosts = {agent: world.nodes[agent].address.host for agent in self.agents}
        node.registrar.set_candidates({agent: Candidate(agent, host) for agent, host in hosts.items()}, now_ns=now_ns)
        # It may have been stopped since it read the object, and now acts on what it read then.
        node.registrar.set_electorate(self.object, in_force=self.in_force, now_ns=now_ns)
        read, proposal = self.object, self._proposal(node.registrar)
        world._pump(node)
        if node.registrar is not None and node.registrar.is_in_force and self.object is read:
            self.in_force = True
        if proposal is not None:
            delay_ns = self.random.choice((1, 5, 100)) * MS
            world.at(world.now_ns + delay_ns, lambda: self.swap(read, proposal))

    def _proposal(self, registrar: Registrar) -> Electorate | None:
        if not registrar.is_in_force:
            return None
        known = registrar.known()
        members = {member.name: member for member in registrar.electorate.members}
        wanted = []
        for name in self.wanted:
            one = known.get(name)
            if name in members and (one is None or members[name].memory in (0, one.memory)):
                wanted.append(members[name])
            elif one is not None and (one.voting or not self.waits_for_newcomers):
                wanted.append(Elector(name, self.world.nodes[name].address.host, one.memory))
            elif name in members or any(one.epoch == 0 for one in known.values()):
                wanted += [members[name]] if name in members else []
        if not wanted:
            return None
        missing = [name for name in self.wanted if all(elector.name != name for elector in wanted)]
        # Who is to come is not there yet: nobody goes before it has come.
        wanted += [member for name, member in members.items() if missing and name not in self.wanted]
        if not self.waits_for_newcomers:
            known = {name: replace(one, voting=True) for name, one in known.items()}
        return step(registrar.electorate, tuple(wanted), known)

    def swap(self, read: Electorate, following: Electorate) -> None:
        """Compare and swap; then everybody is told, each in its own time."""
        if self.object is not read or self.api_is_down:
            return
        self.object, self.in_force = following, False
        self.written.append(following)
        self.publish()

    def restore(self, electorate: Electorate) -> None:
        """What a keeper remembers is newer than the object: never lower."""
        if electorate.epoch > self.object.epoch:
            self.object, self.in_force = electorate, False

    def publish(self) -> None:
        for name in self.world.nodes:
            delay_ns = self.random.choice((1, 3, 20, 200)) * MS
            self.world.at(self.world.now_ns + delay_ns, lambda name=name: self.tell(name))  # type: ignore[misc]

    def tell(self, name: str) -> None:
        if not self.api_is_down:
            self.world.learn(name, self.object)


class ElectorateChaos(Chaos):
    """The faults of `Chaos`, on six agents of which some are electors, while who they are changes all the time."""

    chaos_ns = CHANGES_NS
    healed_ns = SETTLED_NS

    def __init__(
        self,
        seed: int,
        prepare: Callable[[LeaseWorld], None] = lambda world: None,
        *,
        waits_for_newcomers: bool = True,
    ) -> None:
        self._lost_disk = False
        super().__init__(seed, prepare)
        self.site = ElectorateSite(self.world, waits_for_newcomers=waits_for_newcomers)

    def make_world(self, seed: int) -> LeaseWorld:
        electors = (1, 2, 3, 4, 5)[seed % 5]
        world = LeaseWorld(seed, majority_of=electors, others=AGENTS - electors, random_clocks=True)
        # Without the numbers a lost disk is not seen (M7), and with it the last trace of a token may be gone.
        world.number_disks()
        return world

    def begin(self) -> None:
        self.site.keep_registrars()

    def faults(self) -> tuple[Callable[[], None], ...]:
        return (*super().faults(), self.steer, self.steer, self.steer, self.readdress, self.lose_disk, self.break_api)

    def steer(self) -> None:
        size = self.random.choice((1, 2, 3, 3, 4, 5))
        self.site.wanted = tuple(sorted(self.random.sample(self.site.agents, size)))

    def readdress(self) -> None:
        """Tell everybody again: some have missed it."""
        self.site.publish()

    def break_api(self) -> None:
        self.site.api_is_down = not self.site.api_is_down

    def lose_disk(self) -> None:
        members = self.site.object.members
        # More disks than that, or that of a sole elector, would be a majority lost for good (M6).
        if self._lost_disk or len(members) < 3 or not self.site.in_force:
            return
        self._lost_disk = True
        name = self.random.choice(members).name
        self.world.lose_disk(name)
        self.restart(name, 500)

    def heal(self) -> None:
        self.site.api_is_down = False
        super().heal()
        self.site.publish()

    def check(self) -> None:
        super().check()
        names = tuple(sorted(member.name for member in self.site.object.members))
        assert names == self.site.wanted, f"electors are {names}, not {self.site.wanted}"
        assert self.world.holders(LEADER_KEY)


assert LEASE_NS_MAX < SETTLED_NS // 3
