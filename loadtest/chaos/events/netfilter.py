"""What others do to a node's packet filter and connection tracking."""

from loadtest.chaos.event import QUIET, Cost, Event
from service.lab.namespace import write_sysctls

_MARK = 0x1000
"""`datapath.mark` of the lab's settings, which is the default."""


class ConntrackFlush(Event):
    """Somebody runs `conntrack -F`."""

    name = "conntrack-flush"
    cost = Cost(loses=False, breaks=False, bare=True)

    def apply(self) -> None:
        """Every entry of the node goes."""
        self.site.on(self.node.name, "conntrack", "-F")


class ConntrackForgets(Event):
    """A node whose connection tracking forgets within seconds."""

    name = "conntrack-timeouts"
    cost = QUIET

    def apply(self) -> None:
        """UDP, ping and half-open TCP for a second."""
        keys = ("udp_timeout", "udp_timeout_stream", "icmp_timeout")
        write_sysctls(self.node.netns, {f"netfilter/nf_conntrack_{key}": "1" for key in keys})

    def undo(self) -> None:
        """The kernel's own values."""
        values = {"udp_timeout": "30", "udp_timeout_stream": "120", "icmp_timeout": "30"}
        write_sysctls(self.node.netns, {f"netfilter/nf_conntrack_{key}": value for key, value in values.items()})


class RulesetFlush(Event):
    """Somebody runs `nft flush ruleset`; the CNI's agent puts its own rules back, late."""

    name = "nft-flush"
    cost = Cost(bare=True)

    def apply(self) -> None:
        """All tables of the node go, ours too."""
        self.site.on(self.node.name, "nft", "flush", "ruleset")

    def undo(self) -> None:
        """Only the CNI's: ours is our own business."""
        self.site.restore_cni(self.node)


class ChainsRewritten(Event):
    """A CNI writes its chains anew, at the head of its table."""

    name = "cni-rewrite"
    cost = Cost(loses=False, breaks=False, bare=True)

    def apply(self) -> None:
        """As its agent does every half minute."""
        self.site.restore_cni(self.node)


class ForwardDenied(Event):
    """A deny appears under open flows, as a NetworkPolicy makes it, and goes again."""

    name = "forward-deny"

    def apply(self) -> None:
        """All that a selected pod of the node sends."""
        pod = self.chance.choice([pod for pod in self.site.selected if pod.node == self.node.name])
        rule = f"add rule ip chaos forward ip saddr {pod.ip} drop"
        chain = "add chain ip chaos forward { type filter hook forward priority filter; }"
        self.site.on(self.node.name, "nft", f"add table ip chaos; {chain}; {rule}")

    def undo(self) -> None:
        """The table goes; where somebody has flushed the ruleset it is gone."""
        self.site.on(self.node.name, "nft", "delete table ip chaos", check=False)


class InvalidDropped(Event):
    """A firewall drops what connection tracking calls invalid."""

    name = "invalid-drop"
    cost = QUIET

    def apply(self) -> None:
        """In the forward hook, before everybody else."""
        chain = "add chain ip strict forward { type filter hook forward priority -10; }"
        rule = "add rule ip strict forward ct state invalid drop"
        self.site.on(self.node.name, "nft", f"add table ip strict; {chain}; {rule}")

    def undo(self) -> None:
        """The table goes."""
        self.site.on(self.node.name, "nft", "delete table ip strict", check=False)


class MarkSet(Event):
    """Somebody's rule sets our bit of the mark on packets of pods that no policy selects."""

    name = "mark-set"

    def apply(self) -> None:
        """In the prerouting hook, of all that one of them sends."""
        pod = self.chance.choice([pod for pod in self.node.pods if pod.role != "frontend"])
        chain = "add chain ip marker prerouting { type filter hook prerouting priority mangle; }"
        rule = f"add rule ip marker prerouting ip saddr {pod.ip} meta mark set meta mark or {_MARK:#x}"
        self.site.on(self.node.name, "nft", f"add table ip marker; {chain}; {rule}")

    def undo(self) -> None:
        """The table goes."""
        self.site.on(self.node.name, "nft", "delete table ip marker", check=False)


EVENTS: tuple[type[Event], ...] = (
    ConntrackFlush,
    ConntrackForgets,
    RulesetFlush,
    ChainsRewritten,
    ForwardDenied,
    InvalidDropped,
    MarkSet,
)
"""Of this module."""
