"""Programs into the kernel through bpf(2) alone. Source: bpf(2); include/uapi/linux/bpf.h; kernel bpf/verifier.rst."""

import ctypes
import errno
import os

from service.datapath.compiled import Program
from service.model.errors import OperatorError
from service.network.bpf_call import bpf_call, make_attributes, put_name

_LOAD = 5
_SCHED_CLS = 3
_TRIES = 5
_LOG_BYTES = 1 << 24


def load_program(program: Program, maps: dict[str, int]) -> int:
    """The descriptor of a program for tc, with these maps, by name. Raises OperatorError where the kernel refuses it.

    Under the GPL, which some helpers ask for.
    """
    code = program.linked(maps)
    try:
        return _load(program.name, code, None)
    except OSError as error:
        if error.errno == errno.EPERM:
            raise OperatorError(f"no right to load the datapath program {program.name}: CAP_BPF is needed") from error
    log = ctypes.create_string_buffer(_LOG_BYTES)
    try:
        # Verifying is told of only where it fails: what it says of good programs takes seconds to write.
        return _load(program.name, code, log)
    except OSError as error:
        said = log.value.decode(errors="replace").strip().splitlines()
        raise OperatorError(
            f"the kernel refuses the datapath program {program.name}: {error.strerror}: {' | '.join(said[-3:])}"
        ) from error


def _load(name: str, code: bytes, log: "ctypes.Array[ctypes.c_char] | None") -> int:
    instructions, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    attributes = make_attributes(
        ("=I", 0, _SCHED_CLS),
        ("=I", 4, len(code) // 8),
        ("=Q", 8, ctypes.addressof(instructions)),
        ("=Q", 16, ctypes.addressof(licence)),
        ("=I", 24, 0 if log is None else 1),
        ("=I", 28, 0 if log is None else len(log)),
        ("=Q", 32, 0 if log is None else ctypes.addressof(log)),
    )
    put_name(attributes, 48, name)
    for _try in range(_TRIES - 1):
        try:
            return bpf_call(_LOAD, attributes)
        except OSError as error:
            # The verifier stops where a signal comes: that is no verdict (libbpf does the same).
            if error.errno != errno.EAGAIN:
                raise
    return bpf_call(_LOAD, attributes)


def close_programs(programs: dict[str, int]) -> None:
    """Close the descriptors; a program that is attached lives on."""
    for fd in programs.values():
        os.close(fd)
