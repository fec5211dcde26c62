"""What a run of the datapath's load test is asked for."""

from dataclasses import dataclass

from loadtest.variant import POLICY_PATH


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything: as the goals have it, and less of it in tests."""

    policies: int = 1000
    pods: int = 5000
    """Of one node, beside those of the lab."""
    fill_pace: int = 3000
    """Flows a second, while a node's ports are filled."""
    fill_flows: int = 32_000
    """Towards one remote: as many as one node may ever have ports for, and as one pod may have flows."""
    connections: int = 20_000
    connections_s: float = 10.0
    idle: int = 2000
    flood: int = 1_000_000
    edits: int = 10
    new_pods: int = 60
    conversations: int = 120


@dataclass(frozen=True, slots=True)
class DatapathOptions:
    """All rows take these."""

    rounds: int = 5
    """Interleaved: of each, every variant is measured one right after the other."""
    duration_s: float = 1.0
    """Of one measurement."""
    name: str = "load"
    """Prefix of the labs' names."""
    bulk: bool = True
    """Measure one TCP stream too."""
    only: tuple[str, ...] = ()
    """Names of rows; empty: all."""
    paths: tuple[str, ...] = (POLICY_PATH,)
    """Which ways of established flows are measured; each in a run of its own rounds."""
    sizes: Sizes = Sizes()
