"""How a port's owner is told; what the command answers is tested with the command."""

import pytest

from service.audit.coverage import Coverage, Writer
from service.command import port_history


def test_an_answer_on_ports_rests_on_controllers_alone(capsys: pytest.CaptureFixture[str]) -> None:
    writers = (Writer("agent/n1", 3, 0, 0), Writer("controller/c1", 2, 0, 0))
    port_history._print_writers(Coverage(writers, ("n9",), 0))
    assert capsys.readouterr().out == (
        "  read: controller/c1, 2 records, 1970-01-01T00:00:00Z to 1970-01-01T00:00:00Z\n"
    )
