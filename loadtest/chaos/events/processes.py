"""What happens to our own programs."""

import contextlib
import random
import secrets
import signal
from pathlib import Path

from loadtest.chaos.event import QUIET, Cost, Event
from loadtest.chaos.site import ChaosSite
from service.lab.configuration import member_folder
from service.lab.process import ProcessRecord, send_signal

MOVED = Cost(moves=True)
LEASE_OVER = frozenset(("lease_expired_ingress", "lease_expired_egress", "no_gateway", "wrong_block"))
"""What is dropped while nobody holds an address, or its holder is not known, or has not looked at blocks yet (R3)."""
_FILLING = bytes(1 << 20)


class _Signalled(Event):
    """Some programs of one member get a signal."""

    cost = MOVED
    kinds: tuple[str, ...] = ()

    def __init__(self, site: ChaosSite, chance: random.Random) -> None:
        super().__init__(site, chance)
        self.member = chance.choice(site.controllers) if "controller" in self.kinds else self.node.name

    def victims(self) -> list[ProcessRecord]:
        """Those that are there."""
        return [record for kind in self.kinds for record in self.site.records(self.member, kind)]


class _Killed(_Signalled):
    number = signal.SIGKILL

    def apply(self) -> None:
        """At once, whatever it was doing."""
        for record in self.victims():
            self.site.end(record, self.number, self.name)

    def undo(self) -> None:
        """Whoever watches over it starts it again."""
        self.site.restart(self.member)


class _Stopped(_Signalled):
    def apply(self) -> None:
        """It hangs."""
        for record in self.victims():
            send_signal(record, signal.SIGSTOP)

    def undo(self) -> None:
        """It goes on as if nothing had been."""
        for record in self.victims():
            send_signal(record, signal.SIGCONT)


class AgentKilled(_Killed):
    """SIGKILL of an agent."""

    name = "kill-agent"
    kinds = ("agent",)


class KeeperKilled(_Killed):
    """SIGKILL of a lease keeper."""

    name = "kill-keeper"
    kinds = ("keeper",)

    def trouble(self) -> tuple[str, str] | None:
        """Its agent."""
        return self.node.name, "keeper"


class ControllerKilled(_Killed):
    """SIGKILL of a controller."""

    name = "kill-controller"
    kinds = ("controller",)


class NodeKilled(_Killed):
    """Agent and keeper of a node die together."""

    name = "kill-node"
    kinds = ("keeper", "agent")


class AgentRestarted(_Killed):
    """An agent is told to stop, and started again."""

    name = "restart-agent"
    kinds = ("agent",)
    number = signal.SIGTERM
    cost = Cost(loses=False, breaks=False)


class KeeperRestarted(_Killed):
    """A lease keeper is told to stop, and started again."""

    name = "restart-keeper"
    kinds = ("keeper",)
    number = signal.SIGTERM


class NodeRestarted(_Killed):
    """Agent and keeper of a node are told to stop, as for an upgrade, and started again."""

    name = "restart-node"
    kinds = ("keeper", "agent")
    number = signal.SIGTERM


class AgentStopped(_Stopped):
    """An agent hangs."""

    name = "stop-agent"
    kinds = ("agent",)


class KeeperStopped(_Stopped):
    """A lease keeper hangs: its leases end in the kernel."""

    name = "stop-keeper"
    kinds = ("keeper",)
    drops = LEASE_OVER

    def trouble(self) -> tuple[str, str] | None:
        """Its agent."""
        return self.node.name, "keeper"


class ControllerStopped(_Stopped):
    """A controller hangs."""

    name = "stop-controller"
    kinds = ("controller",)


class NodeStopped(_Stopped):
    """Agent and keeper of a node hang together."""

    name = "stop-node"
    kinds = ("keeper", "agent")


class ControllersKilled(_Killed):
    """Nobody leads for a while."""

    name = "kill-controllers"
    telling_s = 10.0
    kinds = ("controller",)

    def victims(self) -> list[ProcessRecord]:
        """All of them."""
        return [record for name in self.site.controllers for record in self.site.records(name, "controller")]

    def undo(self) -> None:
        """All of them."""
        for name in self.site.controllers:
            self.site.restart(name)

    def trouble(self) -> tuple[str, str] | None:
        """Any node: in whichever words it has for a leader that is gone."""
        return self.node.name, "no address is assigned anew"


class MajorityLost(_Stopped):
    """Two of three keepers hang: nobody may hold anything, and the third must say so."""

    name = "majority-lost"
    # A majority is out of sight when it has not answered for two seconds, and each process on the way has a beat.
    telling_s = 5.0
    kinds = ("keeper",)
    drops = LEASE_OVER

    def victims(self) -> list[ProcessRecord]:
        """All but those of the chosen node."""
        others = [node.name for node in self.site.nodes if node is not self.node]
        return [record for name in others for record in self.site.records(name, "keeper")]

    def trouble(self) -> tuple[str, str] | None:
        """The one that is left."""
        return self.node.name, "majority"


class WrongKey(_Signalled):
    """A node's keyring is written wrong, and its programs are started again with it."""

    name = "wrong-key"
    # Both programs are started anew first, which takes seconds.
    telling_s = 15.0
    kinds = ("keeper", "agent")

    def apply(self) -> None:
        """Nobody hears the node, and it hears nobody."""
        self._text = self._keyring.read_text(encoding="ascii")
        self._begin_with(secrets.token_hex(32))

    def undo(self) -> None:
        """The right one."""
        self._begin_with(self._text)

    def _begin_with(self, text: str) -> None:
        self._keyring.write_text(text, encoding="ascii")
        for record in self.victims():
            self.site.end(record, signal.SIGTERM, self.name)
        self.site.restart(self.member)

    @property
    def _keyring(self) -> Path:
        return member_folder(self.site.lab.folder, self.member) / "keyring"

    def trouble(self) -> tuple[str, str] | None:
        """The node itself."""
        return self.node.name, "refused as"


class DiskFull(Event):
    """The disk of a node's durable state is full."""

    name = "disk-full"
    cost = QUIET
    folder = "state"

    @property
    def _filling(self) -> Path:
        return member_folder(self.site.lab.folder, self.node.name) / self.folder / "filling"

    def apply(self) -> None:
        """To the last block."""
        with self._filling.open("wb", buffering=0) as filling, contextlib.suppress(OSError):
            while filling.write(_FILLING):
                pass

    def undo(self) -> None:
        """Somebody has cleared it."""
        self._filling.unlink(missing_ok=True)


class RunFull(DiskFull):
    """A node's /run is full: an elector there can promise nothing new."""

    name = "run-full"
    folder = "run"


EVENTS: tuple[type[Event], ...] = (
    AgentKilled,
    KeeperKilled,
    ControllerKilled,
    NodeKilled,
    AgentRestarted,
    KeeperRestarted,
    NodeRestarted,
    AgentStopped,
    KeeperStopped,
    ControllerStopped,
    NodeStopped,
    ControllersKilled,
    MajorityLost,
    WrongKey,
    DiskFull,
    RunFull,
)
"""Of this module."""
