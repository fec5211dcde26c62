"""What becomes of a lease in the kernel: the fence is written first, then the world and the agent hear of it.

The order is the safety of it. An address is announced only while its fence is open (S4); a release leaves the machine
after CloseFence, and this closes the fence before it returns.
"""

import logging
from collections.abc import Callable, Collection
from functools import partial
from ipaddress import IPv4Address

from service.keeper.fence import Fence
from service.lease.holder import CloseFence, OpenFence
from service.model.errors import InvariantError, OperatorError, TransientError
from service.model.keeper_message import Uplink
from service.model.lease import Token
from service.network.arp import gratuitous_arp_frames

_log = logging.getLogger(__name__)

_READY_S = 0.001
"""How often it is asked whether a handed over address is ready to be announced."""


class FirstAnnouncement:
    """S4: the first gratuitous ARP of a lease, by the keeper itself; the agent repeats it."""

    def __init__(
        self,
        *,
        uplink: Callable[[str], Uplink | None],
        send_frame: Callable[[int, bytes], None],
        is_awaited: Callable[[IPv4Address, Token], bool] = lambda address, token: False,
        later: Callable[[float, Callable[[], None]], object] = lambda delay_s, call: call(),
    ) -> None:
        """`uplink`: where the agent would announce an address now; `send_frame`: interface index and frame;
        `is_awaited`: the former holder still serves, and this node is not ready (rule R4); `later`: call in seconds."""
        self._uplink = uplink
        self._send_frame = send_frame
        self._is_awaited = is_awaited
        self._later = later

    def announce(self, address: IPv4Address, token: Token) -> None:
        """Send both forms, once this node is ready. What cannot be sent is logged: the lease is held all the same."""
        if self._is_awaited(address, token):
            self._later(_READY_S, partial(self.announce, address, token))
            return
        uplink = self._uplink(str(address))
        if uplink is None:
            return
        try:
            for frame in gratuitous_arp_frames(bytes.fromhex(uplink.mac), address):
                self._send_frame(uplink.ifindex, frame)
        except (TransientError, OperatorError) as error:
            _log.warning("gratuitous ARP for %s: %s", address, error)


class FencedLeases:
    """The fence as the holder's outputs open and close it.

    `opened` is called with an address whose lease is new, and its token, its fence being open; `changed` when a lease
    was acquired or lost, for the report; `refused` with a key whose fence cannot be opened, or not for longer: it is to
    be given up.
    """

    def __init__(
        self,
        fence: Fence,
        *,
        opened: Callable[[IPv4Address, Token], None],
        changed: Callable[[], None],
        refused: Callable[[str, str], None],
    ) -> None:
        """`refused` gets the key and why."""
        self._fence = fence
        self._opened = opened
        self._changed = changed
        self._refused = refused
        self._deadlines: dict[str, int] = {}
        """Of every fence that is open, as last written."""

    def handle(self, output: object) -> None:
        """Execute OpenFence or CloseFence. One key that cannot be opened is refused, and costs no other.

        Raises InvariantError where a fence cannot be closed: nothing may be said of it then, least of all a release.
        """
        if isinstance(output, OpenFence):
            self._open(output)
        elif isinstance(output, CloseFence):
            self._close(output)

    def _open(self, output: OpenFence) -> None:
        address = IPv4Address(output.key)
        try:
            self._fence.write(address, output.token, output.deadline_ns)
        except OSError as error:
            self._refused(output.key, f"its fence cannot be opened: {error.strerror}")
            return
        self._deadlines[output.key] = output.deadline_ns
        if output.first:
            self._opened(address, output.token)
            _log.info("holding %s with token %s", address, ".".join(map(str, output.token)))
            self._changed()

    def _close(self, output: CloseFence) -> None:
        try:
            self._fence.write(IPv4Address(output.key), output.token, 0)
        except OSError as error:
            raise InvariantError(f"the fence of {output.key} cannot be closed: {error.strerror}") from error
        _log.info("no longer holding %s: %s", output.key, output.reason)
        # Still among the deadlines: the report says that it was released before its time.
        self._changed()
        self._deadlines.pop(output.key, None)

    def deadline_of(self, key: str) -> int | None:
        """Until when the fence of the key is open, as last written; None where it is closed, or was refused."""
        return self._deadlines.get(key)

    def released(self, held: Collection[str], *, now_ns: int) -> tuple[str, ...]:
        """What is not held any more although its deadline has not come.

        Several leases given up at once leave the machine together, and their fences close one after the other.
        """
        return tuple(key for key, deadline in self._deadlines.items() if key not in held and deadline > now_ns)
