"""The other agents: told where floating IPs are, and heard of it, over the state channel (rule W2)."""

from collections.abc import Callable, Mapping

from service.datapath.reconciler import Reconciler
from service.location.sync import LocationHeard, LocationSync
from service.model.assignment import Location
from service.model.gateway_node import GatewayNode, NodeState
from service.model.machine import Address, Source
from service.settings import Settings
from service.wire.cluster_view import ClusterView
from service.wire.envelope import Envelope
from service.wire.pump import MachinePump
from service.wire.sealed_socket import SealedSocket


class Neighbours:
    """Owns the machine, its socket and its pump. The socket is opened, and the pump run, by the caller."""

    def __init__(
        self,
        settings: Settings,
        cluster: ClusterView,
        reconciler: Reconciler,
        *,
        start_id: int,
        clock: Callable[[], int],
        changed: Callable[[], None],
        others: Callable[[Source, bytes], bool],
    ) -> None:
        """`start_id` tells this start of the agent from every other: peers forget what an earlier one said.

        `others` gets each datagram first, and says whether it has taken it.
        """
        self._settings = settings
        self._cluster = cluster
        self._reconciler = reconciler
        self._clock = clock
        self._changed = changed
        self._others = others
        self._sync = LocationSync(settings.node, start_id, now_ns=clock())
        envelope = Envelope(
            settings.keys, cluster=settings.cluster, node=settings.node, start_id=start_id, purpose="state"
        )
        self.socket = SealedSocket(
            Address(settings.bind_address, settings.ports.state),
            envelope,
            bind_receiver=True,
            on_datagram=self._take,
        )
        self.pump = MachinePump(self._sync, clock=clock, send=self.socket.send, handle=self._handle)
        self._known: set[str] = set()
        """Peers that the machine was told of."""
        self._told: tuple[tuple[GatewayNode, ...], Mapping[str, Address]] | None = None
        """By which members, and which of their addresses."""

    def up(self) -> tuple[str, ...]:
        """Every other agent that is not known to be dead."""
        own = self._settings.node
        nodes = self._cluster.gateway_nodes()
        return tuple(node.name for node in nodes if node.name != own and node.state is NodeState.UP)

    def is_up(self, name: str) -> bool:
        """Whether that is another agent which is not known to be dead."""
        return name in self.up()

    def locate(self, location: Location) -> None:
        """Tell all of them directly that an address is here now: one of three ways they learn it (W2)."""
        self._sync.locate(location, self.up(), now_ns=self._clock())
        self.pump.wake()

    def tell(self, *, now_ns: int) -> None:
        """Bring who is told in step with who is there."""
        nodes, addresses = self._reconciler.nodes, self._cluster.sockets(self._settings.ports.state)
        if self._told is not None and nodes is self._told[0] and addresses is self._told[1]:
            return
        present = {node.name for node in nodes}
        for name in sorted(present | self._known):
            self._sync.set_peer(name, addresses.get(name) if name in present else None, now_ns=now_ns)
        self._known, self._told = present, (nodes, addresses)
        self.pump.wake()

    def _take(self, source: Source, payload: bytes) -> None:
        if not self._others(source, payload):
            self.pump.on_datagram(source, payload)

    def _handle(self, output: object) -> None:
        if not isinstance(output, LocationHeard):
            raise TypeError(f"unknown output {output!r}")
        self._reconciler.learn_location(output.location)
        self._changed()
