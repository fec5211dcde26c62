"""Every network that some policy in force names: where no pod may send that nobody has classified (rule W11)."""

from collections.abc import Sequence
from ipaddress import IPv4Network

from service.model.objects import ObjectKey


class NamedNetworks:
    """Counted, so that a change costs what it changes: many policies name the same network."""

    def __init__(self) -> None:
        self._by_policy: dict[ObjectKey, tuple[IPv4Network, ...]] = {}
        self._counts: dict[IPv4Network, int] = {}
        self._listed: tuple[IPv4Network, ...] | None = None

    def put(self, policy: ObjectKey, networks: Sequence[IPv4Network]) -> None:
        """What this policy names from now on; nothing where it is gone or refused."""
        before, after = self._by_policy.pop(policy, ()), tuple(networks)
        if after:
            self._by_policy[policy] = after
        if before == after:
            return
        # Come before gone: a network that stays is never at zero.
        new = [self._add(network, 1) for network in after]
        old = [self._add(network, -1) for network in before]
        if any(new) or any(old):
            self._listed = None

    def _add(self, network: IPv4Network, count: int) -> bool:
        """Whether this was its first or its last."""
        former = self._counts.pop(network, 0)
        if former + count:
            self._counts[network] = former + count
        return 0 in (former, former + count)

    def networks(self) -> tuple[IPv4Network, ...]:
        """All of them, each once, in no order; the same tuple until one comes that nobody named, or one goes."""
        if self._listed is None:
            self._listed = tuple(self._counts)
        return self._listed
