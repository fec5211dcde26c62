"""The socket by which electors and holders speak to each other."""

from collections.abc import Callable

from service.model.machine import Address, Source
from service.settings import Settings
from service.wire.envelope import Envelope
from service.wire.sealed_socket import SealedSocket


def lease_socket(
    settings: Settings, *, start_id: int, on_datagram: Callable[[Source, bytes], None], clock: Callable[[], int]
) -> SealedSocket:
    """Not opened yet. Every datagram is bound to the process that it is for. Raises OperatorError for unusable keys."""
    envelope = Envelope(settings.keys, cluster=settings.cluster, node=settings.node, start_id=start_id, purpose="lease")
    bind = Address(settings.bind_address, settings.ports.lease)
    return SealedSocket(bind, envelope, bind_receiver=True, on_datagram=on_datagram, clock=clock)
