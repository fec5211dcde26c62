"""What a controller has to do with electors: it claims leadership, asks who holds what, and keeps the electorate.

A controller is a client (leases.md, K2): never an elector, and forgotten when it leaves. Three machines, each on a
socket of its own; all of them go by the one electorate that the office knows.
"""

import random
from collections.abc import Callable

from service.electorate.book import ElectorateBook
from service.electorate.office import ElectorateOffice
from service.host import identity
from service.lease.holder import DesiredClaim, Holder
from service.lease.message import MessageKind, kind_of
from service.lease.observer import Observer
from service.model.lease import LEADER_KEY, Electorate, Stamp
from service.model.machine import Address, Source
from service.settings import Settings
from service.wire.cluster_view import ClusterView
from service.wire.envelope import Envelope
from service.wire.pump import MachinePump
from service.wire.sealed_socket import SealedSocket

OBSERVE_NS = 100_000_000
"""How often electors are asked who holds what; each answer may bring a turn."""
_SILENT_NS = 2_000_000_000
"""An elector that has not answered for so long is told of."""


class ElectorClient:
    """`handle` gets OpenFence and CloseFence of the key `leader`, and Observed, each in its order.

    `is_leading`: only the leader changes the electorate. `clock` is CLOCK_BOOTTIME in nanoseconds.
    """

    def __init__(
        self,
        settings: Settings,
        cluster: ClusterView,
        *,
        handle: Callable[[object], None],
        is_leading: Callable[[], bool],
        clock: Callable[[], int],
    ) -> None:
        self._clock = clock
        self._sockets = holder_socket, observer_socket, office_socket = tuple(_LeaseSocket(settings) for _ in range(3))
        self.office = ElectorateOffice(
            settings, cluster, office_socket.sealed, adopted=self._adopt, is_leading=is_leading, clock=clock
        )
        self._holder = Holder(
            node=settings.node,
            boot_id=identity.boot_id(),
            start_id=holder_socket.start_id,
            electorate=settings.electorate,
            profile=settings.lease_profile,
            lease_port=settings.ports.lease,
            random=random.Random(holder_socket.start_id),
            now_ns=clock(),
        )
        self._observer = Observer(
            electorate=settings.electorate,
            lease_port=settings.ports.lease,
            interval_ns=OBSERVE_NS,
            now_ns=clock(),
        )
        self.holder_pump = MachinePump(self._holder, clock=clock, send=holder_socket.sealed.send, handle=handle)
        self.observer_pump = MachinePump(self._observer, clock=clock, send=observer_socket.sealed.send, handle=handle)
        pumps = self.holder_pump, self.observer_pump, self.office.pump
        for socket, pump in zip(self._sockets, pumps, strict=True):
            socket.connect(pump, self.office.book)
        self.refusals = tuple(socket.sealed.refusals for socket in self._sockets)

    @property
    def sockets(self) -> tuple[SealedSocket, ...]:
        """To be open for as long as this is used."""
        return tuple(socket.sealed for socket in self._sockets)

    def silent_s(self) -> dict[str, float]:
        """Electors that are not seen to vote, with the seconds since each last was."""
        now_ns = self._clock()
        silent = self._observer.silent_since(now_ns - _SILENT_NS)
        return {name: (now_ns - since_ns) / 1e9 for name, since_ns in silent.items()}

    def claim_leadership(self) -> None:
        """Compete for the lease `leader` from now on."""
        self._holder.set_claims({LEADER_KEY: DesiredClaim("holder", Stamp(0, 0))}, now_ns=self._clock())
        self.holder_pump.wake()

    def step_down(self) -> None:
        """Give leadership up at once, so that the next one need not wait for the lease to end."""
        self._holder.set_claims({}, now_ns=self._clock())
        self.holder_pump.wake()

    def _adopt(self, electorate: Electorate) -> None:
        now_ns = self._clock()
        self._holder.set_electorate(electorate, now_ns=now_ns)
        self._observer.set_electorate(electorate, now_ns=now_ns)
        self.holder_pump.wake()
        self.observer_pump.wake()


class _LeaseSocket:
    """The socket of one machine. Two senders under one start id would count nonces apart, so each has its own."""

    def __init__(self, settings: Settings) -> None:
        self.start_id = identity.start_id()
        self._pump: MachinePump | None = None
        self._book: ElectorateBook | None = None
        envelope = Envelope(
            settings.keys, cluster=settings.cluster, node=settings.node, start_id=self.start_id, purpose="lease"
        )
        bind = Address(settings.bind_address, 0)
        self.sealed = SealedSocket(bind, envelope, bind_receiver=True, on_datagram=self._take)

    def connect(self, pump: MachinePump, book: ElectorateBook) -> None:
        """Say who takes what comes, before the socket is opened."""
        self._pump, self._book = pump, book

    def _take(self, source: Source, payload: bytes) -> None:
        assert self._pump is not None
        assert self._book is not None
        # Keepers tell the electorate to whoever asks in an older epoch, whichever machine it was that asked.
        if kind_of(payload) is MessageKind.ELECTORATE:
            self._book.receive(source, payload, send=self.sealed.send)
        else:
            self._pump.on_datagram(source, payload)
