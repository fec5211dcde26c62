import itertools
import os

import pytest

from loadtest.scale.options import ScaleOptions, ScaleSizes

_numbers = itertools.count()
SMALL = ScaleSizes(
    policies=8,
    pods=480,
    restart_pods=400,
    cluster_pods=4000,
    few_pods=24,
    pace_span_s=1.5,
    flipped_pods=400,
    flipped_nodes=4,
    rule_sets=96,
)


@pytest.fixture(scope="module")
def options() -> ScaleOptions:
    """Of everything a little, in network namespaces that nobody else has."""
    return ScaleOptions(repeats=1, name=f"e{os.getpid() % 100000}s{next(_numbers)}", sizes=SMALL)
