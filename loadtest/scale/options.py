"""What a run of `scale` is asked for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScaleSizes:
    """How much of everything: as the goals have it, and less of it in tests."""

    policies: int = 1000
    pods: int = 5000
    """Of one node."""
    members: int = 1000
    gateway_nodes: int = 1000
    """In the controller's row."""
    floating_ips: int = 500
    block_nodes: int = 100
    """Nodes with a block of each floating IP."""
    restart_pods: int = 10_000
    """Selected pods of a node that starts anew."""
    cluster_pods: int = 100_000
    few_pods: int = 250
    """Of a usual node."""
    pace_s: float = 20.0
    """Changes of pods a second, and for how long below."""
    pace_span_s: float = 30.0
    flipped_pods: int = 10_000
    flipped_nodes: int = 40
    rule_sets: int = 1000
    """In netfilter's row."""
    idle_s: float = 30.0
    """For how long idle processes are watched."""
    flows: int = 100_000
    """In the table of one node."""
    churn_floating_ips: int = 100
    """In the labs of whole processes."""
    churn_policies: int = 120
    churn_pods: int = 1000
    """Of all nodes together."""
    churn_s: float = 60.0
    failure_s: float = 60.0
    """Under churn a node fails so often."""


@dataclass(frozen=True, slots=True)
class ScaleOptions:
    """All rows take these."""

    repeats: int = 5
    """Of each measurement at each size."""
    name: str = "scale"
    """Prefix of the labs' names."""
    only: tuple[str, ...] = ()
    """Names of rows; empty: all."""
    sizes: ScaleSizes = ScaleSizes()
