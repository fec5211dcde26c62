"""The other agents: told of this node's pods, and heard of theirs, over the state channel (rules W2, G5)."""

from collections.abc import Callable
from ipaddress import IPv4Address

from service.datapath.reconciler import Reconciler
from service.endpoint.sync import Acknowledged, EndpointAnnounced, EndpointSync, EndpointWithdrawn, LocationHeard
from service.model.assignment import Location
from service.model.gateway_node import NodeState
from service.model.machine import Address
from service.settings import Settings
from service.wire.cluster_view import ClusterView
from service.wire.envelope import Envelope
from service.wire.pump import MachinePump
from service.wire.sealed_socket import SealedSocket


class Neighbours:
    """Owns the endpoint machine, its socket and its pump. The socket is opened, and the pump run, by the caller.

    A pod of another node is served in three steps: announced; resolvable, once its policies are known here; confirmed
    to its node, once its rows are in the kernel. Only then may its node steer it here (G5).
    """

    def __init__(
        self,
        settings: Settings,
        cluster: ClusterView,
        reconciler: Reconciler,
        *,
        start_id: int,
        clock: Callable[[], int],
        changed: Callable[[], None],
    ) -> None:
        """`start_id` tells this start of the agent from every other: peers forget what an earlier one said."""
        self._settings = settings
        self._cluster = cluster
        self._reconciler = reconciler
        self._clock = clock
        self._changed = changed
        self._sync = EndpointSync(node=settings.node, start_id=start_id, now_ns=clock())
        envelope = Envelope(
            settings.keys, cluster=settings.cluster, node=settings.node, start_id=start_id, purpose="state"
        )
        self.socket = SealedSocket(
            Address(settings.bind_address, settings.ports.state),
            envelope,
            bind_receiver=True,
            on_datagram=lambda source, payload: self.pump.on_datagram(source, payload),
        )
        self.pump = MachinePump(self._sync, clock=clock, send=self.socket.send, handle=self._handle)
        self._unresolved: dict[tuple[str, IPv4Address], EndpointAnnounced] = {}
        """Announced endpoints whose policies are not known here yet: acknowledged when they are."""
        self._unconfirmed: dict[tuple[str, IPv4Address], EndpointAnnounced] = {}
        """Taken in, and not yet known to be in the kernel."""
        self._known: set[str] = set()
        """Peers that the machine was told of."""

    def up(self) -> tuple[str, ...]:
        """Every other agent that is not known to be dead."""
        own = self._settings.node
        nodes = self._cluster.gateway_nodes()
        return tuple(node.name for node in nodes if node.name != own and node.state is NodeState.UP)

    def is_up(self, name: str) -> bool:
        """Whether that is another agent which is not known to be dead."""
        return name in self.up()

    def acknowledged(self, pod_ip: IPv4Address) -> tuple[str, ...]:
        """Which nodes have said that the pod's present rows are in their kernels."""
        return self._sync.acknowledged(pod_ip)

    def locate(self, location: Location) -> None:
        """Tell all of them directly that an address is here now: one of three ways they learn it (W2)."""
        self._sync.locate(location, self.up(), now_ns=self._clock())
        self.pump.wake()

    def tell(self, *, now_ns: int) -> None:
        """Bring what they are told in step with who is there, and which pods are selected here."""
        present = {node.name for node in self._reconciler.nodes}
        for name in sorted(present | self._known):
            address = self._cluster.address_of(name, self._settings.ports.state) if name in present else None
            self._sync.set_peer(name, address, now_ns=now_ns)
        self._known = present
        endpoints, targets = self._reconciler.announced_endpoints()
        self._sync.announce(targets, endpoints, now_ns=now_ns)
        self.pump.wake()

    def resolve(self) -> bool:
        """Take announced endpoints whose policies are known by now; True where any waits for `confirm`.

        Also one of an earlier turn that failed: its node sends no more what we have, and must not wait for ever.
        """
        for key, said in list(self._unresolved.items()):
            if self._reconciler.is_resolvable(said.endpoint):
                self._unconfirmed[key] = self._unresolved.pop(key)
                self._reconciler.learn_endpoint(said.endpoint)
        return bool(self._unconfirmed)

    def confirm(self) -> None:
        """All that was taken in is in the kernel of this node: its nodes may steer it here (G5)."""
        now_ns = self._clock()
        for said in self._unconfirmed.values():
            self._sync.confirm(said.endpoint.node, said.endpoint.pod_ip, said.revision, now_ns=now_ns)
        self._unconfirmed.clear()
        self.pump.wake()

    def _handle(self, output: object) -> None:
        if isinstance(output, EndpointAnnounced):
            self._unresolved[output.endpoint.node, output.endpoint.pod_ip] = output
        elif isinstance(output, EndpointWithdrawn):
            self._unresolved.pop((output.node, output.pod_ip), None)
            self._unconfirmed.pop((output.node, output.pod_ip), None)
            self._reconciler.forget_endpoint(output.node, output.pod_ip)
        elif isinstance(output, LocationHeard):
            self._reconciler.learn_location(output.location)
        elif not isinstance(output, Acknowledged):
            raise TypeError(f"unknown output {output!r}")
        self._changed()
