"""Blocks of ports in this node's kernel: whose each is, and which this node may use (rules Q1, Q3, R3).

What the machines of `service.port_block` say is written here at once, in the order in which they say it, since the next
datagram must not leave before. What is written is also the memory of the next agent of this boot. Single system calls,
safe on the event loop.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address

from service.datapath import layout
from service.datapath.bpf_map import BpfMap
from service.datapath.layout import MapName
from service.datapath.topology import Topology
from service.model.drop import DropReason
from service.model.lease import Stamp, Token
from service.port_block.block import NEVER_GIVEN, TIMES, Row

_LONG_AGO_NS = TIMES.down_ns + TIMES.rest_ns + 1
_WITHOUT_PORT = frozenset((DropReason.NO_PORTS, DropReason.PORTS_EXHAUSTED))
_ONLY = bytes(4)
"""Key of the only entry of an array."""


class BlockMaps:
    """The maps that the machines of port blocks drive; also the `Kernel` that a gateway's machine asks.

    `clock` is CLOCK_BOOTTIME, `monotonic` CLOCK_MONOTONIC: what the programs count by.
    """

    def __init__(
        self,
        maps: Mapping[str, BpfMap],
        node: str,
        *,
        clock: Callable[[], int],
        monotonic: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._maps = maps
        self._clock = clock
        self._monotonic = monotonic
        self._topology = Topology(node)
        self._rows: dict[tuple[IPv4Address, int], Row] = {}
        """What is noted in GATEWAY_ROWS."""

    # -- for the next agent --

    def remembers_since_ns(self, *, is_first: bool) -> int:
        """Since when every block of this node would be here (CLOCK_BOOTTIME): rather too late.

        `is_first`: no agent of this kind has ever run on this node, so there never was one. May be below 0 then.
        """
        memory = self._maps[MapName.BLOCK_MEMORY]
        found = int.from_bytes(memory.lookup(_ONLY) or b"", "little", signed=True)
        if found == 0:
            found = self._clock() - (_LONG_AGO_NS if is_first else 0)
            memory.update(_ONLY, found.to_bytes(8, "little", signed=True))
        return found

    def owned(self) -> dict[IPv4Address, list[tuple[int, Stamp, int | None]]]:
        """This node's own blocks, as an agent before noted them. Blocking: for the start only.

        What new flows may use beyond them is taken back: that agent ended between the one and the other.
        """
        found: dict[IPv4Address, list[tuple[int, Stamp, int | None]]] = {}
        for key, value in self._maps[MapName.OWNER_ROWS].items().items():
            floating_ip, block = layout.parse_block_key(key)
            found.setdefault(floating_ip, []).append((block, *layout.parse_owner_row(value)))
        for key, value in self._maps[MapName.OWN_BLOCKS].items().items():
            floating_ip = IPv4Address(key)
            used, own = layout.parse_own_blocks(value), {block for block, *_ in found.get(floating_ip, ())}
            if not own.issuperset(used):
                self.use(floating_ip, [block for block in used if block in own])
        return found

    def known(self) -> dict[IPv4Address, tuple[list[tuple[int, Row]], Token | None]]:
        """Whose blocks are, as an agent before noted it, and the tenure it vouched for. Blocking: at the start only."""
        found: dict[IPv4Address, tuple[list[tuple[int, Row]], Token | None]] = {}
        for key, value in self._maps[MapName.TRUSTS].items().items():
            found[IPv4Address(key)] = [], Token.unpacked(int.from_bytes(value, "little"))
        for key, value in self._maps[MapName.GATEWAY_ROWS].items().items():
            floating_ip, block = layout.parse_block_key(key)
            row = layout.parse_gateway_row(value)
            self._rows[floating_ip, block] = row
            found.setdefault(floating_ip, ([], None))[0].append((block, row))
        return found

    # -- what the machines say --

    def store(self, floating_ip: IPv4Address, block: int, stamp: Stamp | None, contact_ns: int | None) -> None:
        """Note a block of this node's own; `stamp` None: it is not any more."""
        key = layout.block_key(floating_ip, block)
        if stamp is None:
            self._maps[MapName.OWNER_ROWS].delete(key)
        else:
            self._maps[MapName.OWNER_ROWS].update(key, layout.owner_row_value(stamp, contact_ns))

    def use(self, floating_ip: IPv4Address, blocks: Sequence[int]) -> None:
        """New flows take their ports from these, and from no others."""
        if blocks:
            self._maps[MapName.OWN_BLOCKS].update(floating_ip.packed, layout.own_blocks_value(blocks))
        else:
            self._maps[MapName.OWN_BLOCKS].delete(floating_ip.packed)

    def set_owner(self, floating_ip: IPv4Address, block: int, row: Row) -> None:
        """Take packets of the block from its owner alone, from now on."""
        key = layout.block_key(floating_ip, block)
        if row == NEVER_GIVEN:
            self._rows.pop((floating_ip, block), None)
            self._maps[MapName.BLOCKS].delete(key)
            self._maps[MapName.GATEWAY_ROWS].delete(key)
            return
        self._rows[floating_ip, block] = row
        # First whom it is taken from: no packet of a former owner passes under the word of the next.
        self._write(floating_ip, block, row, is_new=True)
        self._maps[MapName.GATEWAY_ROWS].update(key, layout.gateway_row_value(row))

    def trust(self, floating_ip: IPv4Address, tenure: Token) -> None:
        """The rows of the address count under this tenure of the lease alone."""
        self._maps[MapName.TRUSTS].update(floating_ip.packed, tenure.packed().to_bytes(8, "little"))

    def forget(self, floating_ip: IPv4Address) -> None:
        """It is no floating IP any more."""
        self._maps[MapName.TRUSTS].delete(floating_ip.packed)

    def learn(self, topology: Topology) -> None:
        """Members may be reached in another way than before: bring the rows in step."""
        former, self._topology = self._topology, topology
        if topology == former:
            return
        # Members come and go by the hundred: of most, nothing has changed.
        same = topology.unchanged(former)
        is_here_same = topology.uplinks == former.uplinks
        for (floating_ip, block), row in self._rows.items():
            if row.owner is not None and not (is_here_same and row.owner in same):
                self._write(floating_ip, block, row, is_new=False)

    # -- what a gateway's machine asks --

    def tenure(self, floating_ip: IPv4Address) -> Token | None:
        """The token under which the fence is open now; None where it is closed, or its deadline is over."""
        lease = self._maps[MapName.LEASE_DEADLINES].lookup(floating_ip.packed)
        if lease is None:
            return None
        deadline_ns, token = layout.parse_lease(lease)
        return Token.unpacked(token) if self._clock() < deadline_ns else None

    def last_packet_ns(self, floating_ip: IPv4Address, block: int) -> int | None:
        """When a packet of the block went out, or when it came to its present owner if none did (CLOCK_BOOTTIME)."""
        value = self._maps[MapName.BLOCKS].lookup(layout.block_key(floating_ip, block))
        return layout.seen_ns_of(value) + self._clock() - self._monotonic() if value is not None else None

    def refused(self, numbers: Mapping[int, str]) -> Iterable[tuple[IPv4Address, int, str]]:
        """Take what members have sent from blocks that are not theirs here: (address, block, member), and forget it.

        `numbers` are those of the map `members`. Blocking for as long as there are many: at most 1,024.
        """
        refusals = self._maps[MapName.REFUSED_BLOCKS]
        found = refusals.keys()
        for key in found:
            refusals.delete(key)
            floating_ip, block, number = layout.parse_refused_key(key)
            if number in numbers:
                yield floating_ip, block, numbers[number]

    def refused_flows(self) -> dict[IPv4Address, int]:
        """Packets of new flows that found no port, since the maps were made; those of one flow are several."""
        found: dict[IPv4Address, int] = {}
        for key, value in self._maps[MapName.DROPS].items().items():
            floating_ip, reason, packets, _ = layout.parse_drop(key, value)
            if reason in _WITHOUT_PORT:
                found[floating_ip] = found.get(floating_ip, 0) + packets
        return found

    # -- inside --

    def _write(self, floating_ip: IPv4Address, block: int, row: Row, *, is_new: bool) -> None:
        blocks, key = self._maps[MapName.BLOCKS], layout.block_key(floating_ip, block)
        present = blocks.lookup(key)
        # A block that came to another owner counts as just used: its former one may have packets under way (Q5).
        seen_ns = layout.seen_ns_of(present) if present is not None and not is_new else self._monotonic()
        value = self._topology.reach(row.owner, floating_ip, seen_ns) if row.owner is not None else None
        if value is None:
            blocks.delete(key)
        elif present is None or present[8:] != value[8:]:
            blocks.update(key, value)
