"""Two nodes and the object that breaks their tie, under faults of everything between the three."""

from collections.abc import Callable
from itertools import permutations

from service.lease.elector import ElectorMachine
from service.lease.registrar import Registrar
from service.lease.tiebreaker import Swap
from service.model.lease import LEADER_KEY, Electorate
from tests.simulation.electorate_chaos import ElectorateSite
from tests.simulation.lease_chaos import Chaos
from tests.simulation.lease_world import MS, LeaseWorld

NODES = ("node0", "node1")
API = "api"
WAYS = tuple((left, right) for left, right in permutations((*NODES, API), 2))
"""Every direction in which something may be cut."""
STEADY_NS = 500 * MS
CHANGES_NS = 6_000 * MS
SETTLED_NS = 9_000 * MS


class TwoNodeSite(ElectorateSite):
    """The object, two agents that may change it, and controllers that add whoever is back."""

    knows_settlement = True
    believes_itself = False
    """Mutations: who asks whatever it knows; who takes a question for an answer."""
    steady_ns = STEADY_NS

    def __init__(self, world: LeaseWorld) -> None:
        super().__init__(world)
        self._steady_since_ns: dict[str, int] = {}

    def _beat(self, name: str) -> None:
        self._read(name)
        super()._beat(name)

    def is_ready(self, elector: ElectorMachine) -> bool:
        return super().is_ready(elector) or not self.knows_settlement

    def _reaches(self, left: str, right: str) -> bool:
        return not self.api_is_down and not self.world.cut.get((left, right))

    def _read(self, name: str) -> None:
        if self._reaches(name, API):
            self.world.at(self.world.now_ns + self.random.choice((1, 3, 20, 200)) * MS, lambda: self._hear(name))

    def _hear(self, name: str) -> None:
        if self._reaches(API, name) and self.object is not None:
            self.seen[name] = self.object

    def ask(self, name: str, swap: Swap) -> None:
        """The request may be lost, or be made late; of what was made the answer may be lost."""
        read = self.seen[name]
        if self.believes_itself:
            self.world.learn(name, swap.following)
        if read != swap.before or not self._reaches(name, API):
            return
        delay_ns = self.random.choice((1, 5, 30, 30, 1500)) * MS
        self.world.at(self.world.now_ns + delay_ns, lambda: self._make(name, read, swap.following))

    def _make(self, name: str, read: Electorate, following: Electorate) -> None:
        self.swap(read, following)
        self._hear(name)

    def publish(self) -> None:
        """Agents read by themselves."""

    def tell(self, name: str) -> None:
        """Agents read by themselves."""

    def _proposal(self, registrar: Registrar) -> Electorate | None:
        members = registrar.electorate.members
        known = registrar.known()
        now_ns = self.world.now_ns
        self._steady_since_ns = {name: self._steady_since_ns.get(name, now_ns) for name in known}
        if any(now_ns - self._steady_since_ns.get(name, now_ns) < self.steady_ns for name in NODES):
            return None
        if len(members) == 1 and ((one := known.get(members[0].name)) is None or one.misses_other):
            return None
        return super()._proposal(registrar)


class EditedTwoNodeSite(TwoNodeSite):
    """Somebody deletes the object, empties it or sets it back, in the moment in which it decides (M8)."""

    def edit_somehow(self) -> None:
        now, either = self.written, self.random.choice(self.written.contacts)
        self.edit(
            self.random.choice(
                (
                    None,
                    None,
                    Electorate(max(now.epoch - 1, 1), now.members),
                    Electorate(now.epoch + 1, (either,), ()),
                    Electorate(now.epoch + 2, (either,), now.contacts),
                )
            )
        )


def two_nodes(seed: int, *, random_clocks: bool = False) -> LeaseWorld:
    world = LeaseWorld(seed, majority_of=2, others=0, random_clocks=random_clocks)
    world.number_disks()
    for node in world.nodes.values():
        node.electorate_file = (world.electorate, True)
    return world


class TwoNodeChaos(Chaos):
    """The faults of `Chaos`, and every cut between two nodes and the object, one way too."""

    chaos_ns = CHANGES_NS
    healed_ns = SETTLED_NS
    site_type: type[TwoNodeSite] = TwoNodeSite

    def __init__(self, seed: int, prepare: Callable[[LeaseWorld], None] = lambda world: None) -> None:
        super().__init__(seed, prepare)
        self.site = self.site_type(self.world)
        # Electors come and go as fast as they can.
        self.site.steady_ns = 0

    def make_world(self, seed: int) -> LeaseWorld:
        return two_nodes(seed, random_clocks=True)

    def begin(self) -> None:
        self.site.keep_registrars()
        self.site.keep_agents()

    def faults(self) -> tuple[Callable[[], None], ...]:
        return (*super().faults(), self.part, self.part, self.part, self.break_api, self.prolong)

    def part(self) -> None:
        for way in self.random.sample(WAYS, self.random.randrange(1, 4)):
            self.world.cut[way] = True

    def break_api(self) -> None:
        self.site.api_is_down = not self.site.api_is_down

    def prolong(self) -> None:
        """A keeper is stopped to be started again (`on_stop: keep`)."""
        name = self.random.choice(NODES)
        node = self.world.nodes[name]
        if node.alive and not node.paused_until_ns:
            self.world.prolong(name)
            self.world.at(self.world.now_ns + 20 * MS, lambda: self._start_again(name))

    def _start_again(self, name: str) -> None:
        self.world.kill(name)
        self.restart(name, 900)

    def heal(self) -> None:
        self.site.api_is_down = False
        super().heal()

    def check(self) -> None:
        super().check()
        assert self.site.in_force
        names = sorted(member.name for member in self.site.written.members)
        assert names == list(NODES), f"electors are {names}"
        assert self.world.holders(LEADER_KEY)


class EditedTwoNodeChaos(TwoNodeChaos):
    """The object itself is not safe either."""

    site_type = EditedTwoNodeSite

    def faults(self) -> tuple[Callable[[], None], ...]:
        return (*super().faults(), self.edit, self.edit, self.edit)

    def edit(self) -> None:
        assert isinstance(self.site, EditedTwoNodeSite)
        self.site.edit_somehow()
