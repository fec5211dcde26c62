"""One elector on loopback: the machine of the keepers, without disk, and without timers of its own."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Self

from service.host import identity
from service.host.clock import boot_ns
from service.lease.elector import ElectorMachine
from service.lease.elector_output import Remember
from service.lease.holder import boot_id_bytes
from service.lease.promise import Instant, encode_promises
from service.model.lease import Elector, Electorate, ProfileName
from service.model.machine import Address, Send, Source
from service.settings import (
    ElectorateSettings,
    ElectorSettings,
    GossipSettings,
    HttpSettings,
    LeaseSettings,
    PortSettings,
    Settings,
)
from service.wire.envelope import Envelope
from service.wire.sealed_socket import SealedSocket

HOST = "127.0.0.1"
ELECTOR = Elector("elector", HOST)
_LONGEST_NS = 15_000_000_000


def free_port(kind: socket.SocketKind = socket.SOCK_DGRAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def settings_of(folder: Path, name: str = "controller-a", *, lease_port: int = 0) -> Settings:
    """A controller of a site whose one elector is at `lease_port`; its leases are long."""
    (folder / "manifests").mkdir(exist_ok=True)
    return Settings(
        node=name,
        bind_address=HOST,
        keyring=("11" * 32,),
        source=f"manifests:{folder / 'manifests'}",
        state_dir=str(folder / name),
        ports=PortSettings(
            controller_gossip=free_port(), http=free_port(socket.SOCK_STREAM), lease=lease_port or free_port()
        ),
        gossip=GossipSettings(),
        http=HttpSettings(HOST),
        electors=ElectorateSettings(members=(ElectorSettings(name=ELECTOR.name, address=HOST),)),
        lease=LeaseSettings(profile=ProfileName.RELAXED),
    )


class LoopbackElector:
    """Answers between enter and exit."""

    def __init__(self, settings: Settings, *, epoch: int = 1, clock: Callable[[], int] = boot_ns) -> None:
        self._clock = clock
        start_id = identity.start_id()
        envelope = Envelope(
            settings.keys(), cluster=settings.cluster, node=ELECTOR.name, start_id=start_id, purpose="lease"
        )
        bind = Address(HOST, settings.ports.lease)
        boot_id = boot_id_bytes(identity.boot_id())
        self.socket = SealedSocket(bind, envelope, bind_receiver=True, on_datagram=self._take)
        self.machine = ElectorMachine(
            node=ELECTOR.name,
            boot_id=boot_id,
            electorate=Electorate(epoch, (ELECTOR,)),
            lease_ns_max=_LONGEST_NS,
            promises=encode_promises(boot_id, _LONGEST_NS, {}),
            tokens=None,
            now=self._now(),
        )

    async def __aenter__(self) -> Self:
        await self.socket.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.socket.__aexit__(None, None, None)

    def _take(self, source: Source, payload: bytes) -> None:
        self.machine.receive(source, payload, now=self._now())
        while outputs := self.machine.drain():
            for output in outputs:
                if isinstance(output, Send):
                    self.socket.send(output.to, output.payload)
                elif isinstance(output, Remember):
                    self.machine.confirm_durable(output.number)

    def _now(self) -> Instant:
        return Instant(self._clock(), self._clock())
