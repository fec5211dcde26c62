"""What tells this boot of the machine, and this start of a process, from every other."""

import secrets
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """The kernel's name for this boot; equal in all processes and containers of the machine."""
    return _BOOT_ID.read_text(encoding="ascii").strip()


def start_id() -> int:
    """Draw the 64-bit number that tells this process from every other start of it. Never zero."""
    return secrets.randbits(64) or 1
