"""Programs into the kernel: what it refuses is said with what the verifier said."""

from pathlib import Path

import pytest

from service.datapath.compiled import Program
from service.datapath.program import close_programs, load_program
from service.model.errors import OperatorError

pytestmark = pytest.mark.bpf

EXIT = b"\x95" + bytes(7)
RETURN_0 = b"\xb7" + bytes(7) + EXIT


def test_a_program_is_loaded_and_closed() -> None:
    fd = load_program(Program("good", RETURN_0, ()), {})
    opened = Path(f"/proc/self/fd/{fd}")
    assert "bpf-prog" in str(opened.readlink())
    close_programs({"good": fd})
    assert not opened.is_symlink()


def test_a_program_that_the_kernel_refuses_is_an_operators_error_with_the_verifiers_reason() -> None:
    with pytest.raises(OperatorError, match=r"refuses the datapath program bad: .*R0 !read_ok"):
        load_program(Program("bad", EXIT, ()), {})
