"""Asks the segment whether somebody else has an address before it is used for the first time (RFC 5227, section 2.1).

A floating IP that the operator mistyped may be a printer's or the default gateway's. Whoever answers keeps it: the node
does not claim the address, says so, and asks again every ten seconds.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import IPv4Address
from typing import NamedTuple

from service.model.errors import TransientError
from service.network import arp

_log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 0.2
RETRY_S = 10.0
ASKED_AT_ONCE = 128
_AFTER_FAILURE_S = 1.0


class ProbePoint(NamedTuple):
    """Where to ask."""

    ifname: str
    mac: bytes


Probe = Callable[[ProbePoint, IPv4Address], Awaitable[bytes | None]]


async def _probe_by_arp(point: ProbePoint, address: IPv4Address) -> bytes | None:
    return await arp.probe(point.ifname, point.mac, address, timeout=PROBE_TIMEOUT_S)


class ConflictWatch:
    """`want` the addresses in question, `run` in a TaskGroup; `changed` is called whenever an answer changes."""

    def __init__(
        self, *, is_member: Callable[[bytes], bool], changed: Callable[[], None], probe: Probe = _probe_by_arp
    ) -> None:
        self._is_member = is_member
        self._changed = changed
        self._probe = probe
        self._wanted: dict[IPv4Address, ProbePoint] = {}
        self._owners: dict[IPv4Address, bytes | None] = {}
        """Who answered for each address that was asked about; None: nobody, or a member that holds it."""
        self._wake = asyncio.Event()
        self._places = asyncio.Semaphore(ASKED_AT_ONCE)
        """Each question has a socket of its own: of a thousand first ones, not all at once."""
        self._unasked = ""
        """Why the last question could not be put; empty where it could."""

    def want(self, addresses: Mapping[IPv4Address, ProbePoint]) -> None:
        """Keep asking about exactly these; what is no longer wanted is forgotten and asked anew when it comes back."""
        if addresses != self._wanted:
            self._wanted = dict(addresses)
            self._owners = {address: owner for address, owner in self._owners.items() if address in addresses}
            self._wake.set()

    def is_clear(self, address: IPv4Address) -> bool:
        """It was asked about and nobody else has it."""
        return address in self._owners and self._owners[address] is None

    def conflicts(self) -> dict[IPv4Address, bytes]:
        """The MAC of whoever else has an address that is wanted."""
        return {address: owner for address, owner in self._owners.items() if owner is not None}

    def troubles(self) -> list[str]:
        """Why addresses are not asked about, for status; none where they are."""
        return [f"addresses wait to be asked about before their first use: {self._unasked}"] if self._unasked else []

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            self._wake.clear()
            due = [address for address in self._wanted if not self.is_clear(address)]
            answers = await asyncio.gather(*(self._ask(address, self._wanted[address]) for address in due))
            failed = any(not answered for answered in answers)
            delay_s = _AFTER_FAILURE_S if failed else RETRY_S
            try:
                async with asyncio.timeout(delay_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _ask(self, address: IPv4Address, point: ProbePoint) -> bool:
        """False where the question could not be put."""
        try:
            async with self._places:
                owner = await self._probe(point, address)
        except TransientError as error:
            if str(error) != self._unasked:
                _log.warning("cannot ask on %s who has %s: %s", point.ifname, address, error)
            self._unasked = str(error)
            return False
        self._unasked = ""
        if owner is not None and self._is_member(owner):
            owner = None
        if self._wanted.get(address) != point:
            return True
        if owner is not None and self._owners.get(address) != owner:
            _log.error("%s is in use by %s on %s; it is not used", address, owner.hex(":"), point.ifname)
        if self._owners.get(address, b"") != owner:
            self._owners[address] = owner
            self._changed()
        return True
