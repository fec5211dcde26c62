"""Images for nodes that can pull none: the pause image, and a store of unpacked images that all nodes look into."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

from service.lab.cache import cache_folder
from service.lab.cluster.assets import program
from service.lab.namespace import run
from service.lab.process import end_processes, spawn
from service.lab.status import wait_for
from service.model.errors import OperatorError, TransientError
from service.version import VERSION

Unpack = Callable[[Iterable[Path], Path, Path], None]
"""Import these archives into the store at a path; the second path is for what is needed meanwhile."""

PAUSE_IMAGE = "docker.io/library/egressgw-pause:1"
PROJECT_IMAGE = f"docker.io/library/egressgw:{VERSION}"
STORES_KEPT = 3
REPOSITORY = Path(__file__).resolve().parents[3]
_BUILD_TIMEOUT_S = 1800.0
_CONTENT = "io.containerd.content.v1.content"
_SNAPSHOTTER = "io.containerd.snapshotter.v1.overlayfs"
_METADATA = "io.containerd.metadata.v1.bolt"
_READY_S, _GRACE_S = 30.0, 5.0

_STORE_SETTINGS = """\
version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{state}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{state}/opt"
"""


def missing_for_images() -> str:
    """What stands in the way of building images; empty where nothing does."""
    absent = [name for name in ("docker", "dockerd", "debootstrap") if shutil.which(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian's docker.io and debootstrap)"
    builder = REPOSITORY / "deploy" / "build-image"
    return "" if builder.exists() else f"there is no {builder}: a cluster is built from a checkout"


def build_project_image(version: str = "", *, checkout: Path = REPOSITORY) -> Path:
    """The image of a checkout as `docker save` writes it; quick where nothing has changed since the last time.

    EGRESSGW_IMAGE_TAR names one to take instead of the one without a version. Raises OperatorError where it cannot be
    built.
    """
    if (given := os.environ.get("EGRESSGW_IMAGE_TAR")) and not version:
        if not Path(given).is_file():
            raise OperatorError(f"EGRESSGW_IMAGE_TAR: there is no file {given}")
        return Path(given)
    builder = checkout / "deploy" / "build-image"
    command = [str(builder), "--tar", "-", *(["--version", version] if version else [])]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise OperatorError(f"{builder} did not end in {_BUILD_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        raise OperatorError(f"{builder} failed: {done.stderr.strip()[-1500:]}")
    return Path(done.stdout.strip().splitlines()[-1])


def write_pause_archive(path: Path) -> None:
    """An image, as `docker save` writes them, with nothing but the pause program."""
    layer = _tar({"pause": (program("pause").read_bytes(), 0o755)})
    configuration = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": ["/pause"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    name = f"{hashlib.sha256(configuration).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [PAUSE_IMAGE], "Layers": ["layer.tar"]}]
    files = {name: configuration, "layer.tar": layer, "manifest.json": json.dumps(manifest).encode()}
    path.write_bytes(_tar({name: (data, 0o644) for name, data in files.items()}))


def _tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, (data, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _import(archives: Iterable[Path], root: Path, folder: Path) -> None:
    state = folder / "import"
    state.mkdir(exist_ok=True)
    settings = state / "containerd.toml"
    settings.write_text(_STORE_SETTINGS.format(root=root, state=state), encoding="ascii")
    command = ("containerd", "--config", str(settings))
    record = spawn("containerd", "import", "", command, folder / "import.log", folder)
    try:
        address = str(state / "containerd.sock")
        ctr = ["ctr", "--address", address, "--namespace", "k8s.io"]
        wait_for("containerd to be ready", lambda: _answers([*ctr, "version"]), timeout_s=_READY_S)
        for archive in archives:
            run([*ctr, "images", "import", str(archive)])
    finally:
        end_processes([record], grace_s=_GRACE_S)


def prepare_store(
    archives: Iterable[Path], folder: Path, report: Callable[[str], None], *, unpack: Unpack = _import
) -> Path:
    """The folder with these images unpacked, as a containerd keeps them; made at the first call, then found.

    `folder` is the lab's, for what is needed meanwhile. Raises OperatorError where the import fails; no half of a store
    is left then. Those used longest ago are dropped.
    """
    pause = folder / "pause.tar"
    write_pause_archive(pause)
    wanted = [pause, *archives]
    store = cache_folder() / "image-stores" / _digest(wanted)
    if store.is_dir():
        os.utime(store)
        return store
    report("images are unpacked, once")
    new = store.with_name(f"{store.name}.{os.getpid()}")
    new.mkdir(parents=True)
    try:
        unpack(wanted, new, folder)
        new.rename(store)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    _prune(store.parent)
    return store


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as archive:
            digest.update(hashlib.file_digest(archive, "sha256").digest())
    return digest.hexdigest()[:16]


def _answers(command: list[str]) -> bool:
    try:
        run(command)
    except OperatorError as error:
        raise TransientError(str(error)) from error
    return True


def _prune(folder: Path) -> None:
    """Drop the stores that were used longest ago."""
    stores = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: -path.stat().st_mtime)
    for path in stores[STORES_KEPT:]:
        shutil.rmtree(path, ignore_errors=True)


def store_commands(store: Path, root: Path) -> list[list[str]]:
    """What makes a new containerd at `root` know the images of the store, within its mount namespace.

    Its own content and containers are written elsewhere than into the store. Unpacked layers are bound, not stacked:
    an overlay cannot be the upper layer of another.
    """
    snapshots = store / _SNAPSHOTTER / "snapshots"
    content = root / _CONTENT
    aside = root / "content"
    commands = [
        [
            "mkdir",
            "-p",
            str(content),
            str(aside / "upper"),
            str(aside / "work"),
            str(root / _SNAPSHOTTER / "snapshots"),
        ],
        ["cp", "-r", str(store / _METADATA), str(root)],
        ["cp", str(store / _SNAPSHOTTER / "metadata.db"), str(root / _SNAPSHOTTER)],
        ["mount", "-t", "overlay", "overlay", "-o", _overlay(store / _CONTENT, aside), str(content)],
    ]
    for source in sorted(snapshots.iterdir()):
        target = root / _SNAPSHOTTER / "snapshots" / source.name
        commands += [["mkdir", str(target)], ["mount", "--bind", "-o", "ro", str(source), str(target)]]
    return commands


def _overlay(lower: Path, aside: Path) -> str:
    return f"lowerdir={lower},upperdir={aside / 'upper'},workdir={aside / 'work'}"
