"""How records say whose ports are."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.audit.port_run import PORTS_MAX, PORTS_MIN, PortRun, parse_runs, parse_span, parts_of, text_of
from service.audit.segment import PAYLOAD_BYTES_MAX
from service.model.lease import Stamp

RUNS = (PortRun(1024, 5119, Stamp(7, 12), "worker1"), PortRun(6000, 6063, Stamp(6, 1), "worker2"))


def test_a_record_is_read_as_it_was_written() -> None:
    assert text_of(RUNS) == "1024-5119 7.12 worker1, 6000-6063 6.1 worker2"
    assert parse_runs(text_of(RUNS)) == list(RUNS)
    assert parse_runs("") == []
    assert parse_runs("1024-1087 7.12") == [PortRun(1024, 1087, Stamp(7, 12))]


@pytest.mark.parametrize("text", ["1024", "1024-1087", "a-b 7.12", "1024-1087 7", "1024-1087 7.12,1088-1151 7.12"])
def test_what_is_no_run_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_runs(text)


def test_a_span_of_ports() -> None:
    assert parse_span("1024-65535") == (1024, 65535)


def test_a_table_is_one_record() -> None:
    (part,) = parts_of(RUNS)
    assert part == (PORTS_MIN, PORTS_MAX, RUNS)
    assert list(parts_of(())) == [(PORTS_MIN, PORTS_MAX, ())]


@given(st.integers(1, 253), st.lists(st.integers(0, 1007), unique=True))
def test_a_table_of_any_size_goes_into_records_that_fit_and_together_say_it_all(name: int, blocks: list[int]) -> None:
    runs = [PortRun(1024 + 64 * b, 1087 + 64 * b, Stamp(2**31, 2**31), "n" * name) for b in sorted(blocks)]
    parts = list(parts_of(runs))
    assert [run for part in parts for run in part.runs] == runs
    assert all(len(text_of(part.runs)) < PAYLOAD_BYTES_MAX - 16 * 1024 for part in parts)
    assert (parts[0].first, parts[-1].last) == (PORTS_MIN, PORTS_MAX)
    assert all(before.last + 1 == after.first for before, after in itertools.pairwise(parts))
