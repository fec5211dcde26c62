"""What users and their tools do with the objects."""

from loadtest.chaos.event import QUIET, Cost, Event
from loadtest.chaos.site import DESTINATIONS
from loadtest.gateway import FLOATING_IPS

EDITED = Cost(moves=True)


class UnrelatedCidr(Event):
    """A policy gets a destination that nobody talks to."""

    name = "unrelated-cidr"
    cost = QUIET

    def apply(self) -> None:
        """An edit that concerns no flow."""
        self.site.apply_policy(destinations=(*DESTINATIONS, "198.51.100.0/24"))

    def undo(self) -> None:
        """And loses it."""
        self.site.apply_policy()


class PolicyAddressChanged(Event):
    """A policy names another floating IP, and the first one again."""

    name = "policy-address"
    cost = EDITED

    def apply(self) -> None:
        """The second one of the list."""
        self.site.apply_policy(FLOATING_IPS[1])

    def undo(self) -> None:
        """The first one."""
        self.site.apply_policy()


class PolicyRemoved(Event):
    """A policy is deleted, and created again."""

    name = "policy-removed"
    cost = EDITED

    def apply(self) -> None:
        """Its file goes."""
        self.site.apply_policy(None)

    def undo(self) -> None:
        """The same policy."""
        self.site.apply_policy()


class ManyCidrs(Event):
    """A policy with hundreds of destinations."""

    name = "many-cidrs"
    cost = QUIET

    def apply(self) -> None:
        """None of them talked to."""
        many = tuple(f"198.18.{number}.0/24" for number in range(250))
        self.site.apply_policy(destinations=(*DESTINATIONS, *many))

    def undo(self) -> None:
        """The one that is."""
        self.site.apply_policy()


class AddressRemovedInUse(Event):
    """A floating IP that a policy uses is taken out of the list, and put back."""

    name = "address-removed"
    cost = EDITED
    # No node has ports of it any more: what is under way meanwhile finds no block.
    drops = frozenset(("no_gateway", "lease_expired_ingress", "lease_expired_egress", "wrong_block", "no_flow"))

    def apply(self) -> None:
        """Matching packets are dropped: they must not leave with any other source."""
        self.site.apply_gateway(*FLOATING_IPS[1:])

    def undo(self) -> None:
        """All three again."""
        self.site.apply_gateway()

    def trouble(self) -> tuple[str, str] | None:
        """The policy that uses it is not in force."""
        return self.node.name, FLOATING_IPS[0]


class BrokenFile(Event):
    """A file that is no YAML, and one with a policy that is none, beside the good ones."""

    name = "broken-file"
    cost = QUIET

    def apply(self) -> None:
        """Both."""
        self.site.write_file("broken.yaml", "spec: [\n")
        self.site.write_file("nonsense.yaml", NONSENSE)

    def undo(self) -> None:
        """Both are taken away."""
        for name in ("broken.yaml", "nonsense.yaml"):
            (self.site.lab.manifests / name).unlink(missing_ok=True)

    def trouble(self) -> tuple[str, str] | None:
        """Every member reads them."""
        return self.node.name, "broken.yaml"


NONSENSE = """\
apiVersion: networking.gke.io/v1alpha1
kind: EgressNATPolicy
metadata: {name: nonsense}
spec: {egress: [], destinationCIDRs: [8.8.8.0/99], egressSourceIP: nowhere}
"""


EVENTS: tuple[type[Event], ...] = (
    UnrelatedCidr,
    PolicyAddressChanged,
    PolicyRemoved,
    ManyCidrs,
    AddressRemovedInUse,
    BrokenFile,
)
"""Of this module."""
