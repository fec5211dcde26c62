"""Finding and forgetting connections when a selection changes (rules W10, E3), by ctnetlink.

Tracked connections whose verdict changes are deleted, so that an open flow is judged anew and its NAT is made anew.
pyroute2 decodes 50 us and deletes 330 us per entry (measured), too long for a pod that waits
with 10,000 of them. So the messages are handled as bytes: one dump, then the original tuple of each entry echoed back
in batches. Layouts: linux/netfilter/nfnetlink_conntrack.h.

A dump comes in pieces of one message buffer; but one that the kernel filters fills the buffer with what it finds, and
looks through the whole table in one piece where it finds nothing, 20 ms for 60,000 entries (measured; rule I3). So the
kernel filters small tables only, and of large ones the entries of others are passed over here by four bytes.
"""

import asyncio
import errno
import socket
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from service.model.errors import InvariantError, OperatorError, TransientError
from service.network.netlink_message import (
    ACKNOWLEDGE,
    ATTRIBUTE,
    CREATE,
    DONE,
    DUMP,
    ERROR,
    EXCLUSIVE,
    HEADER,
    NESTED,
    NETLINK_NETFILTER,
    REQUEST,
    attribute,
    attribute_values,
    error_code,
    message,
    raise_error,
    split_attributes,
    split_messages,
)
from service.network.planting import Planted

_T = TypeVar("_T")

_CT_NEW = 1 << 8
_CT_GET = 1 << 8 | 1
_CT_DELETE = 1 << 8 | 2
_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY, _CTA_MARK, _CTA_ID, _CTA_ZONE, _CTA_FILTER = 1, 2, 8, 12, 18, 25
_CTA_TUPLE_IP, _CTA_IP_V4_SRC, _CTA_IP_V4_DST, _CTA_FILTER_ORIG_FLAGS = 1, 1, 2, 1
_FILTER_IP_SRC, _FILTER_IP_DST = 1, 2
_CTA_TUPLE_PROTO = 2
_CTA_PROTO_NUM, _CTA_PROTO_SRC_PORT, _CTA_PROTO_DST_PORT = 1, 2, 3
_CTA_PROTO_ICMP_ID, _CTA_PROTO_ICMP_TYPE, _CTA_PROTO_ICMP_CODE = 4, 5, 6
_CTA_STATUS, _CTA_PROTOINFO, _CTA_TIMEOUT = 3, 4, 7
_CTA_PROTOINFO_TCP, _TCP_STATE, _TCP_FLAGS_ORIGINAL, _TCP_FLAGS_REPLY = 1, 1, 4, 5
_ESTABLISHED, _BE_LIBERAL = 3, 0x08
_SEEN_REPLY, _ASSURED, _CONFIRMED = 0x2, 0x4, 0x8
_PLANTED_S = 120
"""Until the next packet, by which the kernel's own times begin."""

_NFGEN = struct.pack("=BBH", socket.AF_INET, 0, 0)
_SOURCE_OFFSET = 12
"""Of the source address in a tuple: after the headers of tuple, address pair and address."""
_FILTERED_PODS_MAX = 8
"""Up to so many pods the kernel filters a dump for each (5.8 and newer); beyond, one whole dump is cheaper."""
_FILTERED_ENTRIES_MAX = 16_384
"""In a larger table the kernel would be busy for more than 5 ms in one piece."""
_BUCKETS_PER_ENTRY = 85
"""A dump walks through the whole hash, which all network namespaces share: so many buckets take as long as one entry to
be told (measured: 262,144 of them 10.8 ms, an entry 3.5 us). Filtered, there are two dumps for each pod."""
_COUNT = "/proc/sys/net/netfilter/nf_conntrack_count"
_BUCKETS = "/proc/sys/net/netfilter/nf_conntrack_buckets"
_FIRST_KIND = len(_NFGEN) + 2
_FIRST_SOURCE = len(_NFGEN) + _SOURCE_OFFSET
_FIRST_DESTINATION = _FIRST_SOURCE + 8
"""Where kind and addresses of the first attribute are in a message, which is the original tuple."""
_ECHO_REPLY, _ECHO_REQUEST = 0, 8
_BATCH_BYTES = 32 * 1024
_RECEIVE_BYTES = 1 << 20


class Flow(NamedTuple):
    """One tracked connection, as far as deciding and deleting need it."""

    source: int
    """Who opened it; of one that a reply of ours has begun (rule D2), whom the reply was for."""
    destination: int
    """With whom, after DNAT."""
    identity: bytes
    """The attributes that name the entry to the kernel; the original tuple first."""
    reply: bytes = b""
    """The reply tuple."""
    is_turned: bool = False
    """A reply of ours has begun it."""


class Endpoints(NamedTuple):
    """Both ends of a connection as its first packet has them after DNAT. ICMP: the id, and no remote port."""

    protocol: int
    port: int
    remote_port: int


class Networks:
    """Membership of an address in a list of networks, by bisection."""

    def __init__(self, networks: Iterable[IPv4Network]) -> None:
        merged = sorted(collapse_addresses(networks))
        self._first = [int(network.network_address) for network in merged]
        self._last = [int(network.broadcast_address) for network in merged]

    def __contains__(self, address: int) -> bool:
        position = bisect_right(self._first, address) - 1
        return position >= 0 and address <= self._last[position]


class Conntrack:
    """Async context manager around one ctnetlink socket in a thread of its own."""

    def __init__(self, *, connection_mark: int = 0, timeout_s: float = 5.0) -> None:
        """`connection_mark`: the bit of connections that replies of ours have begun (rule D2)."""
        self._connection_mark = connection_mark
        self._timeout_s = timeout_s
        self._executor: ThreadPoolExecutor | None = None

    async def __aenter__(self) -> Self:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="conntrack")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)

    async def find(self, pods: Mapping[IPv4Address, Networks], keep: Networks) -> list[Flow]:
        """The connections that these pods opened to anywhere but `keep`, and but what each has in `pods`.

        The destination is the one after DNAT. Those are among them that a reply to the pod has begun. Raises
        TransientError where the kernel does not answer, OperatorError without CAP_NET_ADMIN.
        """
        if not pods:
            return []
        return await self._work(partial(_find, pods=dict(pods), keep=keep, connection_mark=self._connection_mark))

    async def delete(self, flows: Sequence[Flow]) -> int:
        """Delete these and return how many were still there. Raises as `find`; some entries may be gone then."""
        if not flows:
            return 0
        return await self._work(partial(_delete, identities=[flow.identity for flow in flows]))

    async def plant(self, connections: Sequence[Planted]) -> int:
        """Make entries that pods opened and were answered; return how many there were not yet. Raises as `find`."""
        if not connections:
            return 0
        return await self._work(partial(_plant, connections=connections))

    async def _work(self, function: Callable[[socket.socket], _T]) -> _T:
        if self._executor is None:
            raise InvariantError("Conntrack is used outside its context")
        try:
            async with asyncio.timeout(self._timeout_s):
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._executor, _with_socket, self._timeout_s, function)
        except TimeoutError as error:
            raise TransientError(f"conntrack did not answer within {self._timeout_s:g} s") from error
        except PermissionError as error:
            raise OperatorError("deleting tracked connections is not permitted; CAP_NET_ADMIN is needed") from error
        except OSError as error:
            raise TransientError(f"conntrack: {error.strerror or error}") from error


def parse_flow(entry: memoryview, connection_mark: int = 0) -> Flow | None:
    """One entry of a dump, without its netlink header; None where it is not an IPv4 connection."""
    original = reply = None
    identity = b""
    is_turned = False
    for kind, whole in split_attributes(entry[len(_NFGEN) :]):
        if kind == _CTA_TUPLE_ORIG:
            original = whole
        elif kind == _CTA_TUPLE_REPLY:
            reply = whole
        elif kind in (_CTA_ID, _CTA_ZONE):
            identity += whole
        elif kind == _CTA_MARK:
            is_turned = bool(int.from_bytes(whole[ATTRIBUTE.size :], "big") & connection_mark)
    if original is None or reply is None:
        return None
    ends = (_source(reply), _source(original)) if is_turned else (_source(original), _source(reply))
    return Flow(*ends, bytes(original) + identity, bytes(reply), is_turned)


def endpoints(flow: Flow) -> Endpoints | None:
    """Protocol and ports of an entry; None where its protocol has none that we know."""
    original, reply = _protocol(memoryview(flow.identity)), _protocol(memoryview(flow.reply))
    if flow.is_turned:
        original, reply = reply, original
    protocol = original.get(_CTA_PROTO_NUM)
    for kind in (_CTA_PROTO_SRC_PORT, _CTA_PROTO_ICMP_ID):
        if protocol is not None and kind in original:
            # A reply comes from where the connection goes to.
            return Endpoints(protocol[0], _port(original[kind]), _port(reply.get(_CTA_PROTO_SRC_PORT, b"")))
    return None


def _protocol(identity: memoryview) -> dict[int, bytes]:
    """The attributes of protocol in the tuple that comes first."""
    for _, tuple_ in split_attributes(identity):
        return attribute_values(attribute_values(tuple_[ATTRIBUTE.size :]).get(_CTA_TUPLE_PROTO, b""))
    return {}


def _port(value: bytes) -> int:
    return int.from_bytes(value[:2], "big")


def _with_socket(timeout_s: float, function: Callable[[socket.socket], _T]) -> _T:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as connection:
        connection.bind((0, 0))
        connection.settimeout(timeout_s)
        return function(connection)


def _find(
    connection: socket.socket, pods: Mapping[IPv4Address, Networks], keep: Networks, connection_mark: int
) -> list[Flow]:
    kept = {int(pod): networks for pod, networks in pods.items()}
    # Where there is little to tell, more walks cost more than they save.
    few = (2 * len(pods) - 1) * _number(_BUCKETS, unknown=0) // _BUCKETS_PER_ENTRY
    entries = _number(_COUNT, unknown=_FILTERED_ENTRIES_MAX + 1)
    is_filtered = len(pods) <= _FILTERED_PODS_MAX and few <= entries <= _FILTERED_ENTRIES_MAX
    sides = (_CTA_IP_V4_SRC, _FILTER_IP_SRC), (_CTA_IP_V4_DST, _FILTER_IP_DST)
    filters = [_filter(pod, *side) for pod in pods for side in sides] if is_filtered else [b""]
    packed = frozenset(pod.packed for pod in pods)
    # The kernel's filter only saves time: each entry is judged here all the same.
    return [
        flow
        for part in filters
        for flow in _dump(connection, part, packed, connection_mark)
        if flow.source in kept and flow.destination not in keep and flow.destination not in kept[flow.source]
    ]


def _number(path: str, *, unknown: int) -> int:
    """Of the table of this network namespace; unknown where the kernel does not say."""
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return unknown


def _is_foreign(message: memoryview, pods: frozenset[bytes]) -> bool:
    """An entry that can be passed over without being read; of most that is said here, and quickly."""
    return (
        message[_FIRST_KIND] == _CTA_TUPLE_ORIG
        and bytes(message[_FIRST_SOURCE : _FIRST_SOURCE + 4]) not in pods
        and bytes(message[_FIRST_DESTINATION : _FIRST_DESTINATION + 4]) not in pods
    )


def _dump(connection: socket.socket, body: bytes, pods: frozenset[bytes], connection_mark: int) -> Iterator[Flow]:
    connection.send(_request(_CT_GET, REQUEST | DUMP, 1, body))
    while True:
        for kind, _, _, payload in split_messages(connection.recv(_RECEIVE_BYTES)):
            if kind == DONE:
                return
            if kind == ERROR:
                raise_error(payload)
            elif not _is_foreign(payload, pods) and (flow := parse_flow(payload, connection_mark)) is not None:
                yield flow


def _delete(connection: socket.socket, identities: list[bytes]) -> int:
    """Delete in batches, each closed by an acknowledged message; return how many were still there."""
    vanished = 0
    batch: list[bytes] = []
    size = 0
    for position, identity in enumerate(identities, start=1):
        size += HEADER.size + len(_NFGEN) + len(identity)
        last = size >= _BATCH_BYTES or position == len(identities)
        flags = REQUEST | ACKNOWLEDGE if last else REQUEST
        batch.append(_request(_CT_DELETE, flags, position, identity))
        if last:
            connection.send(b"".join(batch))
            vanished += _await_acknowledgement(connection, position)
            batch, size = [], 0
    return len(identities) - vanished


def _await_acknowledgement(connection: socket.socket, last: int) -> int:
    vanished = 0
    while True:
        for kind, _, sequence, payload in split_messages(connection.recv(_RECEIVE_BYTES)):
            if kind != ERROR:
                continue
            code = error_code(payload)
            if code == errno.ENOENT:
                vanished += 1
            elif code:
                raise_error(payload)
            if sequence == last:
                return vanished


def _plant(connection: socket.socket, connections: Sequence[Planted]) -> int:
    made = 0
    flags = REQUEST | ACKNOWLEDGE | CREATE | EXCLUSIVE
    for sequence, planted in enumerate(connections, start=1):
        connection.send(_request(_CT_NEW, flags, sequence, _entry(planted)))
        for kind, _, _, payload in split_messages(connection.recv(_RECEIVE_BYTES)):
            if kind != ERROR:
                continue
            code = error_code(payload)
            if code not in (0, errno.EEXIST):
                raise_error(payload)
            made += not code
    return made


def _entry(planted: Planted) -> bytes:
    ways = (
        (_CTA_TUPLE_ORIG, planted.pod, planted.remote, planted.port, planted.remote_port, _ECHO_REQUEST),
        (_CTA_TUPLE_REPLY, planted.remote, planted.pod, planted.remote_port, planted.port, _ECHO_REPLY),
    )
    entry = b""
    for kind, source, destination, port, other_port, icmp_type in ways:
        addresses = attribute(_CTA_IP_V4_SRC, source) + attribute(_CTA_IP_V4_DST, destination)
        protocol = attribute(_CTA_PROTO_NUM, bytes([planted.protocol]))
        if planted.protocol == socket.IPPROTO_ICMP:
            protocol += attribute(_CTA_PROTO_ICMP_ID, struct.pack(">H", planted.port))
            protocol += attribute(_CTA_PROTO_ICMP_TYPE, bytes([icmp_type])) + attribute(_CTA_PROTO_ICMP_CODE, b"\0")
        else:
            protocol += attribute(_CTA_PROTO_SRC_PORT, struct.pack(">H", port))
            protocol += attribute(_CTA_PROTO_DST_PORT, struct.pack(">H", other_port))
        both = attribute(_CTA_TUPLE_IP | NESTED, addresses) + attribute(_CTA_TUPLE_PROTO | NESTED, protocol)
        entry += attribute(kind | NESTED, both)
    status = _CONFIRMED | _SEEN_REPLY | _ASSURED
    entry += attribute(_CTA_STATUS, struct.pack(">I", status)) + attribute(_CTA_TIMEOUT, struct.pack(">I", _PLANTED_S))
    if planted.protocol == socket.IPPROTO_TCP:
        # Nothing is known of its window.
        liberal = bytes([_BE_LIBERAL, _BE_LIBERAL])
        state = attribute(_TCP_STATE, bytes([_ESTABLISHED]))
        state += attribute(_TCP_FLAGS_ORIGINAL, liberal) + attribute(_TCP_FLAGS_REPLY, liberal)
        entry += attribute(_CTA_PROTOINFO | NESTED, attribute(_CTA_PROTOINFO_TCP | NESTED, state))
    return entry


def _source(attribute: memoryview) -> int:
    return int.from_bytes(attribute[_SOURCE_OFFSET : _SOURCE_OFFSET + 4], "big")


def _request(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return message(kind, flags, sequence, _NFGEN + body)


def _filter(pod: IPv4Address, side: int, flag: int) -> bytes:
    """For the kernel: only entries whose first packet had the pod's address on this side."""
    address = attribute(_CTA_TUPLE_IP | NESTED, attribute(side, pod.packed))
    flags = attribute(_CTA_FILTER_ORIG_FLAGS, struct.pack("=I", flag))
    return attribute(_CTA_TUPLE_ORIG | NESTED, address) + attribute(_CTA_FILTER | NESTED, flags)
