"""Driven by differences, whatever comes in whatever order: the maps end as if all had been known from the beginning."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from hypothesis import given, settings
from hypothesis import strategies as st

from service.datapath import layout
from service.datapath.admission import Admission
from service.datapath.classification import DOUBT_NS
from service.datapath.desired import LocalUplink, Rows, node_limits, rule_rows
from service.datapath.layout import MapName
from service.datapath.reconciler import Reconciler
from service.datapath.review import PAUSE_NS, PIECES, Part, Review
from service.datapath.steering import Phase
from service.datapath.worker_pool import FULL, Wishes
from service.gateway.transport import Pair, Proven
from service.model.assignment import Assignment, Location
from service.model.cluster_range import ClusterRanges
from service.model.gateway_node import GatewayNode, NodeRole, NodeState, Segment
from service.model.lease import Stamp, Token
from service.model.objects import NO_TIMEOUTS, Change, Delete, EgressRule, FlowTimeouts, Upsert
from service.network.connection_life import ConnectionLives
from service.network.destinations import Destinations
from service.policy.index import PolicyIndex
from service.policy.rule_set import RuleSet
from service.settings import DatapathSettings, Settings
from tests.policy.objects import gateway, namespace, pod, policy, selector

NETWORK = IPv4Network("192.168.1.0/24")
UPLINK = LocalUplink(2, "eth0", b"\2\0\0\0\0\1", IPv4Interface("192.168.1.21/24"), True)
OTHER_UPLINK = LocalUplink(3, "eth1", b"\2\0\0\0\0\3", IPv4Interface("172.30.1.21/24"), True)
IPS = tuple(IPv4Address(f"192.168.1.{last}") for last in (100, 101, 102))
POD_IPS = tuple(IPv4Address(f"10.0.0.{last}") for last in range(1, 6))
WORKER2 = (IPv4Address("192.168.1.22"), b"\2\0\0\0\1\1")
INHERITED = RuleSet(77, ((IPv4Network("1.1.1.0/24"), IPS[0]),))


class Kernel:
    """Maps that are written when the test says so, and in which somebody else writes, too."""

    def __init__(self, rooms: Mapping[str, int] | None = None) -> None:
        self.rooms = rooms or {}
        self.wishes: dict[str, Rows] = {}
        self.rows: dict[str, Rows] = {}
        self.news: dict[str, dict[bytes, None] | None] = {}

    def grant(self, known: Reconciler) -> None:
        wish = known.wish(self)
        for name, content in wish.whole.items():
            self.wishes[name] = dict(content)
        for name, rows in wish.changes.items():
            self.change(name, rows)

    def change(self, name: str, rows: Wishes) -> None:
        wanted = self.wishes.setdefault(name, {})
        for key, value in rows.items():
            if value is None:
                wanted.pop(key, None)
            else:
                wanted[key] = value

    def write(self, count: int = 1 << 30) -> None:
        """So many rows of each map come into the kernel, or leave it."""
        for name, wanted in self.wishes.items():
            rows = self.rows.setdefault(name, {})
            gone = [key for key in rows if key not in wanted]
            new = [key for key, value in wanted.items() if rows.get(key) != value]
            for key in gone[:count]:
                self.put(name, key, None)
            for key in new[:count]:
                if key in rows or len(rows) < self.room(name):
                    self.put(name, key, wanted[key])

    def put(self, name: str, key: bytes, value: bytes | None) -> None:
        rows = self.rows.setdefault(name, {})
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value
        news = self.news.get(name)
        if news is not None:
            news[key] = None

    # What `Reconciler` asks.

    def contains(self, name: str, rows: Mapping[bytes, bytes]) -> bool:
        return rows.items() <= self.rows.get(name, {}).items()

    def has(self, name: str, key: bytes) -> bool:
        return key in self.rows.get(name, {})

    def take_news(self, name: str) -> Collection[bytes] | None:
        news, self.news[name] = self.news.get(name), {}
        return news

    def is_settled(self, name: str) -> bool:
        return self.wishes.get(name, {}) == self.rows.get(name, {}) or name in self.waiting()

    def waiting(self) -> dict[str, dict[bytes, str]]:
        full = [name for name, rows in self.rows.items() if len(rows) >= self.room(name)]
        return {name: dict.fromkeys(self.wishes[name].keys() - self.rows[name].keys(), FULL) for name in full}

    def room(self, name: str) -> int:
        return self.rooms.get(name, 1 << 16)

    def wanted(self, name: str) -> Mapping[bytes, bytes]:
        return self.wishes.get(name, {})


class Node:
    """One agent's view, and its kernel."""

    def __init__(self, index: PolicyIndex, rooms: Mapping[str, int] | None = None) -> None:
        self.index = index
        self.known = Reconciler(Settings(node="worker1", datapath=DatapathSettings(transport="auto")), index)
        self.kernel = Kernel(rooms)
        self.now_ns = 0
        self.review = Review(lambda: self.known.review_parts(self.kernel))

    def turn(self) -> None:
        said(self.known)
        self.known.destinations()
        self.known.select()
        self.known.classify(now_ns=self.now_ns)
        self.kernel.grant(self.known)

    def clear(self) -> None:
        self.known.steering.cleared(self.known.to_clear(self.kernel))
        self.known.steering.forget(self.known.steering.left())

    def settle(self) -> dict[str, Rows]:
        """Whatever is on its way comes to its end."""
        for _ in range(12):
            self.turn()
            self.kernel.write()
            self.clear()
            self.now_ns += DOUBT_NS
        return {name: rows for name, rows in self.kernel.rows.items() if rows}

    def found(self) -> list[tuple[str, int]]:
        """What a look at everything finds wrong."""
        self.review.begin_again()
        return [(one.map, one.count) for one in self.review.take_piece(now_ns=self.now_ns)]


class Knowledge:
    """What is told of all but the objects, so that another node can be told the same."""

    def __init__(self) -> None:
        self.nodes: tuple[GatewayNode, ...] = ()
        self.table: dict[IPv4Address, Assignment] = {}
        self.locations: dict[IPv4Address, Location] = {}
        self.held: frozenset[IPv4Address] = frozenset()
        self.devices: dict[IPv4Address, int] = {}
        self.uplinks: tuple[LocalUplink, ...] = (UPLINK,)
        self.addresses: frozenset[IPv4Address] = frozenset()
        self.server: IPv4Address | None = None
        self.ranges = ClusterRanges()
        self.proven = Proven()

    def tell(self, known: Reconciler) -> None:
        known.learn_uplinks(self.uplinks)
        known.learn_addresses(self.addresses)
        if self.server is not None:
            known.learn_server(self.server)
        known.learn_ranges(self.ranges)
        known.learn_held(self.held)
        known.learn_members(self.nodes, self.table)
        known.learn_locations(dict(self.locations))
        known.learn_members(self.nodes, self.table)
        known.learn_devices(dict(self.devices))
        known.learn_proven(self.proven)


def said(known: Reconciler) -> tuple[object, ...]:
    """What is asked of it beside rows."""
    attribution = known.attribution()
    labels = [attribution.label_of(ip.packed) for ip in IPS], attribution.policies
    return known.topology(), known.names(), known.probed(), known.connection_lives(), labels


Step = Callable[[Node, Knowledge], None]


def objects(changes: Sequence[Change]) -> Step:
    return lambda node, told: node.index.apply(changes) and None


def devices(found: Mapping[IPv4Address, int]) -> Step:
    return lambda node, told: setattr(told, "devices", dict(found))


def members(nodes: Sequence[GatewayNode]) -> Step:
    return lambda node, told: setattr(told, "nodes", tuple(nodes))


def assigned(table: Mapping[IPv4Address, str]) -> Step:
    rows = {ip: Assignment(ip, holder, None, Stamp(1, 1)) for ip, holder in table.items()}
    return lambda node, told: setattr(told, "table", rows)


def located(ip: IPv4Address, holder: str, counter: int) -> Step:
    def step(node: Node, told: Knowledge) -> None:
        location = Location(ip, holder, Token(1, 1, counter))
        listed = {*told.table, *told.held, *(node.index.gateway() or gateway()).floating_ips}
        former = told.locations.get(ip)
        if ip in listed and (former is None or former.token < location.token):
            told.locations[ip] = location

    return step


def fact(name: str, value: object) -> Step:
    return lambda node, told: setattr(told, name, value)


def tamper(name: str, place: int, value: bytes | None) -> Step:
    """Somebody else writes into a map."""

    def step(node: Node, told: Knowledge) -> None:
        rows = node.kernel.rows.get(name, {})
        if rows:
            key = sorted(rows)[place % len(rows)]
            node.kernel.put(name, key, None if value is None else value.ljust(len(rows[key]), b"x")[: len(rows[key])])

    return step


def wait(seconds: int) -> Step:
    def step(node: Node, told: Knowledge) -> None:
        node.now_ns += seconds * 1_000_000_000

    return step


SELECTORS = st.sampled_from([selector(), selector({"app": "a"}), selector({"app": "b"})])
NETWORKS = st.lists(
    st.sampled_from(["8.0.0.0/8", "8.8.0.0/16", "8.8.8.0/24", "9.0.0.0/8"]), min_size=1, max_size=3, unique=True
)
POLICIES = st.builds(
    lambda name, ip, to, excluded, pods, timeouts: policy(
        name, ip=ip, to=to, excluded=excluded, rules=[EgressRule(selector(), pods)], timeouts=timeouts
    ),
    st.sampled_from(["p", "q", "r"]),
    st.sampled_from([str(ip) for ip in IPS]),
    NETWORKS,
    st.lists(st.just("8.8.8.8/32"), max_size=1),
    SELECTORS,
    st.sampled_from([NO_TIMEOUTS, FlowTimeouts(udp_s=30), FlowTimeouts(udp_s=900)]),
)
PODS = st.builds(
    lambda name, ip, uid, node, app: pod(name, ip, uid=uid, node=node, app=app),
    st.sampled_from(["u", "v", "w", "x"]),
    st.sampled_from([None, *map(str, POD_IPS)]),
    st.sampled_from(["1", "2"]),
    st.sampled_from(["worker1", "worker1", "worker2"]),
    st.sampled_from("abc"),
)
GATEWAYS = st.builds(lambda ips: gateway(*ips), st.lists(st.sampled_from([str(ip) for ip in IPS]), unique=True))
OBJECTS = st.one_of(PODS, PODS, PODS, POLICIES, POLICIES, GATEWAYS)
CHANGES = st.one_of(OBJECTS.map(Upsert), OBJECTS.map(Upsert), OBJECTS.map(lambda item: Delete(item.key)))
SEGMENTS = st.lists(
    st.builds(
        lambda last, mac: Segment(NETWORK, IPv4Address(f"192.168.1.{last}"), bytes((2, 0, 0, 0, 1, mac))),
        st.sampled_from([22, 23, 101]),
        st.integers(1, 3),
    ),
    max_size=2,
)
MEMBERS = st.lists(
    st.builds(
        lambda name, segments, ready, own, tunnels: GatewayNode(
            name,
            NodeRole.WORKER,
            NodeState.UP,
            ready,
            tuple(segments),
            own_addresses=tuple(own),
            address=IPv4Address("192.168.1.22"),
            tunnels=tunnels,
        ),
        st.sampled_from(["worker2", "worker3"]),
        SEGMENTS,
        st.booleans(),
        st.lists(st.sampled_from(IPS), max_size=1),
        st.booleans(),
    ),
    max_size=2,
    unique_by=lambda node: node.name,
)
HOLDERS = st.sampled_from(["worker1", "worker2", "worker3"])
_PAIRS = st.frozensets(st.tuples(st.sampled_from(["worker2", "worker3"]), st.sampled_from(IPS)), max_size=3)
PROVEN = st.builds(Proven, _PAIRS, _PAIRS)
DRIVEN = st.sampled_from([MapName.RULES, MapName.SELECTED, MapName.WAYS, MapName.CLUSTER, MapName.TUNNEL_MEMBERS])
SETTLE = st.just(lambda node, told: node.settle() and None)
STEPS: st.SearchStrategy[Step] = st.one_of(
    SETTLE,
    SETTLE,
    st.lists(CHANGES, min_size=1, max_size=4).map(objects),
    st.lists(CHANGES, min_size=1, max_size=4).map(objects),
    st.dictionaries(st.sampled_from(POD_IPS), st.integers(7, 9)).map(devices),
    MEMBERS.map(members),
    st.dictionaries(st.sampled_from(IPS), HOLDERS).map(assigned),
    st.builds(located, st.sampled_from(IPS), HOLDERS, st.integers(1, 5)),
    st.builds(fact, st.just("held"), st.frozensets(st.sampled_from(IPS))),
    st.builds(fact, st.just("uplinks"), st.sampled_from([(), (UPLINK,), (UPLINK, OTHER_UPLINK)])),
    st.builds(fact, st.just("addresses"), st.frozensets(st.sampled_from(IPS), max_size=1)),
    st.builds(fact, st.just("server"), st.sampled_from([IPS[2], IPv4Address("10.96.0.1")])),
    st.builds(fact, st.just("proven"), PROVEN),
    st.builds(fact, st.just("ranges"), st.just(ClusterRanges(pods=(IPv4Network("10.0.0.0/16"),)))),
    st.builds(tamper, DRIVEN, st.integers(0, 5), st.sampled_from([None, b"other"])),
    st.integers(1, 6).map(wait),
    st.integers(1, 4).map(lambda count: lambda node, told: node.kernel.write(count)),
    st.just(lambda node, told: node.clear()),
)
LIVES = st.lists(st.tuples(STEPS, st.booleans()), min_size=10, max_size=40)
ALL, A_PIECE, NONE = "all", "a piece", "none"
LOOKS = st.sampled_from([ALL, A_PIECE, NONE])
TIGHT = {MapName.SELECTED: 5, MapName.RULES: 4}


POPULATION = (
    namespace(),
    gateway(*map(str, IPS[:2])),
    *(pod(name, str(pod_ip), app=app) for name, pod_ip, app in zip("uvw", POD_IPS, "aab", strict=False)),
    policy("p", to=("8.0.0.0/8", "8.8.8.0/24"), rules=[EgressRule(selector(), selector({"app": "a"}))]),
    policy("q", ip="192.168.1.101", to=("9.0.0.0/8",), rules=[EgressRule(selector(), selector({"app": "b"}))]),
)


def driven(
    steps: Sequence[tuple[Step, bool]], rooms: Mapping[str, int] | None = None, *, looks: str
) -> tuple[Node, Knowledge]:
    """A node that lived through all of it, with a turn after some of the steps.

    `looks`: after each turn `ALL` is looked at, or one of the pieces, and nothing may be found. With `NONE` nothing
    makes up for a difference that was missed.
    """
    index, told = PolicyIndex(pod_cidrs_known=True), Knowledge()
    index.apply(map(Upsert, POPULATION))
    told.nodes = (GatewayNode("worker2", NodeRole.WORKER, NodeState.UP, True, (Segment(NETWORK, *WORKER2),)),)
    told.locations = {IPS[0]: Location(IPS[0], "worker2", Token(1, 1, 1))}
    node = Node(index, rooms)
    # One that is there, and one that is gone.
    node.known.steering.adopt(POD_IPS[0], INHERITED)
    node.known.steering.adopt(POD_IPS[4], INHERITED)
    told.devices = {POD_IPS[0]: 7}
    told.tell(node.known)
    node.known.inherit({IPS[0].packed: b"a way"}, (INHERITED,), (IPv4Address("192.168.1.22"),))
    for step, has_turn in steps:
        step(node, told)
        told.tell(node.known)
        # Gossip forgets where an address was that nobody lists any more.
        told.locations = dict(node.known.locations)
        if has_turn:
            node.turn()
            assert looks != ALL or node.found() == []
            assert looks != A_PIECE or node.review.take_piece(now_ns=node.now_ns) == []
            node.now_ns += PAUSE_NS
    node.known.disinherit()
    return node, told


@settings(max_examples=300, deadline=None)
@given(LIVES, LOOKS)
def test_i2_driven_by_differences_the_maps_end_as_they_would_have_if_all_had_been_known_at_once(
    steps: list[tuple[Step, bool]], looks: str
) -> None:
    node, told = driven(steps, looks=looks)
    fresh = Node(node.index)
    told.tell(fresh.known)
    assert node.settle() == fresh.settle()
    assert set(node.known.steering.phases().values()) <= {Phase.STEERING}
    assert node.known.destinations() == fresh.known.destinations() == naive_destinations(node.known)
    assert said(node.known) == said(fresh.known)
    assert (node.known.probed(), node.known.connection_lives()) == naive(node.known)
    assert set(node.known.pods_without_device()) == node.known.local_pods().keys() - told.devices.keys()
    assert node.found() == []


def naive_destinations(known: Reconciler) -> Destinations:
    selections = known.local_selections()
    sets = {one.rule_set.id: one.rule_set.steered for one in selections.values()}
    return Destinations({pod_ip: one.rule_set.id for pod_ip, one in selections.items()}, sets)


def naive(known: Reconciler) -> tuple[tuple[Pair, ...], ConnectionLives]:
    """Whom to ask over the data path, and how long connections are tracked."""
    selections, topology = known.local_selections().values(), known.topology()
    used = {ip for one in selections for _, ip in one.rule_set.entries if ip is not None}
    spec = known._index.gateway()
    listed = {*known.assignments, *known._held, *(spec.floating_ips if spec else ())}
    pairs = (
        (name, floating_ip)
        for floating_ip in sorted(used & listed)
        for name in dict.fromkeys((known.holder_of(floating_ip), known.successor_of(floating_ip)))
        if name not in (None, "worker1") and topology.shared(name, floating_ip) is not None
    )
    node = node_limits(DatapathSettings()).timeouts
    lives = ConnectionLives.longest([node, *(one.rule_set.timeouts.over(node) for one in selections)])
    return tuple(pairs), lives


@settings(max_examples=150, deadline=None)
@given(LIVES, LOOKS)
def test_i1_where_there_is_no_room_for_all_whoever_is_steered_is_so_by_all_of_its_rules_and_room_is_used(
    steps: list[tuple[Step, bool]], looks: str
) -> None:
    node, _ = driven(steps, TIGHT, looks=looks)
    rows = node.settle()
    assert node.found() == []
    sizes = {one.id: len(one.entries) for _, one in node.known.steering.rule_sets()}
    ids = list(map(layout.rule_set_of, rows.get(MapName.RULES, {})))
    assert all(ids.count(identity) == sizes[identity] for identity in ids)
    left_out = {identity: size for identity, size in sizes.items() if identity not in ids}
    assert all(len(ids) + size > TIGHT[MapName.RULES] for size in left_out.values())
    # The same node, with room for all: nobody is left out for good.
    node.kernel.rooms = {}
    told_all = node.settle()
    assert len(told_all.get(MapName.RULES, {})) == sum(sizes_now(node).values())
    assert set(node.known.steering.phases().values()) <= {Phase.STEERING}


def sizes_now(node: Node) -> dict[int, int]:
    return {one.id: len(one.entries) for _, one in node.known.steering.rule_sets()}


def test_i1_a_set_whose_rows_have_never_left_the_kernel_is_whole_at_once() -> None:
    """Nothing will be written, so nothing will be heard of it."""
    admission, kernel = Admission(), Kernel()
    for key, value in rule_rows(INHERITED).items():
        kernel.put(MapName.RULES, key, value)
    admission.admit(kernel)
    admission.want(INHERITED.id, INHERITED)
    assert admission.admit(kernel).turned == {INHERITED.id: None}
    assert admission.whole == {INHERITED.id}


# -- what a difference has missed --


def settled() -> Node:
    """Two pods, of which one is selected."""
    index = PolicyIndex(pod_cidrs_known=True)
    chosen = selector({"app": "a"})
    items = (gateway("192.168.1.100"), namespace(), pod("one", "10.0.0.1", app="a"), pod("two", "10.0.0.2", app="b"))
    index.apply([*map(Upsert, items), Upsert(policy(rules=[EgressRule(selector(), chosen)]))])
    node, told = Node(index), Knowledge()
    told.devices = {IPv4Address("10.0.0.1"): 7, IPv4Address("10.0.0.2"): 8}
    told.locations = {IPS[0]: Location(IPS[0], "worker1", Token(1, 1, 1))}
    told.tell(node.known)
    node.settle()
    assert node.found() == []
    return node


def test_i2_a_wish_that_was_lost_or_is_too_much_is_found_and_put_right() -> None:
    for name in (MapName.SELECTED, MapName.RULES, MapName.LIMITS):
        node = settled()
        right = dict(node.kernel.wishes[name])
        key = next(iter(right))
        stranger = bytes(len(key))[:-1] + b"\7"
        for wrong in ({key: None}, {key: b"other"}, {stranger: b"too much"}):
            node.kernel.change(name, wrong)
            node.review.begin_again()
            (found,) = node.review.take_piece(now_ns=node.now_ns)
            assert (found.map, found.count) == (name, 1)
            node.kernel.change(found.map, found.wishes)
            assert node.kernel.wishes[name] == right


def test_i2_a_pod_whose_change_nobody_told_is_found_and_served_in_the_next_turns() -> None:
    node = settled()
    new = pod("two", "10.0.0.2", app="a")
    node.index._followers.clear()
    node.index.apply([Upsert(new)])
    node.turn()
    assert IPv4Address("10.0.0.2") not in node.known.steering.phases()
    assert node.found() != []
    node.settle()
    assert node.known.steering.phases()[IPv4Address("10.0.0.2")] is Phase.STEERING
    assert node.found() == []


def test_i2_a_pod_that_is_steered_otherwise_than_it_is_selected_is_found() -> None:
    node = settled()
    node.known.steering.select_some({IPv4Address("10.0.0.1"): None})
    node.kernel.grant(node.known)
    assert ("", 1) in node.found()
    node.settle()
    assert node.known.steering.phases() == {IPv4Address("10.0.0.1"): Phase.STEERING}


def test_i2_what_is_made_as_a_whole_is_made_anew_too() -> None:
    node = settled()
    node.known._locations[IPS[0]] = replace(node.known.locations[IPS[0]], node="worker9")
    before = dict(node.kernel.wishes[MapName.WAYS])
    node.turn()
    assert node.kernel.wishes[MapName.WAYS] == before, "nobody said that anything has changed"
    assert node.found() == [("", 1)]
    node.turn()
    assert node.kernel.wishes[MapName.WAYS] == {}


def test_everything_is_gone_through_in_half_a_minute_and_little_of_it_at_a_time() -> None:
    looked: list[int] = []
    pieces: list[int] = []

    def compare(items: Sequence[int]) -> tuple[int, Wishes]:
        looked.extend(items)
        pieces.append(len(items))
        return 0, {}

    review = Review(lambda: (Part("one", lambda: range(300), compare), Part("two", lambda: range(300, 330), compare)))
    review.take_piece(now_ns=0)
    assert sorted(looked) == list(range(330)), "at the start, all of it"
    looked.clear()
    pieces.clear()
    for second in range(1, PIECES + 1):
        review.take_piece(now_ns=second * PAUSE_NS)
        review.take_piece(now_ns=second * PAUSE_NS + 1)
    assert sorted(looked) == list(range(330))
    assert max(pieces) <= 11
