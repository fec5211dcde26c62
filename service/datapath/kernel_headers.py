"""A folder that looks like kernel source to BCC, made of user-space API headers: nodes need no kernel headers.

BCC wants a kernel tree for its preprocessor; the datapath itself uses nothing but the stable UAPI. 64 KB in all.
"""

import os
from pathlib import Path

from service.host.disk import disk_fault
from service.model.errors import OperatorError

_VERSION = "include/linux/version.h"
_GENERATED = {
    "include/linux/kconfig.h": "#pragma once\n#define CONFIG_BPF_SYSCALL 1\n#define CONFIG_64BIT 1\n",
    "include/linux/types.h": """#pragma once
#include <asm/types.h>
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
typedef signed char s8; typedef short s16; typedef int s32; typedef long long s64;
typedef __u16 __le16; typedef __u16 __be16; typedef __u32 __le32; typedef __u32 __be32;
typedef __u64 __le64; typedef __u64 __be64; typedef __u16 __sum16; typedef __u32 __wsum;
typedef unsigned __poll_t;
typedef unsigned long uintptr_t; typedef unsigned long size_t; typedef _Bool bool;
#define __aligned_u64 __u64 __attribute__((aligned(8)))
#define __aligned_be64 __be64 __attribute__((aligned(8)))
#define __aligned_le64 __le64 __attribute__((aligned(8)))
""",
    "include/linux/log2.h": "#pragma once\n#define ilog2(n) (63 - __builtin_clzll(n))\n",
    "include/linux/compiler.h": "#pragma once\n#define __user\n#define __force\n",
    _VERSION: "#pragma once\n#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))\n",
    "include/uapi/linux/bpf.h": "/* BCC brings its own. */\n",
    "include/uapi/linux/types.h": "#include <linux/types.h>\n",
    "include/asm/page.h": "#pragma once\n#define PAGE_SIZE 4096\n",
}


def write_kernel_headers(folder: Path, system: Path = Path("/usr/include")) -> Path:
    """Make the folder and return it: the value for BCC_KERNEL_SOURCE. What is there already is not written again.

    Raises OperatorError where the system's UAPI headers (Debian package linux-libc-dev) are missing; TransientError
    where the folder, which is in `run_dir`, cannot be written now.
    """
    asm = next((path for path in [*sorted(system.glob("*/asm")), system / "asm"] if (path / "types.h").exists()), None)
    if asm is None or not (system / "linux" / "pkt_cls.h").exists():
        raise OperatorError(
            f"the kernel's user-space API headers are missing from {system}: install the package linux-libc-dev"
        )
    try:
        for name, text in _texts().items():
            _write(folder / name, text)
        _link_all(system / "linux", folder / "include/uapi/linux")
        _link_all(asm, folder / "include/asm")
        _link_all(system / "asm-generic", folder / "include/asm-generic")
    except OSError as error:
        raise disk_fault("run_dir", "write", folder, error) from error
    return folder


def _texts() -> dict[str, str]:
    release = os.uname().release.split("-")[0].split(".")
    code = (int(release[0]) << 16) + (int(release[1]) << 8)
    return _GENERATED | {_VERSION: f"{_GENERATED[_VERSION]}#define LINUX_VERSION_CODE {code}\n"}


def _write(target: Path, text: str) -> None:
    # A `run_dir` that has filled up since the last start has these files, and does not lose them.
    if target.exists() and target.read_text(encoding="ascii") == text:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="ascii")


def _link_all(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        link = target / path.name
        if not link.exists() and not link.is_symlink():
            link.symlink_to(path)
