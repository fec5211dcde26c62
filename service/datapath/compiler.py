"""Compile bpf/egress_gateway.c with BCC, in a process of its own that ends at once: LLVM takes 180 MB and five seconds.

    python -m service.datapath.compiler SOURCE HEADERS

writes a `Compiled` to standard output. The only module that imports bcc. BCC makes every map, to have descriptors for
the instructions; they are gone with this process.
"""

import ctypes
import os
import re
import sys
from pathlib import Path
from typing import Any

from service.datapath.bpf_map import map_info
from service.datapath.compiled import Compiled, MapSpec, Program

PROGRAMS = (
    "pod_ingress",
    "pod_egress",
    "steer_egress",
    "steer_ingress",
    "uplink_ingress",
    "uplink_egress",
    "handover_egress",
)
_OWN_HEADER = re.compile(r'^#include "(\w+\.h)"$', re.MULTILINE)


def flattened(path: Path) -> str:
    """A source with its own headers put in their places: BCC rewrites map accesses in the main text alone."""
    return _OWN_HEADER.sub(lambda found: flattened(path.with_name(found[1])), path.read_text(encoding="ascii"))


def compile_datapath(source: Path, headers: Path) -> Compiled:
    """Raises Exception where BCC does not take the source; what clang says of it is on standard error by then."""
    os.environ["BCC_KERNEL_SOURCE"] = str(headers)
    from bcc import BPF

    flags = [f"-I{source.parent}", "-Wno-unused-function"]
    module = BPF(text=flattened(source).encode(), cflags=flags).module
    maps = _maps(module)
    named = {fd: spec.name for fd, spec in maps.items()}
    programs = [Program.of(name, _instructions(module, name), named) for name in PROGRAMS]
    return Compiled(tuple(maps.values()), tuple(programs))


def _maps(module: Any) -> dict[int, MapSpec]:
    from bcc.libbcc import lib

    # BCC does not say of these that they take a pointer, so ctypes would cut it short.
    pointer = ctypes.c_void_p(module)
    lib.bpf_table_name.restype = ctypes.c_char_p
    found = {}
    for number in range(lib.bpf_num_tables(pointer)):
        fd = lib.bpf_table_fd_id(pointer, ctypes.c_size_t(number))
        info, name = map_info(fd), lib.bpf_table_name(pointer, ctypes.c_size_t(number)).decode()
        found[fd] = MapSpec(name, info.type, info.key_size, info.value_size, info.max_entries, info.flags)
    return found


def _instructions(module: Any, name: str) -> bytes:
    from bcc.libbcc import lib

    size = lib.bpf_function_size(module, name.encode())
    if not size:
        raise RuntimeError(f"there is no program {name}")
    return ctypes.string_at(lib.bpf_function_start(module, name.encode()), size)


def _main() -> int:
    # What libraries print is not to be among what is said here.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        compiled = compile_datapath(Path(sys.argv[1]), Path(sys.argv[2]))
    except ImportError:
        print(
            "BCC is missing: install the Debian packages python3-bpfcc and libbpfcc (PyPI's `bcc` is another thing)",
            file=sys.stderr,
        )
        return 1
    except Exception as error:
        print(error, file=sys.stderr)
        return 1
    with out:
        out.write(compiled.encode())
    return 0


if __name__ == "__main__":
    sys.exit(_main())
