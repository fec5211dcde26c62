"""Two nodes and the object that breaks their tie, under faults of everything between the three."""

from collections.abc import Callable
from itertools import permutations

from service.lease.registrar import Registrar
from service.lease.tiebreaker import Swap, Tiebreaker
from service.model.lease import LEADER_KEY, Electorate
from tests.simulation.electorate_chaos import ElectorateSite
from tests.simulation.lease_chaos import Chaos
from tests.simulation.lease_world import MS, PORT, Keeper, LeaseWorld

NODES = ("node0", "node1")
API = "api"
WAYS = tuple((left, right) for left, right in permutations((*NODES, API), 2))
"""Every direction in which something may be cut."""
_PERIOD_NS = 40 * MS
GRACE_NS = 300 * MS
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
        self.seen: dict[str, Electorate] = dict.fromkeys(NODES, world.electorate)
        """What each agent has read."""
        self._steady_since_ns: dict[str, int] = {}

    def keep_agents(self) -> None:
        for name in NODES:
            self._beat(name)

    def _beat(self, name: str) -> None:
        """Agent and keeper of a node tell each other what they know; the agent reads the object."""
        world, node = self.world, self.world.nodes[name]
        world.at(world.now_ns + _PERIOD_NS, lambda: self._beat(name))
        self._read(name)
        if not node.alive or node.paused_until_ns or node.elector is None:
            return
        now_ns = node.boot.read(world.now_ns)
        if not isinstance(node.registrar, Tiebreaker):
            node.registrar = Tiebreaker(  # type: ignore[assignment]
                node=name, lease_port=PORT, profile=node.profile, now_ns=now_ns, grace_ns=GRACE_NS
            )
        tiebreaker = tiebreaker_of(node)
        assert tiebreaker is not None
        elector = node.elector
        is_ready = (elector.is_settled and elector.is_voting) or not self.knows_settlement
        tiebreaker.set_standing(
            node.electorate, ready=elector.is_elector and is_ready, fit=node.claiming, now_ns=now_ns
        )
        elector.misses_other = tiebreaker.is_missing_other
        swap = tiebreaker.swap
        world._pump(node)
        if swap is not None:
            self._ask(name, swap)
        world.learn(name, self.seen[name])

    def _reaches(self, left: str, right: str) -> bool:
        return not self.api_is_down and not self.world.cut.get((left, right))

    def _read(self, name: str) -> None:
        if self._reaches(name, API):
            self.world.at(self.world.now_ns + self.random.choice((1, 3, 20, 200)) * MS, lambda: self._hear(name))

    def _hear(self, name: str) -> None:
        if self._reaches(API, name):
            self.seen[name] = self.object

    def _ask(self, name: str, swap: Swap) -> None:
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


def tiebreaker_of(node: Keeper) -> Tiebreaker | None:
    machine: object = node.registrar
    return machine if isinstance(machine, Tiebreaker) else None


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
        names = sorted(member.name for member in self.site.object.members)
        assert names == list(NODES), f"electors are {names}"
        assert self.world.holders(LEADER_KEY)
