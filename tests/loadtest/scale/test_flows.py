import pytest

from loadtest.scale.curve import QUADRATIC
from loadtest.scale.flows import fill_flows, kernel_memory, measure_flows, own_maps
from loadtest.scale.options import ScaleOptions, ScaleSizes
from service.datapath.layout import MAP_SHAPES, MapName
from service.model.errors import TransientError

pytestmark = [pytest.mark.root, pytest.mark.bpf]


def test_every_flow_is_looked_at_and_neither_time_nor_memory_turns_quadratic() -> None:
    row = measure_flows(ScaleOptions(repeats=3, sizes=ScaleSizes(flows=10_000)), lambda line: None)
    for curve in row.detail["curves"]:
        assert [size for size, _ in curve["points"]] == [500, 2000, 10_000]
        assert curve["exponent"] < QUADRATIC, curve["title"]
    assert len(row.detail["ms"]["10000"]) == 3
    assert all(figure.value for figure in row.figures)


def test_the_kernel_takes_more_for_a_flow_than_its_row() -> None:
    with own_maps(1000) as maps:
        shape = MAP_SHAPES[MapName.FLOWS_OPEN]
        assert kernel_memory(maps[MapName.FLOWS_OPEN]) > 1000 * (shape.key_size + shape.value_size)


def test_flows_that_find_no_room_are_no_measurement() -> None:
    with own_maps(100) as maps, pytest.raises(TransientError, match="no room for 200 flows"):
        fill_flows(maps[MapName.FLOWS_OPEN], 200)
