import pytest

from service.datapath.flow_room import FLOWS_MAX, FLOWS_MIN, FlowRoom, physical_memory_bytes

GIB = 1 << 30


@pytest.mark.parametrize(
    ("gib", "flows"), [(0.25, FLOWS_MIN), (1, 16_384), (8, 131_072), (64, FLOWS_MAX), (2048, FLOWS_MAX)]
)
def test_b5_tables_are_in_proportion_to_memory_within_bounds(gib: float, flows: int) -> None:
    assert FlowRoom.of(0, memory_bytes=int(gib * GIB)) == FlowRoom(flows, flows // 2, flows)


def test_b5_what_is_set_counts_whatever_memory_there_is() -> None:
    assert FlowRoom.of(1000, memory_bytes=GIB) == FlowRoom(1000, 500, 1000)
    assert FlowRoom.of(1, memory_bytes=GIB) == FlowRoom(1, 1, 1)


def test_b5_another_size_is_told_where_it_is_set_and_where_memory_is_quite_another() -> None:
    is_set, by_memory = FlowRoom.of(1000, memory_bytes=0), FlowRoom.of(0, memory_bytes=GIB)
    assert [is_set.is_other(1000, 1000), is_set.is_other(999, 1000)] == [False, True]
    assert [by_memory.is_other(rows, 1000) for rows in (790, 810, 1240, 1260)] == [True, False, False, True]


def test_the_memory_of_this_machine_is_read() -> None:
    assert physical_memory_bytes() > 100 << 20
