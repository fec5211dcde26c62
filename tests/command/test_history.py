"""What `egressgw audit who` and `moves` say of their sources; their answers are tested with the command."""

import pytest

from service.audit.coverage import Coverage, Writer
from service.command import history


def test_of_many_sources_the_first_are_named_and_the_others_counted(capsys: pytest.CaptureFixture[str]) -> None:
    writers = tuple(Writer(f"agent/n{number}", 1, 0, 0) for number in range(10))
    history._print_coverage(Coverage(writers, tuple(f"m{number}" for number in range(9)), 0))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "  read: agent/n0, 1 records, 1970-01-01T00:00:00Z to 1970-01-01T00:00:00Z"
    assert lines[8:] == [
        "  read: 2 more processes",
        "  not read, and may know more: m0, m1, m2, m3, m4, m5, m6, m7 and 1 more",
    ]


def test_that_nothing_was_read_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    history._print_coverage(Coverage((), (), 0))
    assert capsys.readouterr().out == "  read: no record at all\n"
