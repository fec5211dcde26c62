"""Seeded histories in which the electorate changes under faults, by compare-and-swap on one object."""

from collections.abc import Callable
from dataclasses import replace

from service.electorate.office import WriteKind, next_write, object_trouble
from service.electorate.store import ElectorateObject
from service.lease.elector import ElectorMachine
from service.lease.electorate import Candidate, step
from service.lease.registrar import Registrar
from service.lease.tiebreaker import Swap, Tiebreaker
from service.model.lease import LEADER_KEY, Elector, Electorate
from tests.simulation.lease_chaos import CONTROLLERS, Chaos
from tests.simulation.lease_world import LEASE_NS_MAX, MS, PORT, Keeper, LeaseWorld

AGENTS = 6
CHANGES_NS = 4_000 * MS
SETTLED_NS = 9_000 * MS
"""From the end of the faults to the check: several silences, each of which a newcomer may have to wait out."""
GRACE_NS = 300 * MS
_INTERVAL_NS = 30 * MS
_PERIOD_NS = 40 * MS
_WRONG_NS = 150 * MS
"""More than the interval in which a keeper counts as there."""


class ElectorateSite:
    """The object, its writers, and who reads it. `wanted` is what the electorate is steered to, by name."""

    object: Electorate | None
    """What it says; another object, by identity, is another version."""
    seen: dict[str, Electorate]
    """What the agent of each node has read of it, and repeats to its keeper."""

    def __init__(self, world: LeaseWorld, *, waits_for_newcomers: bool = True, goes_on_alone: bool = True) -> None:
        self.world = world
        self.random = world.random
        self.object = self.written = world.electorate
        self.in_force = True
        self.api_is_down = False
        self.waits_for_newcomers, self.goes_on_alone = waits_for_newcomers, goes_on_alone
        self.wanted = tuple(member.name for member in world.electorate.members)
        self.agents = [name for name in world.nodes if name.startswith("node")]
        self.seen = dict.fromkeys(self.agents, world.electorate)
        self._wrong_since_ns: dict[str, int] = {}

    def keep_registrars(self) -> None:
        """Every so often each controller looks whether a step is due; starts with it."""
        for name in CONTROLLERS:
            self._look(name)

    def keep_agents(self) -> None:
        """Every so often each agent repeats to its keeper what it read, and hears what the keeper wants."""
        for name in self.agents:
            self._beat(name)

    # --- controllers ---

    def _look(self, name: str) -> None:
        world = self.world
        node = world.nodes[name]
        world.at(world.now_ns + _INTERVAL_NS, lambda: self._look(name))
        if not node.alive or node.paused_until_ns or self.api_is_down:
            return
        now_ns = node.boot.read(world.now_ns)
        if node.registrar is None:
            node.registrar = Registrar(lease_port=PORT, now_ns=now_ns, interval_ns=_INTERVAL_NS)
            # Another process, and perhaps another boot with another clock.
            self._wrong_since_ns.pop(name, None)
        hosts = {agent: world.nodes[agent].address.host for agent in self.agents}
        node.registrar.set_candidates({agent: Candidate(agent, host) for agent, host in hosts.items()}, now_ns=now_ns)
        node.registrar.set_electorate(node.electorate, now_ns=now_ns)
        if self.object is not None:
            node.registrar.set_hints(self.object.contacts)
            world.learn_written(name, self.object)
        if node.registrar is None or node.paused_until_ns:
            # It died, or was stopped, of what it had to say.
            return
        node.registrar.set_electorate(node.electorate, now_ns=now_ns)
        self._write(node, node.registrar, now_ns)
        world._pump(node)

    def _write(self, node: Keeper, registrar: Registrar, now_ns: int) -> None:
        read = self.object
        current = ElectorateObject(read, self.in_force, "") if read is not None else None
        write = next_write(
            current,
            node.electorate,
            self._proposal(registrar),
            is_in_force=registrar.is_in_force,
            is_leading=True,
            is_present=self._is_present(node, registrar, current, now_ns),
        )
        if write is None:
            return
        if write.kind is WriteKind.CONFIRM:
            self.in_force = True
            return
        # It may be stopped here, and act later on what it has read now.
        delay_ns = self.random.choice((1, 5, 100)) * MS
        self.world.at(self.world.now_ns + delay_ns, lambda: self.swap(read, write.electorate))

    def _is_present(self, node: Keeper, registrar: Registrar, current: ElectorateObject | None, now_ns: int) -> bool:
        if not object_trouble(current, node.electorate):
            self._wrong_since_ns.pop(node.name, None)
            return False
        since_ns = self._wrong_since_ns.setdefault(node.name, now_ns)
        return now_ns - since_ns >= _WRONG_NS and registrar.is_present(since_ns=since_ns)

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
        if not wanted or any(one.misses_other for one in known.values()):
            return None
        missing = [name for name in self.wanted if all(elector.name != name for elector in wanted)]
        # Who is to come is not there yet: nobody goes before it has come.
        wanted += [member for name, member in members.items() if missing and name not in self.wanted]
        if not self.waits_for_newcomers:
            known = {name: replace(one, voting=True) for name, one in known.items()}
        return step(registrar.electorate, tuple(wanted), known)

    # --- the object ---

    def swap(self, read: Electorate | None, following: Electorate) -> None:
        """Compare and swap; then everybody is told, each in its own time."""
        if self.object is not read or self.api_is_down:
            return
        self.object = self.written = following
        self.in_force = False
        self.publish()

    def edit(self, said: Electorate | None, *, in_force: bool = False) -> None:
        """Somebody writes it by hand, or deletes it."""
        if not self.api_is_down:
            self.object, self.in_force = said, in_force
            self.publish()

    @property
    def is_sound(self) -> bool:
        """It says what a controller, or an agent, has written last."""
        return self.object is self.written

    def publish(self) -> None:
        for name in self.agents:
            delay_ns = self.random.choice((1, 3, 20, 200)) * MS
            self.world.at(self.world.now_ns + delay_ns, lambda name=name: self.tell(name))  # type: ignore[misc]

    def tell(self, name: str) -> None:
        if not self.api_is_down and self.object is not None:
            self.seen[name] = self.object
            self.world.learn_written(name, self.object)

    # --- agents ---

    def _beat(self, name: str) -> None:
        world, node = self.world, self.world.nodes[name]
        world.at(world.now_ns + _PERIOD_NS, lambda: self._beat(name))
        if not node.alive or node.paused_until_ns or node.elector is None:
            return
        swap = self.attend(node, node.elector) if self.goes_on_alone else None
        if swap is not None:
            self.ask(name, swap)
        world.learn_written(name, self.seen[name])

    def attend(self, node: Keeper, elector: ElectorMachine) -> Swap | None:
        """What this keeper asks for, as one of two that has lost the other."""
        now_ns = node.boot.read(self.world.now_ns)
        if node.tiebreaker is None:
            node.tiebreaker = Tiebreaker(
                node=node.name, lease_port=PORT, profile=node.profile, now_ns=now_ns, grace_ns=GRACE_NS
            )
        ready = elector.is_elector and self.is_ready(elector)
        node.tiebreaker.set_standing(node.electorate, ready=ready, fit=node.claiming, now_ns=now_ns)
        elector.misses_other = node.tiebreaker.is_missing_other
        swap = node.tiebreaker.swap
        self.world._pump(node)
        return swap

    def is_ready(self, elector: ElectorMachine) -> bool:
        return elector.is_settled and elector.is_voting

    def ask(self, name: str, swap: Swap) -> None:
        """The request may be made late."""
        read = self.seen[name]
        if read == swap.before and not self.api_is_down:
            delay_ns = self.random.choice((1, 5, 30, 1500)) * MS
            self.world.at(self.world.now_ns + delay_ns, lambda: self.swap(read, swap.following))


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
        goes_on_alone: bool = True,
    ) -> None:
        self._lost_disk = False
        super().__init__(seed, prepare)
        for name in CONTROLLERS:
            self.world.nodes[name].has_disk = False
        self.site = ElectorateSite(self.world, waits_for_newcomers=waits_for_newcomers, goes_on_alone=goes_on_alone)

    def make_world(self, seed: int) -> LeaseWorld:
        electors = (1, 2, 3, 4, 5)[seed % 5]
        world = LeaseWorld(seed, majority_of=electors, others=AGENTS - electors, random_clocks=True)
        # Without the numbers a lost disk is not seen (M7), and with it the last trace of a token may be gone.
        world.number_disks()
        return world

    def begin(self) -> None:
        self.site.keep_registrars()
        self.site.keep_agents()

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
        members = self.site.written.members
        # More disks than that, or that of a sole elector, would be a majority lost for good (M6).
        if self._lost_disk or len(members) < 3 or not (self.site.in_force and self.site.is_sound):
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
        assert self.site.is_sound, f"the object says {self.site.object}"
        names = tuple(sorted(member.name for member in self.site.written.members))
        assert names == self.site.wanted, f"electors are {names}, not {self.site.wanted}"
        assert self.world.holders(LEADER_KEY)


class EditedChaos(ElectorateChaos):
    """Somebody edits the object by hand, sets it back, deletes it, and makes another (M8)."""

    def faults(self) -> tuple[Callable[[], None], ...]:
        return (*super().faults(), *[self.edit] * 4)

    def edit(self) -> None:
        change = self.random.choice(
            (
                self._swap_all,
                self._swap_all,
                self._jump,
                self._jump_soundly,
                self._go_back,
                self._contradict,
                self._delete,
            )
        )
        self.site.edit(change(self.site.written), in_force=self.random.random() < 0.5)

    def _others(self) -> tuple[Elector, ...]:
        """Anybody, as they are: whoever edits reads the numbers of the disks."""
        names = self.random.sample(self.site.agents, self.random.choice((1, 2, 3, 3)))
        return tuple(self._elector(name) for name in names)

    def _elector(self, name: str) -> Elector:
        node = self.world.nodes[name]
        return Elector(name, node.address.host, node.memory)

    def _swap_all(self, now: Electorate) -> Electorate:
        previous = self.random.choice((now.members, now.previous, ()))
        return Electorate(now.epoch + 1, self._others(), previous)

    def _jump(self, now: Electorate) -> Electorate:
        return Electorate(now.epoch + self.random.choice((2, 5, 999, 1000, 1001)), self._others(), now.members)

    def _jump_soundly(self, now: Electorate) -> Electorate:
        """One that could have followed another that nobody has seen; or the next one, before this one is in force."""
        previous = self._others()
        added = [name for name in self.site.agents if all(one.name != name for one in previous)]
        members = (*previous, self._elector(self.random.choice(added)))
        if self.random.random() < 0.5:
            gone = self.random.choice(now.members)
            left = tuple(one for one in now.members if one != gone)
            return Electorate(now.epoch + 1, left or (self._elector(added[0]), gone), now.members)
        return Electorate(now.epoch + 2, members, previous)

    def _go_back(self, now: Electorate) -> Electorate:
        return Electorate(max(now.epoch - self.random.choice((1, 2)), 1), self._others(), now.previous)

    def _contradict(self, now: Electorate) -> Electorate:
        return Electorate(now.epoch, self._others(), now.previous)

    def _delete(self, now: Electorate) -> None:
        return None


assert LEASE_NS_MAX < SETTLED_NS // 3
