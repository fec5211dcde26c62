"""Histories of one block, told step by step: what random faults do too seldom.

There is one block of one address, five nodes and exact clocks. Everybody knows everything within 100 ms, unless the
story says otherwise. Nodes send packets when told to; the world judges each that a gateway takes.
"""

from collections.abc import Callable

import pytest

from tests.simulation.block_world import IPS, Agent, BlockWorld, InvariantViolated
from tests.simulation.world import MS, SECOND, Clock, Link

IP = IPS[0]
HOLDER, NEXT, A, FAR, B = "node0", "node1", "node2", "node3", "node4"
FIRST, SECOND_LEADER = "controller-a", "controller-b"


class BlockStory(BlockWorld):
    """`HOLDER` has the address, `NEXT` stands by, `FAR` is no gateway yet; `A` and `B` want the block."""

    def __init__(self, *, is_new: bool = True) -> None:
        super().__init__(1, is_new=is_new, blocks=1)
        self.uninformed: dict[str, None] = {}
        self.unasking: dict[str, None] = {}
        """Gateways that do not ask whether they are whole."""
        self.give_lease(IP, HOLDER, NEXT)
        self.barred[SECOND_LEADER] = None
        self._each(50 * MS, self.elect)
        self._each(100 * MS, self.inform)
        self._each(200 * MS, self.scan)

    def _clock(self) -> Clock:
        return Clock(offset_ns=100 * SECOND)

    def inform(self) -> None:
        for name in sorted(self.kernels):
            if name not in self.uninformed:
                self._inform(name)
        self._inform_leader()

    def _inform(self, name: str) -> None:
        super()._inform(name)
        machine = self.net.nodes[name].machine
        if name in getattr(self, "unasking", {}) and isinstance(machine, Agent):
            machine.gateway.serve((), now_ns=self.local_ns(name))

    def run(self, seconds: float) -> None:
        self.net.run_for(int(seconds * SECOND))

    # What happens

    def bind(self, name: str) -> None:
        """A selected pod is bound to the node, and to no other from now on."""
        self.demand[IP] = {name: None}
        self.needs[(name, IP)] = 1

    def given_to(self, name: str) -> None:
        """The node has the block and uses it."""
        self.bind(name)
        self.run(0.8)
        assert self.is_usable(name), f"{name} does not have the block"
        self.send(name)

    def is_usable(self, name: str) -> bool:
        return 0 in self.kernels[name].usable.get(IP, ())

    def send(self, name: str) -> bool:
        """One packet of a flow that the node takes to be its own. Says whether the gateway took it."""
        before = self.accepted
        self.kernels[name].flows[(IP, 0)] = None
        self._arrive(name, self.ways[name][IP][0], IP, 0)
        return self.accepted > before

    def scan(self) -> None:
        """Flows do not end by themselves here."""

    def sever(self, name: str, *others: str) -> None:
        """What agents and leaders say to each other does not pass; packets do."""
        self.net.cut([name], list(others or [one for one in self.net.nodes if one != name]))

    def join(self, name: str, *others: str) -> None:
        """The reverse of `sever`."""
        gone = set(others or self.net.nodes)
        self.net.cuts = {pair for pair in self.net.cuts if not (name in pair and gone & (set(pair) - {name}))}

    def succeed(self, to: str, successor: str) -> None:
        """The lease goes to a node, and everybody hears of it."""
        self.give_lease(IP, to, successor)
        self.inform()

    def change_leader(self) -> None:
        """The first leader's lease ends; it does not know why. The second is elected."""
        self.barred = {FIRST: None}
        self.run(0.4)
        assert self.leading[0] == SECOND_LEADER

    def slow_down(self, source: str, target: str, seconds: float) -> None:
        """Datagrams from one to the other take so long from now on."""
        span_ns = int(seconds * SECOND)
        self.net.links[(source, target)] = Link(delay_ns_min=span_ns, delay_ns_max=span_ns)


def breaks(story: Callable[[], object]) -> None:
    """Told with a rule cut, the story has two nodes use the block."""
    with pytest.raises(InvariantViolated):
        story()
