from collections import deque
from ipaddress import IPv4Address

import pytest

from loadtest.driven_objects import pod
from loadtest.goal import Row
from loadtest.scale.curve import QUADRATIC
from loadtest.scale.events import Event, What, measure_events, next_event, wait_ms
from loadtest.scale.options import ScaleOptions, ScaleSizes
from loadtest.scale.selected_rows import Moment, keys_of
from service.lab.namespace import namespaces_of
from service.model.errors import TransientError
from service.model.objects import Delete, Upsert

POD = IPv4Address("10.0.0.7")


@pytest.fixture(scope="module")
def row(options: ScaleOptions) -> Row:
    return measure_events(options, lambda line: None)


@pytest.mark.root
@pytest.mark.bpf
def test_every_event_comes_into_the_map(row: Row, options: ScaleOptions) -> None:
    sizes = row.detail["sizes"]
    assert list(sizes) == [40, 400, 4000]
    counts = {count: {what: len(waits) for what, waits in found["waits_ms"].items()} for count, found in sizes.items()}
    assert counts[4000] == dict.fromkeys(What, 10)
    assert all(wait > 0 for found in sizes.values() for waits in found["waits_ms"].values() for wait in waits)
    p50, p99, *_ = row.figures
    assert p50.value is not None
    assert p99.value is not None
    assert 0 < p50.value <= p99.value
    assert sizes[4000]["longest_step"]["ms"] > 0
    assert namespaces_of(options.name) == []


@pytest.mark.root
@pytest.mark.bpf
def test_an_event_does_not_wait_for_the_pods_of_other_nodes(row: Row) -> None:
    (p50, _) = row.detail["curves"]
    assert p50["exponent"] < QUADRATIC


def test_as_many_pods_come_as_go_and_each_passes_on_while_it_is_there() -> None:
    sizes, here = ScaleSizes(few_pods=6, policies=3), deque(range(6))
    first, second, third = (next_event(what, here, sizes, 100) for what in What)
    assert first == (Upsert(pod(100, "group-1")), pod(100, "group-1"))
    assert second == (Upsert(pod(3, "group-1")), pod(3, "group-1"))
    assert third == (Delete(pod(0, "group-0").key), pod(0, "group-0"))
    assert here == deque([1, 2, 3, 4, 5, 100])


@pytest.mark.parametrize(
    ("what", "history", "ms"),
    [
        (What.COMES, [Moment(1_000_000, None, True), Moment(4_000_000, 7, True)], 4),
        (What.PASSES, [Moment(-1, 7, True), Moment(2_000_000, 7, True), Moment(3_000_000, 8, True)], 3),
        (What.GOES, [Moment(-1, 7, True), Moment(2_000_000, None, True), Moment(5_000_000, None, False)], 5),
    ],
)
def test_an_event_is_over_with_the_last_row_that_is_as_it_should_be(
    what: What, history: list[Moment], ms: float
) -> None:
    one, other = keys_of(POD)
    late = [*history[:-1], history[-1]._replace(since_ns=history[-1].since_ns + 1_000_000)]
    assert wait_ms(Event(what, POD, 0), {one: history, other: late}) == ms + 1


def test_an_event_that_never_came_into_the_map_is_no_short_one() -> None:
    with pytest.raises(TransientError, match="which comes"):
        wait_ms(Event(What.COMES, POD, 0), {key: [Moment(-5, 7, True)] for key in keys_of(POD)})
