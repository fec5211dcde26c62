"""A lease that ends on purpose, told to the segment before it ends, so that no packet is lost in between (rule R4).

What pods send waits on their nodes until the successor speaks, and what still comes here from outside is handed on for
a while. All of it is done by the kernel: this module writes the row of its own node, and tells the others in a frame.
"""

import logging
import struct
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path

from service.datapath.bpf_map import BpfMap, open_pinned
from service.datapath.handover_row import handover_value, parse_handover
from service.datapath.layout import MAP_SHAPES, MapName, pin_folder
from service.lease.holder import CloseFence, Holder, OpenFence
from service.model.errors import OperatorError, TransientError
from service.model.keeper_message import Uplink
from service.model.lease import Token
from service.model.machine import Send, Source
from service.network.arp import BROADCAST_MAC

_log = logging.getLogger(__name__)

HANDOVER_NS = 100_000_000
"""So long at most a packet waits (bpf/layout.h)."""
ETHERTYPE_HANDOVER = 0x88B5
"""Local experimental (IEEE 802): nobody but our programs heeds it."""
_MAGIC = 0x45474831
_FRAME = struct.Struct("!6s6sHI4sQ30x")
"""As long as the shortest frame of Ethernet."""
_UNDER_WAY_S = 0.001
"""What was sent before the others heard of it is here after that."""


def handover_frame(mac: bytes, address: IPv4Address, token: Token) -> bytes:
    """What the holder tells its segment: it is about to let go of the address, which it holds under this token."""
    return _FRAME.pack(BROADCAST_MAC, mac, ETHERTYPE_HANDOVER, _MAGIC, address.packed, token.packed())


class Handovers:
    """The maps `handovers` and `trusts` under the datapath's pins; both may be missing, of a former version: then
    nothing waits, and nothing is handed on."""

    def __init__(
        self,
        bpf_dir: str,
        *,
        uplink: Callable[[str], Uplink | None],
        send_frame: Callable[[int, bytes], None],
        clock: Callable[[], int],
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """`uplink`: where an address is announced now; `send_frame`: interface index and frame."""
        self._folder = pin_folder(bpf_dir)
        self._uplink = uplink
        self._send_frame = send_frame
        self._clock = clock
        self._pause = pause

    def tell(self, ending: Collection[CloseFence]) -> None:
        """Say that these leases end now. Returns a millisecond later, when what was under way is through.

        It stands still meanwhile, once for all of them: nothing may be renewed or released in between.
        """
        is_told = False
        with suppress(OSError), _opened(self._folder, MapName.HANDOVERS) as handovers:
            for one in ending:
                address = IPv4Address(one.key)
                handovers.update(address.packed, handover_value(one.token.packed(), self._clock()))
                is_told |= self._say(address, one.token)
        if is_told:
            self._pause(_UNDER_WAY_S)

    def _say(self, address: IPv4Address, token: Token) -> bool:
        uplink = self._uplink(str(address))
        if uplink is None:
            return False
        try:
            self._send_frame(uplink.ifindex, handover_frame(bytes.fromhex(uplink.mac), address, token))
        except (TransientError, OperatorError) as error:
            _log.warning("handover of %s: %s", address, error)
            return False
        return True

    def is_awaited(self, address: IPv4Address, token: Token) -> bool:
        """Whether its former holder has just let go of the address, and this node's agent has not vouched yet for whose
        its ports are under this token (rule R3): who speaks now would be sent what it has to drop."""
        with suppress(OSError), _opened(self._folder, MapName.HANDOVERS) as handovers:
            row = handovers.lookup(address.packed)
            if row is None:
                return False
            former, since_ns = parse_handover(row)
            if former == token.packed() or self._clock() >= since_ns + HANDOVER_NS:
                return False
            with _opened(self._folder, MapName.TRUSTS) as trusts:
                return trusts.lookup(address.packed) != token.packed().to_bytes(8, "little")
        return False


@contextmanager
def _opened(folder: Path, name: str) -> Iterator[BpfMap]:
    """A pinned map for a moment: the agent may make it anew at any time. Raises OSError where it is none of ours."""
    with closing(open_pinned(str(folder / name))) as opened:
        if not MAP_SHAPES[name].is_of(opened.info):
            raise OSError(f"{folder / name} is not the map of this version")
        yield opened


class TellingHolder:
    """The holder as its pump drives it: what it lets go of on purpose is told before anybody executes it."""

    def __init__(self, holder: Holder, tell: Callable[[Collection[CloseFence]], None]) -> None:
        self._holder = holder
        self._tell = tell

    def receive(self, source: Source, payload: bytes, *, now_ns: int) -> None:
        """As of any machine."""
        self._holder.receive(source, payload, now_ns=now_ns)

    def advance(self, *, now_ns: int) -> None:
        """As of any machine."""
        self._holder.advance(now_ns=now_ns)

    def deadline_ns(self) -> int | None:
        """As of any machine."""
        return self._holder.deadline_ns()

    def drain(self) -> list[Send | OpenFence | CloseFence]:
        """As of any machine. What is sent counts from when it was made: telling only shortens what is held (T1)."""
        outputs = self._holder.drain()
        # What has expired nobody may hold back for: its successor has it already.
        closing = [one for one in outputs if isinstance(one, CloseFence) and one.reason != "expired"]
        if closing:
            self._tell(closing)
        return outputs
