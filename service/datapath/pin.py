"""Where the maps are pinned: known to the agent, which makes them, and the keeper, which opens the fence."""

from pathlib import Path

from service.datapath.layout import LAYOUT_VERSION


def pin_folder(bpf_dir: str) -> Path:
    """Where the maps of this layout are pinned."""
    return Path(bpf_dir) / f"v{LAYOUT_VERSION}"
