"""What this service puts into gossip: the metadata of a member, and the rows of the two disseminated tables. Pure."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

import msgspec

from service.model.assignment import Assignment, Location
from service.model.errors import PeerError
from service.model.gateway_node import Hearing, NodeRole, Segment
from service.model.lease import Stamp, Token

ASSIGNMENT_TABLE = "assignment"
"""Key: floating IP; version: (leader term, version, 0)."""
LOCATION_TABLE = "location"
"""Key: floating IP; version: the holder's token."""
LEADER_TABLE = "leader"
"""One key; version: (leader term, 0, 0); value: the leader's name."""
CONFLICT_TABLE = "conflict"
"""Key: floating IP; version: (Unix seconds, 0, 0); value: the stranger's MAC, empty once it is gone."""


OWN_ADDRESSES_MAX = 16
"""So that metadata stay below their bound; of further ones ARP probes tell."""


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


class _Metadata(msgspec.Struct, array_like=True):
    role: str
    ready: bool
    schedulable: bool
    segments: tuple[tuple[bytes, int, bytes, bytes], ...]
    """(network, prefix length, address, MAC)."""
    version: str
    start_id: int
    interfaces: tuple[str, ...] = ()
    """Of each segment. Members of versions before this field ignore it."""
    own_addresses: tuple[bytes, ...] = ()
    hearing: tuple[int, ...] = ()
    """On each segment."""


class _AssignmentRow(msgspec.Struct, array_like=True):
    """Key and version of the row have the rest. Fields are only appended, each with a default, as in _Metadata."""

    holder: str | None
    successor: str | None
    reason: str
    removed: bool = False
    """A tombstone: rows are superseded, never deleted."""


_encoder = msgspec.msgpack.Encoder()
_metadata_decoder = msgspec.msgpack.Decoder(_Metadata)
_assignment_decoder = msgspec.msgpack.Decoder(_AssignmentRow)
_REASON_MAX = 160
"""Characters of a reason that go into a row: it must stay below the 512 bytes of a gossip value."""


def encode_metadata(metadata: MemberMetadata) -> bytes:
    """Put it into msgpack. The bound of 512 bytes is checked by gossip, not here."""
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
        )
    )


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
        return MemberMetadata(NodeRole(raw.role), raw.ready, raw.schedulable, segments, raw.version, raw.start_id, own)
    except (msgspec.MsgspecError, ValueError) as error:
        raise PeerError(f"metadata of {member or 'a member'}: {error}") from error


def encode_assignment(assignment: Assignment, *, removed: bool = False) -> bytes:
    """`removed` tells holders that the floating IP is no longer in the spec: the row stays as a tombstone."""
    row = _AssignmentRow(assignment.holder, assignment.successor, assignment.reason[:_REASON_MAX], removed)
    return _encoder.encode(row)


def decode_assignment(key: str, version: tuple[int, int, int], data: bytes) -> Assignment | None:
    """None for a tombstone. Raises PeerError where the row is malformed."""
    try:
        # The key is a peer's, too: that it is no address is found out here like any other nonsense.
        row = _assignment_decoder.decode(data)
        if row.removed:
            return None
        stamp = Stamp(version[0], version[1])
        return Assignment(IPv4Address(key), row.holder, row.successor, stamp, row.reason)
    except (msgspec.MsgspecError, ValueError) as error:
        raise PeerError(f"assignment of {key}: {error}") from error


def decode_location(key: str, version: tuple[int, int, int], data: bytes) -> Location:
    """Raises PeerError where the row is malformed."""
    try:
        return Location(IPv4Address(key), data.decode("ascii"), Token(*version))
    except ValueError as error:
        raise PeerError(f"location of {key}: {error}") from error


def decode_conflict(key: str, version: tuple[int, int, int], data: bytes) -> tuple[IPv4Address, bytes] | None:
    """(floating IP, MAC of the stranger); None where it is gone. Raises PeerError where the row is malformed."""
    try:
        address = IPv4Address(key)
    except ValueError as error:
        raise PeerError(f"conflict of {key}: {error}") from error
    if len(data) not in (0, 6):
        raise PeerError(f"conflict of {key}: {len(data)} bytes are no MAC")
    return (address, data) if data else None
