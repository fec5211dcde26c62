"""What agent and keeper of one node tell each other over two unix datagram sockets in the run folder.

The agent's heartbeat says what the keeper cannot know itself (assignments, interfaces); the keeper says what it holds.
Each message is the whole truth at its time, so a lost one is replaced by the next.
"""

import msgspec

from service.model.lease import Elector, Electorate, Token

KEEPER_SOCKET = "keeper.sock"
AGENT_SOCKET = "agent.sock"


class Uplink(msgspec.Struct, frozen=True, array_like=True):
    """The interface on whose segment a floating IP is announced."""

    floating_ip: str
    ifname: str
    ifindex: int
    mac: str
    """Twelve hexadecimal digits."""
    carrier: bool


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """This node's part in the assignment of one floating IP."""

    floating_ip: str
    role: str
    """`holder` or `successor`."""
    term: int
    version: int


class ElectorateRecord(msgspec.Struct, frozen=True, array_like=True):
    """An electorate as it travels between the processes of a node."""

    epoch: int
    members: tuple[tuple[str, str, int], ...]
    """(name, address, memory)."""
    previous: tuple[tuple[str, str, int], ...] = ()
    begun_anew: bool = False
    """An operator's word, in the object: it follows no epoch before (leases.md, M6)."""

    @classmethod
    def of(cls, electorate: Electorate, *, begun_anew: bool = False) -> "ElectorateRecord":
        """The record of an electorate; `electorate` of it is that one again."""
        members, previous = (
            tuple((one.name, one.host, one.memory) for one in electors)
            for electors in (electorate.members, electorate.previous)
        )
        return cls(electorate.epoch, members, previous, begun_anew)

    @property
    def electorate(self) -> Electorate:
        """The electorate of the record."""
        members, previous = (tuple(Elector(*one) for one in electors) for electors in (self.members, self.previous))
        return Electorate(self.epoch, members, previous)


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """Agent to keeper, each 200 ms and at once on a change."""

    ready: bool
    """The datapath is loaded and attached; without it the keeper claims nothing new."""
    uplinks: tuple[Uplink, ...] = ()
    claims: tuple[Claim, ...] = ()
    """Every IP of which this node is holder or successor; an IP held but no longer listed is handed over."""
    electorate: ElectorateRecord | None = None
    """As the object says; None where there is none, or it is not known."""


class HeldLease(msgspec.Struct, frozen=True, array_like=True):
    """One floating IP that this node holds, with its token spelt out and the end of the lease as the kernel has it."""

    floating_ip: str
    term: int
    version: int
    counter: int
    deadline_ns: int
    """CLOCK_BOOTTIME."""

    @property
    def token(self) -> Token:
        """The fencing token under which it is held (K1)."""
        return Token(self.term, self.version, self.counter)


class LeaseReport(msgspec.Struct, frozen=True, tag="leases"):
    """Keeper to agent, each 200 ms and at once when a lease is acquired or lost."""

    held: tuple[HeldLease, ...]
    elector: bool
    """This node is one of the electors, with the disk that was meant (M7)."""
    voting: bool
    """It answers claims: not in the silence of an elector that lost its promises (P2)."""
    scheduling: str
    """What the process got: `fifo`, `nice`, or `normal`."""
    at_ns: int = 0
    """CLOCK_BOOTTIME at which `held` was true: the audit log's evidence. 0 from a keeper that does not say."""
    released: tuple[str, ...] = ()
    """Floating IPs just given up before their deadline; the deadlines that the agent knows may be 200 ms old."""
    silent: tuple[tuple[str, int], ...] = ()
    """Electors that it does not see vote, and when each last did, by CLOCK_BOOTTIME."""
    electorate: ElectorateRecord | None = None
    """The electorate in force on this node."""
    settled: bool = False
    """The elector knows what was promised before its epoch (leases.md, M3)."""
    trouble: str = ""
    """Why an electorate that was offered is refused, or why this node is no elector though it is named."""
    wanted: ElectorateRecord | None = None
    """The one to follow `electorate`, asked for by one of two electors that lost the other: to be swapped in."""
    majority: bool = True
    """It sees a majority of electors vote. True from a keeper that does not say."""
    troubles: tuple[str, ...] = ()
    """What is wrong in the keeper itself now, a line each."""
    errors: dict[str, int] = {}
    """How often each task of the keeper has failed since its start."""
    refused: dict[str, int] = {}
    """Datagrams that its socket has refused, by reason."""
    keys: tuple[str, ...] = ()
    """Ids of the keys in force in the keeper; the first one seals."""
    lags: tuple[int, ...] = ()
    """How often its event loop was how late (`host.loop_lag`). Empty from a keeper that does not say."""
    lag_sum_s: float = 0.0
    """In all."""


class Waiting(msgspec.Struct, frozen=True, tag="waiting"):
    """Keeper to agent, in place of reports, while a disk does not let it begin: it holds and grants nothing."""

    trouble: str


KeeperMessage = Heartbeat | LeaseReport | Waiting
