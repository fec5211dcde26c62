from ipaddress import IPv4Address

from loadtest.driven_agent import device_of
from loadtest.scale.selected_rows import histories, keys_of, steered_by, steered_pods
from service.datapath import layout
from service.datapath.layout import SelectedState

POD, OTHER = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
STEERED = layout.selected_value(5, SelectedState.STEER)
CHANGING = layout.selected_value(5, SelectedState.CHANGING)
ENDED = layout.selected_value(0, SelectedState.STEER)


def test_a_selected_pod_has_a_row_with_its_device_and_one_without() -> None:
    assert keys_of(POD) == (layout.selected_key(POD, device_of(POD)), layout.selected_key(POD, 0))


def test_only_a_row_with_rules_that_are_in_force_steers() -> None:
    key, _ = keys_of(POD)
    assert [steered_by(key, value) for value in (STEERED, CHANGING, ENDED, None)] == [5, None, None, None]


def test_a_history_tells_when_a_row_was_what() -> None:
    one, other = keys_of(POD)
    written = [(1, [(one, CHANGING), (other, CHANGING)]), (2, [(one, STEERED)]), (3, [(one, None)])]
    found = histories(written)
    assert [(row.since_ns, row.steered_by, row.is_there) for row in found[one]] == [
        (1, None, True),
        (2, 5, True),
        (3, None, False),
    ]
    assert [row.since_ns for row in found[other]] == [1]


def test_a_pod_is_steered_by_both_rows_or_not_at_all() -> None:
    rows = dict.fromkeys(keys_of(POD), STEERED) | dict(zip(keys_of(OTHER), (STEERED, CHANGING), strict=True))
    assert steered_pods(rows) == {POD}
