"""From what is known to what the maps of this node shall contain. Holds the knowledge, decides nothing about leases.

A turn costs what has changed since the last one, and next to nothing where nothing has. Pods, rule sets and what
netfilter asks of them change often and are many: they are worked out one by one, as differences say. All else (members,
ways, floating IPs, ranges) changes seldom: it is made as a whole, and only where what it is made of is another
(`Kept`). What a difference has missed all the same, `review` finds.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from itertools import chain

from service.datapath import desired
from service.datapath.admission import MapView
from service.datapath.attribution import Attribution
from service.datapath.desired import LocalUplink, Rows
from service.datapath.driven_pods import DrivenPods
from service.datapath.formerly_listed import FormerlyListed
from service.datapath.layout import MapName
from service.datapath.located_rows import LocatedRows
from service.datapath.members import Members, configured_peers
from service.datapath.review import Part
from service.datapath.shortage import Shortage
from service.datapath.steering import Clearing, Steering
from service.datapath.topology import Topology, tunnel_member_rows, way_rows
from service.datapath.worker_pool import Wishes
from service.gateway.exemption import Exemptions, Insiders
from service.gateway.transport import Pair, Proven
from service.model.assignment import Assignment, Location
from service.model.cluster_range import ClusterRanges
from service.model.gateway_node import GatewayNode, Segment
from service.model.kept import Kept
from service.model.objects import Pod
from service.network.connection_life import ConnectionLives
from service.network.destinations import Destinations
from service.network.unclassified import Named, NamedSets
from service.policy.index import PolicyDelta, PolicyIndex
from service.policy.rule_set import RuleSet, Selection, network_order
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Wish:
    """What the maps shall contain from now on."""

    whole: Mapping[str, Rows]
    """Exactly these rows; the same object as the last time where nothing has changed."""
    changes: Mapping[str, Wishes]
    """These rows, and of all others what was wished for before; in the order in which they are to be wished for."""


class _Derived:
    """What follows from knowledge that seldom changes."""

    def __init__(self) -> None:
        self.listed = Kept[dict[IPv4Address, None]]()
        self.in_spec = Kept[frozenset[IPv4Address]]()
        self.floating_ips = Kept[tuple[IPv4Address, ...]]()
        self.fenced = Kept[tuple[IPv4Address, ...]]()
        self.own_addresses = Kept[tuple[IPv4Address, ...]]()
        self.probed = Kept[tuple[Pair, ...]]()
        self.probed_of = Kept[dict[IPv4Address, tuple[Pair, ...]]]()
        self.attribution = Kept[Attribution]()
        self.insiders = Kept[Insiders]()
        self.exempt = Kept[Exemptions]()
        self.networks = Kept[tuple[IPv4Network, ...]]()
        self.rows: dict[str, Kept[Rows]] = {name: Kept() for name in WHOLE_MAPS if name != MapName.WAYS}

    def forget(self, name: str) -> None:
        """Have the content of this map made anew, and with that of the first one what all of them follow from."""
        if name in self.rows:
            self.rows[name].forget()
        if name == WHOLE_MAPS[0]:
            for kept in vars(self).values():
                if isinstance(kept, Kept):
                    kept.forget()


_WHOLE_COST = 8192
"""In the review, of making one of these maps anew, beside a look at one row."""
WHOLE_MAPS = (
    MapName.CLUSTER,
    MapName.FLOATING_IPS,
    MapName.UPLINK_ADDRESSES,
    MapName.MEMBERS,
    MapName.TUNNEL_MEMBERS,
    MapName.WAYS,
)
"""Maps whose content is made as a whole."""


class Reconciler:
    """State of one agent's view; `wish` says what follows from it. `learn_...` methods are the only way in."""

    def __init__(self, settings: Settings, index: PolicyIndex) -> None:
        self._node = settings.node
        self._index = index
        """The objects; whoever reads the source feeds it."""
        self._pods = DrivenPods(settings.node, index, desired.node_limits(settings.datapath))
        self._policy_changes = 0
        """How often any policy has come, gone or got another state: what the index shows of them is a live view."""
        index.follow(self._note_policies)
        self._derived = _Derived()
        self._guards = settings.datapath.unclassified == "drop"
        self._named = NamedSets()
        self._formerly = FormerlyListed()
        self._uplinks: tuple[LocalUplink, ...] = ()
        self._addresses: frozenset[IPv4Address] = frozenset()
        """Of all interfaces of this node."""
        self._server: IPv4Address | None = None
        self._egw_ifindex = 0
        self._members = Members(settings.node, settings.datapath.transport)
        self._assignments: Mapping[IPv4Address, Assignment] = {}
        self._locations: dict[IPv4Address, Location] = {}
        self._heard: Mapping[IPv4Address, Location] = {}
        """Locations as gossip told them last."""
        self._ways = LocatedRows()
        self._moved: dict[IPv4Address, None] = {}
        """Floating IPs that are somewhere else since `take_moved`."""
        self._moves = 0
        """How often any has moved."""
        self._kept_for: dict[IPv4Address, None] = {}
        """What was listed when those were last looked through."""
        self._held: frozenset[IPv4Address] = frozenset()
        self._inherited_ways: Rows = {}
        self._inherited_exempt: tuple[IPv4Address, ...] = ()
        self._ranges = settings.datapath.ranges
        """The cluster's own ranges; they may change at any time."""
        self._peers = configured_peers(settings)

    # -- what is known --

    @property
    def uplinks(self) -> tuple[LocalUplink, ...]:
        """This node's uplinks, those without carrier too."""
        return self._uplinks

    @property
    def nodes(self) -> tuple[GatewayNode, ...]:
        """All agents that have not left, this node among them."""
        return self._members.nodes

    @property
    def assignments(self) -> Mapping[IPv4Address, Assignment]:
        """The leader's table as far as it has come here."""
        return self._assignments

    @property
    def locations(self) -> Mapping[IPv4Address, Location]:
        """Where each floating IP was last said to be, by the word with the highest token."""
        return self._locations

    @property
    def devices(self) -> Mapping[IPv4Address, int]:
        """Interface index behind which each local pod is."""
        return self._pods.devices

    @property
    def steering(self) -> Steering:
        """How far each selected pod of this node is."""
        return self._pods.steering

    @property
    def ranges(self) -> ClusterRanges:
        """The cluster's own ranges."""
        return self._ranges

    @property
    def has_former_members(self) -> bool:
        """A member of a release before NAT on the pod's node is there, whose steered frames have a pod's address."""
        return self._members.has_former

    def is_guarded(self, address: IPv4Address) -> bool:
        """Netfilter asks of this address whether it is classified (rule W11)."""
        return self._guards and any(address in network for network in self._ranges.pods)

    # -- what is learned --

    def learn_members(self, nodes: tuple[GatewayNode, ...], assignments: Mapping[IPv4Address, Assignment]) -> None:
        """Take what gossip says of the agents, and the leader's table. Locations that nobody asks for any more go."""
        self._members.nodes, self._assignments = nodes, assignments
        listed = self.listed()
        if listed is not self._kept_for:
            for floating_ip in [floating_ip for floating_ip in self._locations if floating_ip not in listed]:
                del self._locations[floating_ip]
                self._move(floating_ip)
            self._kept_for, self._heard = listed, {}

    def learn_uplinks(self, uplinks: tuple[LocalUplink, ...]) -> None:
        """Take the node's uplinks as they are now; none is a state like any other."""
        self._uplinks = uplinks

    def learn_addresses(self, addresses: frozenset[IPv4Address]) -> bool:
        """Take every address of every interface of this node. False where nothing is new."""
        if addresses == self._addresses:
            return False
        self._addresses = addresses
        return True

    def learn_server(self, address: IPv4Address) -> None:
        """Take the address of this node's API server, which may be a virtual IP that is on nobody's interface now."""
        self._server = address

    def learn_steering_device(self, ifindex: int) -> bool:
        """Take the interface index of the steering device; it changes where somebody has deleted the device.

        False where nothing is new.
        """
        is_new, self._egw_ifindex = ifindex != self._egw_ifindex, ifindex
        return is_new

    def learn_ranges(self, ranges: ClusterRanges) -> None:
        """Take the cluster's ranges, configured and of its objects."""
        self._ranges = ranges

    def learn_devices(self, devices: Mapping[IPv4Address, int]) -> bool:
        """Take which device each local pod is behind, all of them at once. False where nothing is new."""
        return self._pods.learn_devices(devices)

    def classify(self, *, now_ns: int) -> None:
        """Say anew which devices are believed to be their pods' (W11), and which former addresses are fenced yet."""
        self._pods.classify(now_ns=now_ns)
        self._formerly.note(self.listed(), now_ns=now_ns)

    def select(self) -> None:
        """Take the selections of this node's pods as they are now."""
        self._pods.select()

    def inherit(self, ways: Rows, rule_sets: tuple[RuleSet, ...], exempt: tuple[IPv4Address, ...] = ()) -> None:
        """Go on with what a former agent knew, after `learn_devices`, until gossip and peers have told it again."""
        self._inherited_ways, self._inherited_exempt = dict(ways), exempt
        self._pods.inherit(rule_sets)

    def disinherit(self) -> None:
        """What nobody has told again by now is not so any more."""
        if self._inherited_ways or self._inherited_exempt:
            self._inherited_ways, self._inherited_exempt = {}, ()
        self._pods.disinherit()

    def learn_held(self, held: frozenset[IPv4Address]) -> bool:
        """Take what this node has leased. False where nothing is new."""
        if held == self._held:
            return False
        self._held = held
        return True

    def learn_locations(self, locations: Mapping[IPv4Address, Location]) -> None:
        """Take the words of all holders, as gossip has them; the same object where nothing is new."""
        if locations is not self._heard:
            for location in locations.values():
                self.learn_location(location)
            self._heard = locations

    def learn_location(self, location: Location) -> bool:
        """Take the word of a holder; False where a newer token is known (rule W2)."""
        known = self._locations.get(location.floating_ip)
        if known is not None and known.token >= location.token:
            return False
        self._locations[location.floating_ip] = location
        self._move(location.floating_ip)
        return True

    def _move(self, floating_ip: IPv4Address) -> None:
        self._moved[floating_ip] = None
        self._moves += 1
        self._ways.move(floating_ip)

    def _note_policies(self, delta: PolicyDelta) -> None:
        if delta.policies:
            self._policy_changes += 1

    def take_moved(self) -> dict[IPv4Address, None]:
        """The floating IPs that are somewhere else since the last call, or nowhere any more."""
        moved, self._moved = self._moved, {}
        return moved

    def segments(self) -> dict[str, Sequence[Segment]]:
        """Subnets, addresses and MACs of each agent, by its name."""
        return self._members.segments()

    def cluster_networks(self) -> tuple[IPv4Network, ...]:
        """Every range that is never steered, sorted, each once: in-cluster ones, and those of the own link."""
        exempt = self._exempt()
        return self._derived.networks.of(lambda: tuple(sorted(exempt, key=network_order)), exempt)

    def floating_ips(self) -> tuple[IPv4Address, ...]:
        """What is listed and fenced: no address of an interface, a network or a broadcast, which would be cut off."""
        return self._fit(self._derived.floating_ips, self.listed())

    def fenced(self) -> tuple[IPv4Address, ...]:
        """Those, and what was one of them until a moment ago."""
        return self._fit(self._derived.fenced, self.listed(), self._formerly.addresses)

    def _fit(self, kept: Kept[tuple[IPv4Address, ...]], *known: Iterable[IPv4Address]) -> tuple[IPv4Address, ...]:
        uplinks, addresses, server, faults = self._uplinks, self._addresses, self._server, self._members.faults()

        def fit() -> tuple[IPv4Address, ...]:
            own = {uplink.address.ip for uplink in uplinks} | addresses | {server}
            # By sets, which remember hashes: that of an address takes longer than all else here.
            unfit = set[IPv4Address]().union(*known) & (own | faults.addresses)
            return tuple(ip for ip in chain(*known) if ip not in unfit) if unfit else tuple(chain(*known))

        return kept.of(fit, known, faults, uplinks, addresses, server)

    def own_addresses(self) -> tuple[IPv4Address, ...]:
        """What is listed and an address of an interface here, or the API server's: never ours to hold."""
        known, addresses, server = self.listed(), self._addresses, self._server
        return self._derived.own_addresses.of(
            lambda: tuple(sorted(ip for ip in known if ip in addresses or ip == server)), known, addresses, server
        )

    def listed(self) -> dict[IPv4Address, None]:
        """Addresses of the spec or the leader's table, and what is leased here; another one may be anybody's now."""
        gateway, assignments, held = self._index.gateway(), self._assignments, self._held

        def listed() -> dict[IPv4Address, None]:
            known: dict[IPv4Address, None] = dict.fromkeys(gateway.floating_ips if gateway else ())
            return known | dict.fromkeys(sorted(assignments, key=int)) | dict.fromkeys(sorted(held, key=int))

        return self._derived.listed.of(listed, gateway, assignments, held)

    def used_floating_ips(self) -> tuple[IPv4Address, ...]:
        """Those that local pods are to send from."""
        return self._pods.floating_ips()

    def local_selections(self) -> Mapping[IPv4Address, Selection]:
        """This node's selected pods by address; a live view."""
        return self._pods.selections

    def local_pods(self) -> Mapping[IPv4Address, Pod]:
        """This node's pods by address, selected or not; a live view."""
        return self._pods.pods

    def pods_without_device(self) -> Collection[IPv4Address]:
        """This node's pods of which it is not known behind which device they are; a live view."""
        return self._pods.without_device()

    def named(self) -> Named:
        """Where no pod may send before it is classified (rule W11): what any policy in force names; it is in the
        cluster or not, which netfilter sees."""
        if not self._guards:
            return {}
        self._named.renew(self._index.named.numbers())
        return self._named.value

    def destinations(self) -> Destinations:
        """What the rules of each local pod name: what netfilter may keep marked after DNAT (rule W4). The same object
        until something changes."""
        return self._pods.destinations()

    def destinations_changed(self, since: Destinations) -> Collection[IPv4Address] | None:
        """The pods that are otherwise now than in that former value of `destinations`; None: not known."""
        return self._pods.destinations_changed(since)

    def connection_lives(self) -> ConnectionLives:
        """For how long connection tracking has to remember what is steered (rule B3)."""
        return self._pods.connection_lives()

    def attribution(self) -> Attribution:
        """Which policy each flow goes by (rule B6); the same object until something changes."""
        states, floating_ips = self._index.policy_states(), self.floating_ips()
        return self._derived.attribution.of(
            lambda: Attribution(
                {state.egress_source_ip.packed: key.name for key, state in states.items() if state.accepted},
                policies=[key.name for key in states],
                floating_ips=[floating_ip.packed for floating_ip in floating_ips],
            ),
            self._policy_changes,
            floating_ips,
        )

    def holder_of(self, floating_ip: IPv4Address) -> str | None:
        """Who holds it as far as is known; before anybody did, who is assigned."""
        location = self._locations.get(floating_ip)
        if location is not None:
            return location.node
        assignment = self._assignments.get(floating_ip)
        return assignment.holder if assignment else None

    def successor_of(self, floating_ip: IPv4Address) -> str | None:
        """Who comes next, as the leader has said."""
        assignment = self._assignments.get(floating_ip)
        return assignment.successor if assignment else None

    def names(self) -> dict[int, str]:
        """Of all members, by their numbers in the map `members`."""
        return self._members.names()

    def topology(self) -> Topology:
        """How members are reached, for the blocks that are theirs."""
        return self._members.topology(self._uplinks)

    def probed(self) -> tuple[Pair, ...]:
        """Which members are to be asked whether a segment lets frames of a floating IP pass (rule X1): who holds an
        address that pods of this node use, or comes next. The same object until something changes.

        Of listed addresses only: another may be anybody's by now."""
        used, topology, listed = self.used_floating_ips(), self.topology(), self.listed()
        sources = (topology, listed, self._assignments, self._moves)
        known = self._derived.probed_of.of(dict[IPv4Address, tuple[Pair, ...]], *sources)

        def probed() -> tuple[Pair, ...]:
            # An address that comes into use has no other one asked anew.
            for one in used:
                if one not in known:
                    names = (self.holder_of(one), self.successor_of(one)) if one in listed else ()
                    known[one] = topology.pairs(one, names)
            return tuple(chain.from_iterable(map(known.__getitem__, used)))

        return self._derived.probed.of(probed, used, *sources)

    def learn_proven(self, proven: Proven) -> bool:
        """Take where segments let frames of floating IPs pass (rule X1). False where nothing is new."""
        if proven == self._members.proven:
            return False
        self._members.proven = proven
        return True

    def to_clear(self, maps: MapView) -> tuple[Clearing, ...]:
        """Pods whose connection-tracking entries can go now: the rows that precede it are in the kernel (W10)."""
        return self._pods.to_clear(maps)

    def shortages(self, maps: MapView) -> tuple[Shortage, ...]:
        """What is not in the kernel for want of room, and which pods suffer; as of the last `wish`."""
        return self._pods.shortages(maps)

    def wish(self, maps: MapView) -> Wish:
        """What every driven map shall contain, as far as what it depends on is in the kernel by now (rule I1)."""
        return Wish(self._whole(), self._pods.wish(maps))

    def review_parts(self, maps: MapView) -> tuple[Part, ...]:
        """What `Review` goes through. Each is looked at right after a `wish` that was wished for."""

        def compare(names: Iterable[str]) -> tuple[int, Wishes]:
            return sum(map(self._compare_whole, names)), {}

        return (*self._pods.review_parts(maps), Part("", lambda: WHOLE_MAPS, compare, cost=_WHOLE_COST))

    def _compare_whole(self, name: str) -> bool:
        """Make this map's content anew; True where that was not as was thought."""
        before = self._whole()[name]
        self._derived.forget(name)
        if name == WHOLE_MAPS[0]:
            self._members.forget()
        if name == MapName.WAYS:
            self._ways.forget()
        return self._whole()[name] is not before

    # -- inside --

    def _whole(self) -> dict[str, Rows]:
        kept, node, uplinks, segments = self._derived.rows, self._node, self._uplinks, self.segments()
        fenced, numbers, topology = self.fenced(), self._members.numbers(), self.topology()
        insiders, exempt = self._insiders(), self._exempt()
        makers: dict[str, tuple[Callable[[], Rows], tuple[object, ...]]] = {
            MapName.CLUSTER: (lambda: self._cluster_rows(insiders, exempt), (insiders, exempt)),
            MapName.FLOATING_IPS: (lambda: desired.floating_ip_rows(fenced, uplinks), (fenced, uplinks)),
            MapName.UPLINK_ADDRESSES: (lambda: desired.uplink_address_rows(uplinks), (uplinks,)),
            MapName.MEMBERS: (
                lambda: desired.member_rows(segments, uplinks, numbers, node=node),
                (segments, uplinks, numbers),
            ),
            MapName.TUNNEL_MEMBERS: (lambda: tunnel_member_rows(topology), (topology,)),
        }
        rows = {name: kept[name].of(make, *sources) for name, (make, sources) in makers.items()}
        return rows | {MapName.WAYS: self._way_rows(topology)}

    def _way_rows(self, topology: Topology) -> Rows:
        """A floating IP that is no longer in the spec has no holder: its packets are dropped on the pod's node and not
        sent, from the pod's address, to whoever held it last (rule L1)."""
        gateway = self._index.gateway()
        listed = self._derived.in_spec.of(lambda: frozenset(gateway.floating_ips if gateway else ()), gateway)

        def make(locations: Mapping[IPv4Address, Location]) -> Rows:
            known = {floating_ip: location for floating_ip, location in locations.items() if floating_ip in listed}
            return way_rows(known, topology)

        return self._ways.renew(make, self._locations, self._inherited_ways, listed, topology)

    def _cluster_rows(self, insiders: Insiders, exempt: Exemptions) -> Rows:
        # What an address of a service is translated to may be outside: which one it is, is only known after that (W4).
        services = (*insiders.ranges.services, *insiders.servers)
        return desired.cluster_rows(insiders.ranges.pods, services, exempt)

    def _exempt(self) -> Exemptions:
        insiders = self._insiders()
        return self._derived.exempt.of(insiders.exemptions, insiders)

    def _insiders(self) -> Insiders:
        """What is never steered follows from this (rule W12)."""
        listed, segments, uplinks, ranges = self.listed(), self.segments(), self._uplinks, self._ranges
        server, inherited = self._server, self._inherited_exempt

        def insiders() -> Insiders:
            nodes = [*self._peers, *(uplink.address.ip for uplink in uplinks)]
            nodes += [segment.address for theirs in segments.values() for segment in theirs]
            return Insiders(ranges, tuple(nodes), tuple(listed), server, inherited)

        return self._derived.insiders.of(insiders, listed, segments, uplinks, ranges, server, inherited)
