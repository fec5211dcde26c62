"""How fast new flows take the ports of each floating IP, between two looks at all flows (rule Q2). Pure.

Ports are there once for each remote, so what counts is the remote towards which they run out first, which need not be
the busiest: a new one may be on its way up below it. Where they have run out nothing grows any more; then it is what is
refused that says how fast more is wanted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from service.datapath.flow_scan import Remote
from service.port_block.owner import RESERVE_S


@dataclass(frozen=True, slots=True)
class Demand:
    """Towards the remote at which ports run out first."""

    taken: int = 0
    per_s: float = 0.0
    """New flows, with those that were refused. At the first look of a remote all that it has."""


@dataclass(slots=True)
class PortDemand:
    """What the last look has found."""

    _taken: Mapping[Remote, int] = field(default_factory=dict)
    _refused: Mapping[IPv4Address, int] | None = None
    _begun_ns: int = 0
    _found: dict[IPv4Address, Demand] = field(default_factory=dict)

    def take(self, taken: Mapping[Remote, int], refused: Mapping[IPv4Address, int], *, begun_ns: int) -> None:
        """`taken`: ports in use, which is kept and must not change. `refused`: flows in all, for want of a port."""
        passed_s = max(0.001, (begun_ns - self._begun_ns) / 1e9)
        before, found = self._taken, dict[bytes, Demand]()
        for remote, ports in taken.items():
            demand = Demand(ports, max(0, ports - before.get(remote, 0)) / passed_s)
            if _in_a_while(demand) > _in_a_while(found.get(remote.floating_ip, Demand())):
                found[remote.floating_ip] = demand
        self._found = {IPv4Address(packed): demand for packed, demand in found.items()}
        former = refused if self._refused is None else self._refused
        for floating_ip, flows in refused.items():
            # Counted since the maps were made, and anew where somebody has emptied them.
            missed = flows - former.get(floating_ip, 0)
            if missed > 0:
                known = self.of(floating_ip)
                self._found[floating_ip] = Demand(known.taken, known.per_s + missed / passed_s)
        self._taken, self._refused, self._begun_ns = taken, refused, begun_ns

    def of(self, floating_ip: IPv4Address) -> Demand:
        """None at all where no flow uses it."""
        return self._found.get(floating_ip, Demand())


def _in_a_while(demand: Demand) -> float:
    return demand.taken + demand.per_s * RESERVE_S
