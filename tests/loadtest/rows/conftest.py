import itertools
import os

import pytest

from loadtest.rows.options import DatapathOptions, Sizes

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
