"""From what is known to what the maps of this node shall contain. Holds the knowledge, decides nothing about leases."""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network

from service.datapath import desired, layout
from service.datapath.admission import Admission, MapView
from service.datapath.attribution import Attribution
from service.datapath.classification import Classification
from service.datapath.desired import LocalUplink, Rows
from service.datapath.layout import MapName, SelectedState
from service.datapath.shortage import Shortage, shortages
from service.datapath.steering import Clearing, Phase, Steering
from service.datapath.topology import Topology, tunnel_member_rows, way_rows
from service.gateway.exemption import ExemptionMemo, Insiders
from service.gateway.transport import Pair
from service.gateway.validation import address_fault
from service.model.assignment import Assignment, Location
from service.model.cluster_range import ClusterRanges
from service.model.gateway_node import GatewayNode, Segment
from service.model.objects import Pod
from service.network.connection_life import ConnectionLives
from service.network.destinations import Destinations
from service.network.unclassified import Named, named_sets
from service.policy.index import PolicyIndex
from service.policy.rule_set import RuleSet, Selection
from service.settings import Settings
from service.wire.cluster_view import parse_seeds


class Reconciler:
    """State of one agent's view; `rows` is a pure function of it. `learn_...` methods are the only way in."""

    def __init__(self, settings: Settings, index: PolicyIndex) -> None:
        self._node = settings.node
        self._index = index
        """The objects; whoever reads the source feeds it."""
        self.steering = Steering()
        self._admission = Admission()
        self._classification = Classification()
        self._guards = settings.datapath.unclassified == "drop"
        self._named: tuple[tuple[IPv4Network, ...], Named] = ((), {})
        """What policies named last, as it is and cut into sets."""
        self._uplinks: tuple[LocalUplink, ...] = ()
        self._addresses: frozenset[IPv4Address] = frozenset()
        """Of all interfaces of this node."""
        self._server: IPv4Address | None = None
        self._egw_ifindex = 0
        self._nodes: tuple[GatewayNode, ...] = ()
        self._segments: dict[str, Sequence[Segment]] = {}
        self._numbers: dict[str, int] = {}
        self._assignments: Mapping[IPv4Address, Assignment] = {}
        self._locations: dict[IPv4Address, Location] = {}
        self._held: frozenset[IPv4Address] = frozenset()
        self._devices: dict[IPv4Address, int] = {}
        self._inherited_ways: Rows = {}
        self._inherited_rule_sets: tuple[RuleSet, ...] = ()
        self._inherited_exempt: tuple[IPv4Address, ...] = ()
        self._ranges = settings.datapath.ranges
        """The cluster's own ranges; they may change at any time."""
        self._peers = _configured_peers(settings)
        self._exempt = ExemptionMemo()
        self._limits = desired.node_limits(settings.datapath)
        self._transport = settings.datapath.transport
        self._proven: frozenset[Pair] = frozenset()

    # -- what is known --

    @property
    def uplinks(self) -> tuple[LocalUplink, ...]:
        """This node's uplinks, those without carrier too."""
        return self._uplinks

    @property
    def nodes(self) -> tuple[GatewayNode, ...]:
        """All agents that have not left, this node among them."""
        return self._nodes

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
        return self._devices

    @property
    def ranges(self) -> ClusterRanges:
        """The cluster's own ranges."""
        return self._ranges

    @property
    def has_former_members(self) -> bool:
        """A member of a release before NAT on the pod's node is there, whose steered frames have a pod's address."""
        return any(not node.translates for node in self._nodes)

    def is_guarded(self, address: IPv4Address) -> bool:
        """Netfilter asks of this address whether it is classified (rule W11)."""
        return self._guards and any(address in network for network in self._ranges.pods)

    # -- what is learned --

    def learn_members(self, nodes: tuple[GatewayNode, ...], assignments: Mapping[IPv4Address, Assignment]) -> None:
        """Take what gossip says of the agents, and the leader's table. Locations that nobody asks for any more go."""
        self._nodes, self._assignments = nodes, assignments
        listed = self._listed()
        self._locations = {ip: location for ip, location in self._locations.items() if ip in listed}
        self._segments = {node.name: node.segments for node in nodes}
        self._numbers = desired.member_numbers(self._segments)

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
        if devices == self._devices:
            return False
        self._devices = dict(devices)
        return True

    def classify(self, *, now_ns: int) -> None:
        """Say anew which devices are believed to be their pods', of pods and devices as they are known now (W11)."""
        self._classification.learn(self.local_pods().values(), self._devices, now_ns=now_ns)

    def inherit(self, ways: Rows, rule_sets: tuple[RuleSet, ...], exempt: tuple[IPv4Address, ...] = ()) -> None:
        """Go on with what a former agent knew, after `learn_devices`, until gossip and peers have told it again."""
        self._classification.inherit(self._devices)
        self._inherited_rule_sets = rule_sets
        self._inherited_ways, self._inherited_exempt = dict(ways), exempt

    def disinherit(self) -> None:
        """What nobody has told again by now is not so any more."""
        self._inherited_rule_sets = ()
        self._inherited_ways, self._inherited_exempt = {}, ()

    def learn_held(self, held: frozenset[IPv4Address]) -> bool:
        """Take what this node has leased. False where nothing is new."""
        if held == self._held:
            return False
        self._held = held
        return True

    def learn_location(self, location: Location) -> bool:
        """Take the word of a holder; False where a newer token is known (rule W2)."""
        known = self._locations.get(location.floating_ip)
        if known is not None and known.token >= location.token:
            return False
        self._locations[location.floating_ip] = location
        return True

    def segments(self) -> dict[str, Sequence[Segment]]:
        """Subnets, addresses and MACs of each agent, by its name."""
        return self._segments

    def cluster_networks(self) -> tuple[IPv4Network, ...]:
        """Every range that is never steered, sorted, each once: in-cluster ones, and those of the own link."""
        return tuple(sorted(self._exempt.of(self._insiders())))

    def floating_ips(self) -> tuple[IPv4Address, ...]:
        """Every floating IP of the spec or the leader's table, and what is still leased here: the fence knows them all.

        No others: an address that was a floating IP once may be anybody's now, also this host's. But never an address
        of a node's interface, nor a network's or a broadcast address: the fence would cut off whoever has it.
        """
        known = self._listed()
        own = {uplink.address.ip for uplink in self._uplinks} | self._addresses | {self._server}
        return tuple(ip for ip in known if ip not in own and address_fault(ip, self._nodes) is None)

    def own_addresses(self) -> tuple[IPv4Address, ...]:
        """What is a floating IP to others and an address of an interface here, or the API server's: never ours to
        hold."""
        return tuple(sorted(ip for ip in self._listed() if ip in self._addresses or ip == self._server))

    def _listed(self) -> dict[IPv4Address, None]:
        gateway = self._index.gateway()
        known: dict[IPv4Address, None] = dict.fromkeys(gateway.floating_ips if gateway else ())
        known |= dict.fromkeys(sorted(self._assignments))
        known |= dict.fromkeys(sorted(self._held))
        return known

    def local_selections(self) -> dict[IPv4Address, Selection]:
        """This node's selected pods by address."""
        return {
            selection.pod.ip: selection
            for selection in self._index.selections().values()
            if selection.pod.node == self._node and selection.pod.ip is not None
        }

    def local_pods(self) -> dict[IPv4Address, Pod]:
        """This node's pods by address, selected or not."""
        return {pod.ip: pod for pod in self._index.pods_on(self._node) if pod.ip is not None}

    def named(self) -> Named:
        """Where no pod may send before it is classified (rule W11): what any policy in force names; it is in the
        cluster or not, which netfilter sees."""
        if not self._guards:
            return {}
        networks = self._index.named.networks()
        if networks is not self._named[0]:
            self._named = networks, named_sets(networks)
        return self._named[1]

    def destinations(self) -> Destinations:
        """What the rules of each local pod name: what netfilter may keep marked after DNAT (rule W4)."""
        selections = self.local_selections()
        rule_sets = {selection.rule_set.id: selection.rule_set for selection in selections.values()}
        return Destinations(
            {pod_ip: selection.rule_set.id for pod_ip, selection in selections.items()},
            {name: rule_set.steered for name, rule_set in rule_sets.items()},
        )

    def connection_lives(self) -> ConnectionLives:
        """For how long connection tracking has to remember what is steered (rule B3)."""
        sets = {selection.rule_set.id: selection.rule_set for selection in self.local_selections().values()}
        said = {rule_set.timeouts for rule_set in sets.values()}
        return ConnectionLives.longest([self._limits.timeouts, *(own.over(self._limits.timeouts) for own in said)])

    def attribution(self) -> Attribution:
        """Which policy each flow goes by (rule B6)."""
        states = self._index.policy_states()
        return Attribution(
            {state.egress_source_ip.packed: key.name for key, state in states.items() if state.accepted},
            policies=[key.name for key in states],
            floating_ips=[floating_ip.packed for floating_ip in self.floating_ips()],
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

    def topology(self) -> Topology:
        """How members are reached, for the blocks that are theirs."""
        return Topology(
            self._node,
            self._uplinks,
            self._segments,
            self._numbers,
            {node.name: node.address for node in self._nodes if node.tunnels and node.address is not None},
            self._transport,
            self._proven,
        )

    def probed(self) -> tuple[Pair, ...]:
        """Which members are to be asked whether a segment lets frames of a floating IP pass (rule X1): who holds an
        address that pods of this node use, or comes next."""
        rule_sets = {selection.rule_set.id: selection.rule_set for selection in self.local_selections().values()}
        used = {floating_ip for rule_set in rule_sets.values() for _, floating_ip in rule_set.entries if floating_ip}
        topology = self.topology()
        return tuple(
            (name, floating_ip)
            for floating_ip in sorted(used)
            for name in dict.fromkeys((self.holder_of(floating_ip), self.successor_of(floating_ip)))
            if name not in (None, self._node) and topology.shared(name, floating_ip) is not None
        )

    def learn_proven(self, proven: frozenset[Pair]) -> bool:
        """Take where segments let frames of floating IPs pass (rule X1). False where nothing is new."""
        is_new, self._proven = proven != self._proven, proven
        return is_new

    def to_clear(self, maps: MapView) -> tuple[Clearing, ...]:
        """Pods whose connection-tracking entries can go now, because the rows that precede it are in the kernel (W10).

        Each for itself: a pod for whose rows there is no room holds up no other.
        """
        devices = self._believed_devices()
        return tuple(clearing for clearing in self.steering.to_clear() if self._is_preceded(clearing, devices, maps))

    def _is_preceded(self, clearing: Clearing, devices: Mapping[IPv4Address, int], maps: MapView) -> bool:
        whole = self._admission.whole
        rows = self.steering.rows_of(clearing.pod_ip, devices, whole)
        if clearing.phase is not Phase.LEAVING:
            return clearing.rule_set in whole and maps.contains(MapName.SELECTED, rows)
        # Of a pod that has no row nothing is steered: it need not get one in order to leave.
        return all(
            maps.contains(MapName.SELECTED, {key: value}) or not maps.has(MapName.SELECTED, key)
            for key, value in rows.items()
        )

    def shortages(self, maps: MapView) -> tuple[Shortage, ...]:
        """What is not in the kernel for want of room, and which pods suffer; as of the last `rows`."""
        served = self.steering.rule_sets()
        unfit = {rule_set.id: rule_set for _, rule_set in served if rule_set.id in self._admission.unfit}
        return shortages(maps.waiting(), unfit, self._admission.unfit_pods, served)

    def rows(self, maps: MapView) -> dict[str, Rows]:
        """The full content of every driven map, as far as what it depends on is in the kernel by now (rule C1)."""
        segments, topology = self.segments(), self.topology()
        rules = self._admission.admit(self._wanted_rule_sets(), maps)
        self.steering.switch(self._admission.whole)
        return {
            MapName.CLUSTER: self._cluster_rows(),
            MapName.FLOATING_IPS: desired.floating_ip_rows(self.floating_ips(), self._uplinks),
            MapName.UPLINK_ADDRESSES: desired.uplink_address_rows(self._uplinks),
            MapName.MEMBERS: desired.member_rows(segments, self._uplinks, node=self._node),
            MapName.TUNNEL_MEMBERS: tunnel_member_rows(topology),
            MapName.WAYS: self._inherited_ways | way_rows(self._listed_locations(), topology),
            # Before what names them.
            MapName.LIMITS: desired.limit_rows(self._admission.sets(), self._limits),
            MapName.RULES: rules,
            MapName.SELECTED: self._selected_rows(maps),
        }

    def _selected_rows(self, maps: MapView) -> Rows:
        devices, in_force = self._believed_devices(), self.steering.phases()
        rows = Rows()
        for pod_ip in self._admission.admit_pods(in_force, maps):
            rows |= self.steering.rows_of(pod_ip, devices, self._admission.whole)
        # Pods that are left alone come last: of them only as many as there is room for.
        concerned = self.local_selections() | in_force
        others = [pod_ip for pod_ip in self.local_pods() if pod_ip in devices and pod_ip not in concerned]
        for pod_ip in others[: max(0, maps.room(MapName.SELECTED) - len(rows))]:
            rows[layout.selected_key(pod_ip, devices[pod_ip])] = layout.selected_value(0, SelectedState.NOT)
        return rows

    def _believed_devices(self) -> dict[IPv4Address, int]:
        doubted = self._classification.doubted
        return {pod_ip: device for pod_ip, device in self._devices.items() if pod_ip not in doubted}

    def _wanted_rule_sets(self) -> dict[int, RuleSet]:
        inherited = {rule_set.id: rule_set for rule_set in self._inherited_rule_sets}
        return inherited | {rule_set.id: rule_set for _, rule_set in self.steering.rule_sets()}

    def _listed_locations(self) -> dict[IPv4Address, Location]:
        """A floating IP that is no longer in the spec has no holder: its packets are dropped on the pod's node and not
        sent, from the pod's address, to whoever held it last (rule L1)."""
        gateway = self._index.gateway()
        listed = gateway.floating_ips if gateway else ()
        return {floating_ip: location for floating_ip, location in self._locations.items() if floating_ip in listed}

    def _cluster_rows(self) -> Rows:
        insiders = self._insiders()
        # What an address of a service is translated to may be outside: which one it is, is only known after that (W4).
        services = (*self._ranges.services, *insiders.servers)
        return desired.cluster_rows(self._ranges.pods, services, self._exempt.of(insiders))

    def _insiders(self) -> Insiders:
        """What is never steered follows from this (rule W12)."""
        nodes = [*self._peers, *(uplink.address.ip for uplink in self._uplinks)]
        nodes += [segment.address for segments in self._segments.values() for segment in segments]
        return Insiders(self._ranges, tuple(nodes), tuple(self._listed()), self._server, self._inherited_exempt)


def _configured_peers(settings: Settings) -> tuple[IPv4Address, ...]:
    """Nodes that are known before gossip has told of any: flows to them must not begin as flows to the outside."""
    seeds = parse_seeds(settings.gossip.seeds, settings.ports.gossip)
    hosts = [seed.host for seed in seeds] + [elector.host for elector in settings.electorate.members]
    return tuple(map(IPv4Address, hosts))
