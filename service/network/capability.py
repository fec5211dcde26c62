"""What the agent needs of the node, checked once at the start: one clear sentence for each thing that is missing."""

import os
import re
import shutil
from pathlib import Path

from service.model.errors import OperatorError

CAP_NET_ADMIN = 12
CAP_NET_RAW = 13
CAP_SYS_ADMIN = 21
CAP_PERFMON = 38
CAP_BPF = 39
KERNEL_FLOOR = (5, 10)


def check_node(*, proc: Path = Path("/proc"), release: str = "", search_path: str | None = None) -> tuple[str, ...]:
    """Return warnings. Raises OperatorError with a line for each requirement that is not met.

    `proc`, `release` and `search_path` stand for this machine's own; tests pass others.
    """
    missing = [
        *_missing_capabilities(effective_capabilities(proc)),
        *_old_kernel(release or os.uname().release),
        *_absent_tools(search_path),
    ]
    if missing:
        raise OperatorError("\n".join(missing))
    return _warnings(proc)


def effective_capabilities(proc: Path = Path("/proc")) -> int:
    """The effective set of this process, as a bit mask."""
    try:
        status = (proc / "self/status").read_text(encoding="ascii", errors="replace")
        line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    except (OSError, StopIteration) as error:
        raise OperatorError(f"cannot read the process's capabilities from {proc}/self/status") from error
    return int(line.split()[1], 16)


def _missing_capabilities(effective: int) -> list[str]:
    def has(capability: int) -> bool:
        return bool(effective >> capability & 1)

    missing = []
    if not has(CAP_NET_ADMIN):
        missing.append("CAP_NET_ADMIN is missing: the agent cannot set up devices, routes and nftables.")
    if not has(CAP_NET_RAW):
        missing.append("CAP_NET_RAW is missing: the agent cannot announce floating IPs by ARP.")
    if not has(CAP_SYS_ADMIN) and not (has(CAP_BPF) and has(CAP_PERFMON)):
        missing.append("CAP_BPF with CAP_PERFMON (or CAP_SYS_ADMIN) is missing: the agent cannot load eBPF programs.")
    return missing


def _old_kernel(release: str) -> list[str]:
    match = re.match(r"(\d+)\.(\d+)", release)
    if match is None:
        return [f"Kernel release {release!r} cannot be understood; Linux 5.10 or newer is needed."]
    if (int(match[1]), int(match[2])) < KERNEL_FLOOR:
        return [f"Kernel {release} is too old: Linux 5.10 or newer is needed."]
    return []


def _absent_tools(search_path: str | None) -> list[str]:
    if shutil.which("nft", path=search_path):
        return []
    return ["The program nft is not installed: install the package `nftables`."]


def _warnings(proc: Path) -> tuple[str, ...]:
    found = []
    for key, meaning in (
        ("sys/net/core/bpf_jit_enable", "the eBPF just-in-time compiler is off (net.core.bpf_jit_enable=0): slow"),
        ("sys/net/ipv4/ip_forward", "the node does not forward packets (net.ipv4.ip_forward=0): pods reach nothing"),
    ):
        try:
            value = (proc / key).read_text(encoding="ascii").strip()
        except OSError:
            continue  # a kernel with the JIT always on does not show the key
        if value == "0":
            found.append(meaning)
    return tuple(found)
