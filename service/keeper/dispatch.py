"""Which machine a datagram is for: five of them share the keeper's socket, and this node may write to itself.

The kind decides, and nothing else: each machine refuses what is not of its epoch or not from an elector. The epoch is
heard first, whatever the kind: who is answered in an epoch that is known here goes over to it before it answers.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from service.lease.message import MessageKind, epoch_of, kind_of
from service.model.errors import PeerError
from service.model.lease import Electorate
from service.model.machine import Address, Source
from service.settings import Settings

Receiver = Callable[[Source, bytes], None]


@dataclass(frozen=True, slots=True)
class Lines:
    """Where datagrams go, and who hears of epochs."""

    transmit: Callable[[Address, bytes], None]
    """To other nodes."""
    hear_epoch: Callable[[int], None]
    """Gets the epoch of each datagram, before the datagram is handed on."""
    routes: Mapping[MessageKind, Receiver]
    questions: Receiver
    """The elector's: every kind that is in no route."""


class Dispatch:
    """Takes and sends every datagram of the keeper. `connect` it first; used before, it raises AttributeError."""

    _lines: Lines
    _own: Address
    """Of this node, by `_own_known`."""
    _own_known: Electorate | None

    def __init__(self, settings: Settings, *, start_id: int, known: Callable[[], Electorate]) -> None:
        """`known`: the electorate of this moment, which says what address this node has as an elector."""
        self._node = settings.node
        self._bind = Address(settings.bind_address, settings.ports.lease)
        self._start_id = start_id
        self._known = known
        self._own, self._own_known = self._bind, None

    def connect(self, lines: Lines) -> None:
        """The one step after construction.

        Every machine sends by this object and receives by it, so neither side can be made after the other.
        """
        self._lines = lines

    def take(self, source: Source, payload: bytes) -> None:
        """Hand on one authentic datagram. Raises PeerError where it is of no kind; nothing has changed then.

        The pumps read the clock after this (T1).
        """
        kind = kind_of(payload)
        self._lines.hear_epoch(epoch_of(payload))
        self._lines.routes.get(kind, self._lines.questions)(source, payload)

    def send(self, to: Address, payload: bytes) -> None:
        """Send one datagram; to this node itself by the loop and not by the network."""
        if to == self._own_address():
            # Its own vote: not from within the machine that asks.
            asyncio.get_running_loop().call_soon(self._take_own, payload)
        else:
            self._lines.transmit(to, payload)

    def _take_own(self, payload: bytes) -> None:
        with suppress(PeerError):
            self.take(Source(self._own_address(), self._node, self._start_id), payload)

    def _own_address(self) -> Address:
        known = self._known()
        if known is not self._own_known:
            # An elector's address is the electorate's word; the bind address may be the wildcard.
            own = next((one for one in known.contacts if one.name == self._node), None)
            self._own_known, self._own = known, Address(own.host, self._bind.port) if own else self._bind
        return self._own
