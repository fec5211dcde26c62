"""What tests of one machine alone share: an electorate, addresses, and shorthand for messages."""

from service.lease.elector import ElectorMachine
from service.lease.elector_output import Persist
from service.lease.message import Ack, ClaimRole, Entry, Message, Renew, decode, encode
from service.lease.promise import NEVER, Instant, encode_promises
from service.model.lease import Elector, Electorate, Token
from service.model.machine import Address, Send, Source

MS = 1_000_000
IP = "192.0.2.100"
BOOT = bytes(16)
ELECTORATE = Electorate(1, tuple(Elector(f"node{i}", f"10.0.0.{i}") for i in range(3)))
LEASE_NS, RENEW_NS = 300 * MS, 60 * MS
LEASE_NS_MAX = 15_000 * MS


def at(ms: float) -> Instant:
    """Both clocks at the same reading."""
    return Instant(int(ms * MS), int(ms * MS))


def source(name: str, start_id: int = 1) -> Source:
    return Source(Address(f"10.0.9.{ord(name[-1]) % 250}", 9644), name, start_id)


def claim(token: Token, role: ClaimRole = ClaimRole.HOLDER, *, key: str = IP, held: bool = False) -> Entry:
    return Entry(key, role, token, held)


def renew(sequence: int, *entries: Entry, lease_ns: int = LEASE_NS, epoch: int = 1, number: int | None = None) -> bytes:
    """A renewal; without entries it refers to list `number`."""
    listed = entries or None
    return encode(Renew(epoch, BOOT, sequence, lease_ns, RENEW_NS, 0, sequence if number is None else number, listed))


def fresh_elector(*, now: Instant = NEVER, tokens: bytes | None = None) -> ElectorMachine:
    """One that has an empty record of this boot, and so votes at once."""
    return ElectorMachine(
        node="node0",
        boot_id=BOOT,
        electorate=ELECTORATE,
        lease_ns_max=LEASE_NS_MAX,
        promises=encode_promises(BOOT, LEASE_NS_MAX, {}),
        tokens=tokens,
        now=now,
    )


def sole_elector(*, now: Instant = NEVER, promises: bytes | None = None, tokens: bytes | None = None) -> ElectorMachine:
    """The only one of its electorate, with an empty record of this boot unless another is given."""
    return ElectorMachine(
        node="node0",
        boot_id=BOOT,
        electorate=Electorate(1, ELECTORATE.members[:1]),
        lease_ns_max=LEASE_NS_MAX,
        promises=promises or encode_promises(BOOT, LEASE_NS_MAX, {}),
        tokens=tokens,
        now=now,
    )


def sent(outputs: list[object]) -> list[tuple[Address, Message]]:
    return [(output.to, decode(output.payload)) for output in outputs if isinstance(output, Send)]


def acks(outputs: list[object]) -> dict[str, Ack]:
    """The last acknowledgement to each host."""
    return {to.host: message for to, message in sent(outputs) if isinstance(message, Ack)}


def records(outputs: list[object]) -> list[bytes]:
    return [output.data for output in outputs if isinstance(output, Persist)]
