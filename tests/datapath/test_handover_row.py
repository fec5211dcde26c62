from service.datapath.handover_row import handover_device_value, handover_value, parse_handover
from service.datapath.layout import MAP_SHAPES, MapName


def test_rows_are_as_large_as_the_maps_have_room_and_are_read_as_written() -> None:
    assert len(handover_value(7, 8)) == MAP_SHAPES[MapName.HANDOVERS].value_size
    assert len(handover_device_value(9, bytes(6))) == MAP_SHAPES[MapName.HANDOVER_DEVICE].value_size
    assert parse_handover(handover_value(7, 1 << 60)) == (7, 1 << 60)
