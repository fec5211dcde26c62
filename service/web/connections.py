"""Who is connected to the HTTP server: a bounded number, and a stranger never keeps anybody out.

Whoever comes is let in. Where all places are taken, somebody else makes room: of the host that has most connections the
one that was opened first. Each connection has one request, so that is the idlest. Connections of this machine itself
(an operator, a probe of a kubelet that shares its address) only make room for each other.
"""

import asyncio
from ipaddress import IPv4Address

CONNECTIONS_MAX = 64
CONNECTION_S_MAX = 15.0
"""From its opening to its end, however slowly it asks or reads."""


class Connections:
    """Those that are open, oldest first."""

    def __init__(self) -> None:
        self._opened: dict[asyncio.Protocol, float] = {}
        self._transports: dict[asyncio.Protocol, asyncio.Transport] = {}

    def __len__(self) -> int:
        return len(self._opened)

    def admit(self, protocol: asyncio.Protocol, transport: asyncio.Transport, *, now_s: float) -> None:
        """Take a new one in; another one ends where there are too many."""
        self._opened[protocol], self._transports[protocol] = now_s, transport
        if len(self._opened) > CONNECTIONS_MAX:
            self._make_room(protocol)

    def forget(self, protocol: asyncio.Protocol) -> None:
        """It is over."""
        self._opened.pop(protocol, None)
        self._transports.pop(protocol, None)

    def expire(self, *, now_s: float) -> None:
        """End those that take too long."""
        for protocol in [one for one, opened_s in self._opened.items() if now_s - opened_s > CONNECTION_S_MAX]:
            self._end(protocol)

    def end_all(self) -> None:
        """End every one, at once."""
        for protocol in list(self._opened):
            self._end(protocol)

    def _end(self, protocol: asyncio.Protocol) -> None:
        transport = self._transports[protocol]
        self.forget(protocol)
        transport.abort()

    def _make_room(self, newest: asyncio.Protocol) -> None:
        strangers: dict[str, list[asyncio.Protocol]] = {}
        own: dict[str, list[asyncio.Protocol]] = {}
        for protocol, transport in self._transports.items():
            host = _host(transport, "peername")
            is_own = _is_of_this_machine(host, _host(transport, "sockname"))
            (own if is_own else strangers).setdefault(host, []).append(protocol)
        crowd = max((strangers or own).values(), key=len)
        self._end(crowd[0] if crowd[0] is not newest or len(crowd) == 1 else crowd[1])


def _host(transport: asyncio.Transport, name: str) -> str:
    found = transport.get_extra_info(name)
    return str(found[0]) if found else ""


def _is_of_this_machine(host: str, reached: str) -> bool:
    return host == reached or (bool(host) and IPv4Address(host).is_loopback)
