import pytest

from loadtest.goal import Row
from loadtest.scale.curve import QUADRATIC
from loadtest.scale.options import ScaleOptions
from loadtest.scale.restart import measure_restart
from service.lab.namespace import namespaces_of

pytestmark = [pytest.mark.root, pytest.mark.bpf]


@pytest.fixture(scope="module")
def row(options: ScaleOptions) -> Row:
    return measure_restart(options, lambda line: None)


def test_rows_come_before_pods_are_steered_and_both_take_time(row: Row, options: ScaleOptions) -> None:
    """That each pod is steered, the row itself has read from the kernel's map."""
    for found in (*row.detail["pods"].values(), *row.detail["policies"].values()):
        ((written,), (steered,)) = found["written_ms"], found["steered_ms"]
        assert 0 < written < steered
        assert found["longest_steps"][0]["ms"] > 0
    assert namespaces_of(options.name) == []


def test_a_start_does_not_grow_with_the_square_of_its_pods(row: Row) -> None:
    exponents = {curve["title"]: curve["exponent"] for curve in row.detail["curves"]}
    assert exponents["computing until all is done, from nothing"] < QUADRATIC
    assert exponents["steered, from nothing"] < QUADRATIC
