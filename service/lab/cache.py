"""What is kept between labs: programs of Kubernetes, images, the compiled datapath."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Outside any checkout, and safe to delete while no lab is up."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "egressgw"
