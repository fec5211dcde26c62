import itertools
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from loadtest import gateway, peer
from loadtest.rows import edit, flood, moves
from loadtest.rows.options import DatapathOptions, Sizes
from loadtest.station import Station
from loadtest.variant import GATEWAY, Site

_numbers = itertools.count()
SMALL = Sizes(
    policies=20,
    pods=60,
    fill_pace=1000,
    fill_flows=300,
    connections=200,
    connections_s=0.5,
    idle=20,
    flood=2000,
    edits=4,
    new_pods=2,
    conversations=12,
)


@pytest.fixture
def options() -> DatapathOptions:
    """Of everything a little, in labs that nobody else has."""
    name = f"e{os.getpid() % 100000}r{next(_numbers)}"
    return DatapathOptions(rounds=1, duration_s=0.1, name=name, sizes=SMALL)


HERE = "127.0.0.1"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A pod and a server that are both this machine itself: everything of a row but the lab."""
    monkeypatch.setattr(peer, "SERVER", HERE)
    for module in (gateway, edit, flood, moves):
        monkeypatch.setattr(module, "SOURCE_IP", HERE)
    for module, name in ((flood, "NOWHERE"), (edit, "OUTSIDE")):
        monkeypatch.setattr(module, name, HERE)
    lab: Any = SimpleNamespace(plan=SimpleNamespace(router=None, nodes=()))
    pod: Any = SimpleNamespace(netns=None, node="worker2")
    with Station(None) as client, Station(None) as server:
        yield Site(GATEWAY, client, server, HERE, lab, pod, "worker1")
