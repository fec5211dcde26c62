import pytest

from loadtest.goal import Row
from loadtest.scale.curve import QUADRATIC
from loadtest.scale.label_flip import measure_label_flip
from loadtest.scale.options import ScaleOptions
from service.lab.namespace import namespaces_of

pytestmark = [pytest.mark.root, pytest.mark.bpf]


@pytest.fixture(scope="module")
def row(options: ScaleOptions) -> Row:
    return measure_label_flip(options, lambda line: None)


def test_pods_are_selected_by_the_label_and_not_without_it(row: Row, options: ScaleOptions) -> None:
    """That each pod of this node is steered then, and none afterwards, the row has read from the kernel's map."""
    assert list(row.detail["sizes"]) == [50, 100, 200, 400]
    for kinds in row.detail["sizes"].values():
        assert set(kinds) == {"selected", "taken back"}
        assert all(flips["took_ms"][0] > 0 and flips["longest_steps"][0]["ms"] > 0 for flips in kinds.values())
    assert namespaces_of(options.name) == []


def test_a_flip_does_not_grow_with_the_square_of_its_pods(row: Row) -> None:
    exponents = {curve["title"]: curve["exponent"] for curve in row.detail["curves"]}
    assert exponents["selected: label to last row"] < QUADRATIC
    assert exponents["taken back: label to last row"] < QUADRATIC
