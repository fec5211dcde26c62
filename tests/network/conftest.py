"""A bpffs for pins of this folder's tests."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def bpffs() -> Iterator[Path]:
    """One that only this test uses; what is pinned there goes with it."""
    with tempfile.TemporaryDirectory(prefix="egwt-net-") as folder:
        subprocess.run(["mount", "-t", "bpf", "bpf", folder], check=True, timeout=10)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True, timeout=10)
