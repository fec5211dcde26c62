"""The compiler as the agent runs it: a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from service.datapath import loader
from service.datapath.compiled import Compiled
from service.datapath.compiler import PROGRAMS, flattened
from service.datapath.kernel_headers import write_kernel_headers
from service.datapath.layout import MAP_SHAPES, MapShape

SOURCE = loader._SOURCE / "egress_gateway.c"


def compiler(source: Path, headers: Path) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "service.datapath.compiler", str(source), str(headers)]
    return subprocess.run(command, capture_output=True, timeout=120, check=False)


@pytest.mark.bpf
def test_it_prints_all_programs_and_all_maps_and_nothing_else(tmp_path: Path) -> None:
    done = compiler(SOURCE, write_kernel_headers(tmp_path))
    assert done.returncode == 0, done.stderr
    compiled = Compiled.decode(done.stdout)
    assert tuple(program.name for program in compiled.programs) == PROGRAMS
    shapes = {spec.name: MapShape(spec.type, spec.key_size, spec.value_size) for spec in compiled.maps}
    assert MAP_SHAPES.items() <= shapes.items()
    assert {name for program in compiled.programs for _index, name in program.maps} <= set(shapes)


@pytest.mark.bpf
def test_what_clang_complains_of_is_on_standard_error(tmp_path: Path) -> None:
    source = tmp_path / "egress_gateway.c"
    source.write_text("#error not a datapath\n", encoding="ascii")
    done = compiler(source, write_kernel_headers(tmp_path / "headers"))
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"not a datapath" in done.stderr


def test_own_headers_are_put_in_their_places() -> None:
    text = flattened(SOURCE)
    assert '#include "' not in text
    assert text.index("BPF_TABLE(") < text.index("int pod_ingress(")
