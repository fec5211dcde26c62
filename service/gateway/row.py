"""What this service puts into gossip: the metadata of a member, and the rows of the two disseminated tables. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated

import msgspec
from msgspec import Meta

from service.gateway.order import DRAIN_TABLE, MOVE_TABLE, decode_drain, decode_move
from service.model.assignment import Assignment, Location
from service.model.errors import PeerError
from service.model.gateway_node import Hearing, NodeRole, Segment
from service.model.lease import COUNTER_MAX, LEADER_KEY, TERM_MAX, Stamp, Token

_MAC_LENGTH = 6
_Mac = Annotated[bytes, Meta(min_length=_MAC_LENGTH, max_length=_MAC_LENGTH)]

Version = tuple[int, int, int]

ASSIGNMENT_TABLE = "assignment"
"""Key: floating IP; version: (leader term, version, 0)."""
LOCATION_TABLE = "location"
"""Key: floating IP; version: the holder's token. Its end: the same with a counter that no token has, and no value."""
LEADER_TABLE = "leader"
"""One key; version: (leader term, 0, 0); value: the leader's name."""
CONFLICT_TABLE = "conflict"
"""Key: floating IP; version: (number, writer, 0), see `conflict_version`; value: the stranger's MAC, empty once it is
gone."""


OWN_ADDRESSES_MAX = 16
"""So that metadata stay below their bound; of further ones ARP probes tell."""
DROPPING_MAX = 8
"""The same, for each reason; further ones stand in the node's own status."""


@dataclass(frozen=True, slots=True)
class MemberMetadata:
    """What every member tells all others about itself."""

    role: NodeRole
    ready: bool
    """Its datapath is loaded and its keeper alive."""
    schedulable: bool
    """False while its own source says that its node is cordoned or shutting down; the leader asks its own, too."""
    segments: tuple[Segment, ...]
    version: str
    """Release of its process, for people."""
    start_id: int
    """Of its process; it is the start id that its datagrams are sealed under."""
    own_addresses: tuple[IPv4Address, ...] = ()
    """Listed floating IPs that are its own interfaces' addresses; at most OWN_ADDRESSES_MAX."""
    translates: bool = True
    """It gives its pods' packets their floating IP itself; before, the holder did (rule U1)."""
    tunnels: bool = False
    """It takes packets of members out of the tunnel (rule X2)."""
    unrouted: tuple[IPv4Address, ...] = ()
    """Floating IPs whose packets lately found no route by their uplink there; at most DROPPING_MAX, like the next."""
    over_quota: tuple[IPv4Address, ...] = ()
    """Floating IPs of pods there that lately had as many flows as a pod may have, and wanted more (rule B4)."""
    out_of_ports: tuple[IPv4Address, ...] = ()
    """Floating IPs of which lately all of its ports were taken towards some remote (rule Q4)."""
    labels: tuple[tuple[str, str], ...] = ()
    """Of its settings, sorted by key; a Node object's go before (rule O2)."""
    unsupported_cni: str = ""
    """Beside which it does nothing (rule N2); empty where it works."""


class _Metadata(msgspec.Struct, array_like=True):
    role: str
    ready: bool
    schedulable: bool
    segments: tuple[tuple[bytes, int, bytes, _Mac], ...]
    """(network, prefix length, address, MAC)."""
    version: str
    start_id: int
    interfaces: tuple[str, ...] = ()
    """Of each segment. Members of versions before this field ignore it."""
    own_addresses: tuple[bytes, ...] = ()
    hearing: tuple[int, ...] = ()
    """On each segment."""
    translates: bool = False
    tunnels: bool = False
    unrouted: tuple[bytes, ...] = ()
    over_quota: tuple[bytes, ...] = ()
    out_of_ports: tuple[bytes, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    unsupported_cni: str = ""


class _AssignmentRow(msgspec.Struct, array_like=True):
    """Key and version of the row have the rest. Fields are only appended, each with a default, as in _Metadata."""

    holder: str | None
    successor: str | None
    reason: str
    removed: bool = False
    """A tombstone: rows are superseded, never deleted."""


_encoder = msgspec.msgpack.Encoder()
_metadata_decoder = msgspec.msgpack.Decoder(_Metadata)
_KeyId = Annotated[bytes, Meta(min_length=4, max_length=4)]
_keys_decoder = msgspec.msgpack.Decoder(dict[str, tuple[_KeyId, ...]])
_assignment_decoder = msgspec.msgpack.Decoder(_AssignmentRow)
NUMBER_MAX = 1 << 40
"""Of numbers and times that order a table: far from now, and nobody can write a row that no later one supersedes."""
_NAME_LENGTH_MAX = 63
_CNI_MAX = 40
"""Characters of a CNI's name."""
_REASON_MAX = 160
"""Characters of a reason that go into a row: it must stay below the 512 bytes of a gossip value."""


KEYS_TABLE = "keys"
"""Key: a member; version: (number, 0, 0), counted by that member; value: the keys in force in its node's processes."""

TABLES = (ASSIGNMENT_TABLE, LOCATION_TABLE, LEADER_TABLE, CONFLICT_TABLE, KEYS_TABLE, DRAIN_TABLE, MOVE_TABLE)


def check(table: str, key: str, version: Version, value: bytes) -> None:
    """Raises PeerError for a row that no member could use, so that none keeps it or passes it on.

    The table of a later release is let through: its members know what is in it.
    """
    if table == ASSIGNMENT_TABLE:
        decode_assignment(key, version, value)
    elif table == LOCATION_TABLE:
        decode_location(key, version, value)
    elif table == CONFLICT_TABLE:
        decode_conflict(key, version, value)
    elif table == LEADER_TABLE:
        decode_leader(key, version, value)
    elif table == KEYS_TABLE:
        decode_keys(key, version, value)
    elif table == DRAIN_TABLE:
        decode_drain(key, version, value)
    elif table == MOVE_TABLE:
        decode_move(key, version, value)


def encode_metadata(metadata: MemberMetadata) -> bytes:
    """Put it into msgpack. The bound of 512 bytes is checked by gossip; `fitting` keeps it."""
    segments = tuple(
        (segment.network.network_address.packed, segment.network.prefixlen, segment.address.packed, segment.mac)
        for segment in metadata.segments
    )
    return _encoder.encode(
        _Metadata(
            metadata.role.value,
            metadata.ready,
            metadata.schedulable,
            segments,
            metadata.version,
            metadata.start_id,
            tuple(segment.interface for segment in metadata.segments),
            tuple(address.packed for address in metadata.own_addresses[:OWN_ADDRESSES_MAX]),
            tuple(int(segment.hearing) for segment in metadata.segments),
            metadata.translates,
            metadata.tunnels,
            _packed(metadata.unrouted),
            _packed(metadata.over_quota),
            _packed(metadata.out_of_ports),
            metadata.labels,
            metadata.unsupported_cni[:_CNI_MAX],
        )
    )


def fitting(metadata: MemberMetadata, bytes_max: int) -> MemberMetadata:
    """With as many of its segments, from the first, as `bytes_max` have room for; what only people read goes first."""
    without_ports = replace(metadata, out_of_ports=())
    without_flows = replace(without_ports, over_quota=())
    for less in (without_ports, without_flows, replace(without_flows, unrouted=())):
        if len(encode_metadata(metadata)) > bytes_max:
            metadata = less
    for count in range(len(metadata.segments), -1, -1):
        metadata = replace(metadata, segments=metadata.segments[:count])
        if len(encode_metadata(metadata)) <= bytes_max:
            break
    return metadata


def decode_metadata(data: bytes, *, member: str = "") -> MemberMetadata:
    """Raises PeerError, which names the member, where one of another kind or version sent something else."""
    try:
        raw = _metadata_decoder.decode(data)
        # Of a version that has no names of interfaces, or no hearing: as many empty ones as there are segments.
        segments = tuple(
            Segment(IPv4Network((network, length)), IPv4Address(address), mac, interface, Hearing(hearing))
            for (network, length, address, mac), interface, hearing in zip(
                raw.segments,
                (*raw.interfaces, *[""] * len(raw.segments)),
                (*raw.hearing, *[0] * len(raw.segments)),
                strict=False,
            )
        )
        own = tuple(IPv4Address(address) for address in raw.own_addresses[:OWN_ADDRESSES_MAX])
        unrouted, over_quota, out_of_ports = map(_unpacked, (raw.unrouted, raw.over_quota, raw.out_of_ports))
        head = NodeRole(raw.role), raw.ready, raw.schedulable, segments, raw.version, raw.start_id
        dropping = unrouted, over_quota, out_of_ports
        return MemberMetadata(*head, own, raw.translates, raw.tunnels, *dropping, raw.labels, raw.unsupported_cni)
    except (msgspec.MsgspecError, ValueError) as error:
        raise PeerError(f"metadata of {member or 'a member'}: {error}") from error


def _packed(dropping: Sequence[IPv4Address]) -> tuple[bytes, ...]:
    return tuple(address.packed for address in dropping[:DROPPING_MAX])


def _unpacked(dropping: Sequence[bytes]) -> tuple[IPv4Address, ...]:
    return tuple(IPv4Address(address) for address in dropping[:DROPPING_MAX])


def encode_assignment(assignment: Assignment, *, removed: bool = False) -> bytes:
    """`removed` tells holders that the floating IP is no longer in the spec: the row stays as a tombstone."""
    row = _AssignmentRow(assignment.holder, assignment.successor, assignment.reason[:_REASON_MAX], removed)
    return _encoder.encode(row)


def decode_assignment(key: str, version: Version, data: bytes) -> Assignment | None:
    """None for a tombstone. Raises PeerError where the row is malformed."""
    try:
        # The key is a peer's, too: that it is no address is found out here like any other nonsense.
        row = _assignment_decoder.decode(data)
        stamp = Stamp(version[0], version[1])
        if not stamp.fits:
            raise ValueError(f"a stamp of {stamp.term}.{stamp.version} is beyond its bits")
        address = IPv4Address(key)
        if row.removed:
            return None
        return Assignment(address, row.holder, row.successor, stamp, row.reason)
    except (msgspec.MsgspecError, ValueError) as error:
        raise PeerError(f"assignment of {key}: {error}") from error


def ended_assignment(version: Version, data: bytes) -> tuple[Version, bytes]:
    """The tombstone of a row that says `removed`, and is none: of a release that had no tombstones."""
    return (version[0], version[1], version[2] + 1), data


def ended_location(version: Version) -> Version:
    """Of the tombstone of a location: above every token of its assignment, and below those of every later one."""
    return version[0], version[1], version[2] + COUNTER_MAX + 1


def conflict_version(known: Version | None, writer: str, *, at_s: int) -> Version:
    """Of what `writer` has to say about a conflict, above all that it has heard (`known`) and all earlier times.

    Anybody may see a stranger, and anybody that it is gone. A number that counts on from the one heard orders what one
    has heard of the other, whatever their clocks say (Lamport 1978); what neither has heard of is ordered by time, and
    in the same second by name: so two values never have one version.
    """
    number = max(at_s, 0 if known is None else known[0] + 1)
    return number, int.from_bytes(blake2b(writer.encode(), digest_size=7).digest()), 0


def decode_location(key: str, version: Version, data: bytes) -> Location | None:
    """None for a tombstone. Raises PeerError where the row is malformed."""
    try:
        address = IPv4Address(key)
        if not data:
            term, number, counter = version
            Token.checked(term, number, max(0, counter - COUNTER_MAX - 1))
            return None
        return Location(address, data.decode("ascii"), Token.checked(*version))
    except ValueError as error:
        raise PeerError(f"location of {key}: {error}") from error


def decode_conflict(key: str, version: Version, data: bytes) -> tuple[IPv4Address, bytes] | None:
    """(floating IP, MAC of the stranger); None where it is gone. Raises PeerError where the row is malformed."""
    try:
        address = IPv4Address(key)
    except ValueError as error:
        raise PeerError(f"conflict of {key}: {error}") from error
    if not version[0] <= NUMBER_MAX:
        raise PeerError(f"conflict of {key}: {version[0]} is no time")
    if len(data) not in (0, _MAC_LENGTH):
        raise PeerError(f"conflict of {key}: {len(data)} bytes are no MAC")
    return (address, data) if data else None


def decode_leader(key: str, version: Version, data: bytes) -> tuple[str, int]:
    """(name, term). Raises PeerError where the row is malformed."""
    try:
        name = data.decode("ascii")
    except ValueError as error:
        raise PeerError(f"leader: {error}") from error
    if key != LEADER_KEY or not 0 < len(name) <= _NAME_LENGTH_MAX or version[0] > TERM_MAX:
        raise PeerError(f"leader: row {key} of term {version[0]} names {name!r}")
    return name, version[0]


def encode_keys(keys: Mapping[str, Sequence[str]]) -> bytes:
    """`keys`: the ids in hexadecimal digits by process, the one that seals first."""
    return _encoder.encode({process: [bytes.fromhex(one) for one in ids] for process, ids in keys.items()})


def decode_keys(key: str, version: Version, data: bytes) -> dict[str, tuple[str, ...]] | None:
    """What `encode_keys` was given; None for a tombstone. Raises PeerError where the row is malformed."""
    if version[0] > NUMBER_MAX:
        raise PeerError(f"keys of {key}: {version[0]} counts nothing")
    if not data:
        return None
    try:
        return {process: tuple(one.hex() for one in ids) for process, ids in _keys_decoder.decode(data).items()}
    except (msgspec.MsgspecError, ValueError) as error:
        raise PeerError(f"keys of {key}: {error}") from error
