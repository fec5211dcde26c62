"""Images that need no registry: the pause image, and the store that all nodes look into."""

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from service.lab.cluster.image import (
    PAUSE_IMAGE,
    REPOSITORY,
    STORES_KEPT,
    build_project_image,
    prepare_store,
    store_commands,
    write_pause_archive,
)
from service.model.errors import OperatorError
from tests.lab.cluster.programs import write_program


@pytest.fixture(autouse=True)
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "programs"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EGRESSGW_IMAGE_TAR", raising=False)
    write_program(tmp_path / "programs" / "pause", "sleep infinity")


class Containerd:
    """Unpacks in the place of one, and notes what."""

    def __init__(self) -> None:
        self.asked: list[list[Path]] = []

    def unpack(self, archives: Iterable[Path], root: Path, folder: Path) -> None:
        self.asked.append(list(archives))
        (root / "unpacked").touch()

    def store(self, archive: Path, folder: Path) -> Path:
        return prepare_store([archive], folder, lambda line: None, unpack=self.unpack)


def test_the_pause_image_is_the_program_under_the_name_the_runtime_asks_for(tmp_path: Path) -> None:
    write_pause_archive(tmp_path / "pause.tar")
    with tarfile.open(tmp_path / "pause.tar") as archive:
        files = {name: archive.extractfile(name).read() for name in archive.getnames()}  # type: ignore[union-attr]
    (manifest,) = json.loads(files["manifest.json"])
    configuration = files[manifest["Config"]]
    assert manifest["RepoTags"] == [PAUSE_IMAGE]
    assert manifest["Config"] == f"{hashlib.sha256(configuration).hexdigest()}.json"
    (layer,) = (files[name] for name in manifest["Layers"])
    assert json.loads(configuration)["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as unpacked:
        assert [(entry.name, entry.mode) for entry in unpacked] == [("pause", 0o755)]
    assert json.loads(configuration)["config"]["Entrypoint"] == ["/pause"]


def test_images_are_unpacked_once_and_found_from_then_on(tmp_path: Path) -> None:
    containerd = Containerd()
    archive = tmp_path / "project.tar"
    archive.write_bytes(b"first")
    store = containerd.store(archive, tmp_path)
    assert (store / "unpacked").exists()
    assert containerd.store(archive, tmp_path) == store
    assert containerd.asked == [[tmp_path / "pause.tar", archive]]
    archive.write_bytes(b"second")
    assert containerd.store(archive, tmp_path) != store


def test_an_import_that_fails_leaves_no_half_of_a_store(tmp_path: Path) -> None:
    def fail(archives: Iterable[Path], root: Path, folder: Path) -> None:
        (root / "half").touch()
        raise OperatorError("ctr failed")

    with pytest.raises(OperatorError, match="ctr failed"):
        prepare_store([], tmp_path, lambda line: None, unpack=fail)
    assert list((tmp_path / "cache").rglob("half")) == []


def test_the_stores_used_longest_ago_are_dropped(tmp_path: Path) -> None:
    containerd = Containerd()
    archive = tmp_path / "project.tar"
    stores = []
    for number in range(STORES_KEPT):
        archive.write_bytes(bytes([number]))
        stores.append(containerd.store(archive, tmp_path))
        os.utime(stores[-1], (number, number))
    archive.write_bytes(bytes([0]))
    assert containerd.store(archive, tmp_path) == stores[0], "used again"
    archive.write_bytes(b"new")
    newest = containerd.store(archive, tmp_path)
    assert set(newest.parent.iterdir()) == {newest, stores[0], stores[2]}


def test_a_nodes_containerd_writes_nothing_into_the_store(tmp_path: Path) -> None:
    store, root = tmp_path / "store", Path("/var/lib/containerd")
    (store / "io.containerd.snapshotter.v1.overlayfs" / "snapshots" / "1").mkdir(parents=True)
    commands = [" ".join(command) for command in store_commands(store, root)]
    targets = [command.split()[-1] for command in commands if not command.startswith("mkdir")]
    assert targets
    assert all(target.startswith(str(root)) for target in targets)
    (bound,) = [command for command in commands if "--bind" in command]
    assert "-o ro" in bound
    (overlay,) = [command for command in commands if "overlay overlay" in command]
    assert f"lowerdir={store}/" in overlay
    assert f"upperdir={root}/" in overlay


def test_an_image_that_is_given_is_taken_if_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "given.tar"
    monkeypatch.setenv("EGRESSGW_IMAGE_TAR", str(archive))
    with pytest.raises(OperatorError, match=f"EGRESSGW_IMAGE_TAR: there is no file {archive}"):
        build_project_image()
    archive.touch()
    assert build_project_image() == archive


def test_else_it_is_built_and_the_last_line_says_where_it_is(tmp_path: Path) -> None:
    """Of whichever checkout: an upgrade is measured from an earlier one."""
    builder = write_program(tmp_path / "deploy" / "build-image", 'echo "building $*"; echo /built/image.tar')
    assert build_project_image("0.9", checkout=tmp_path) == Path("/built/image.tar")
    write_program(builder, "echo 'no space left' >&2; exit 1")
    with pytest.raises(OperatorError, match="failed: no space left"):
        build_project_image("0.9", checkout=tmp_path)


def test_a_checkout_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements", "loadtest", "bpf", "deploy/crds"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "version.py").write_text('VERSION = "0.9"\n')
    shutil.copy(REPOSITORY / "deploy" / "build-image", tmp_path / "deploy")
    (tmp_path / "deploy" / "Dockerfile").touch()
    write_program(tmp_path / "bin" / "docker", '[ "$1" != save ] || touch "$3"')
    tar, reads = shutil.which("tar"), tmp_path / "reads"
    write_program(
        tmp_path / "bin" / "tar",
        f"""case "$*" in *" service "*) ;; *) exec {tar} "$@" ;; esac
        echo >> {reads}; {tar} "$@"
        [ "$(wc -l < {reads})" -ge "$READS" ] || {{ echo "tar: service: file changed as we read it" >&2; exit 1; }}""",
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("READS", "2")
    assert build_project_image(checkout=tmp_path).exists()
    assert len(reads.read_text()) == 2
    monkeypatch.setenv("READS", "1000")
    with pytest.raises(OperatorError, match="service: file changed as we read it"):
        build_project_image(checkout=tmp_path)
