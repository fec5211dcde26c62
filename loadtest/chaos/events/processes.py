"""What happens to our own programs."""

import random
import signal

from loadtest.chaos.event import Cost, Event
from loadtest.chaos.site import ChaosSite
from service.lab.process import ProcessRecord, send_signal

MOVED = Cost(moves=True)


class _Signalled(Event):
    """Some programs of one member get a signal."""

    cost = MOVED
    kinds: tuple[str, ...] = ()

    def __init__(self, site: ChaosSite, chance: random.Random) -> None:
        super().__init__(site, chance)
        names = [controller.name for controller in site.lab.plan.controllers]
        self.member = chance.choice(names) if "controller" in self.kinds else self.node.name

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


class AgentStopped(_Stopped):
    """An agent hangs."""

    name = "stop-agent"
    kinds = ("agent",)


class KeeperStopped(_Stopped):
    """A lease keeper hangs: its leases end in the kernel."""

    name = "stop-keeper"
    kinds = ("keeper",)


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
    kinds = ("controller",)

    def victims(self) -> list[ProcessRecord]:
        """All of them."""
        names = [controller.name for controller in self.site.lab.plan.controllers]
        return [record for name in names for record in self.site.records(name, "controller")]

    def undo(self) -> None:
        """All of them."""
        for controller in self.site.lab.plan.controllers:
            self.site.restart(controller.name)


class MajorityLost(_Stopped):
    """Two of three keepers hang: nobody may hold anything, and the third must say so."""

    name = "majority-lost"
    kinds = ("keeper",)

    def victims(self) -> list[ProcessRecord]:
        """All but those of the chosen node."""
        others = [node.name for node in self.site.nodes if node is not self.node]
        return [record for name in others for record in self.site.records(name, "keeper")]

    def trouble(self) -> tuple[str, str] | None:
        """The one that is left."""
        return self.node.name, "majority"


EVENTS: tuple[type[Event], ...] = (
    AgentKilled,
    KeeperKilled,
    ControllerKilled,
    NodeKilled,
    AgentRestarted,
    AgentStopped,
    KeeperStopped,
    ControllerStopped,
    NodeStopped,
    ControllersKilled,
    MajorityLost,
)
"""Of this module."""
