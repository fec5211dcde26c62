"""Where the programs of Kubernetes are looked for, and what is said where they are not."""

from pathlib import Path

import pytest

from service.lab.cache import cache_folder
from service.lab.cluster.assets import VERSION, etcd, missing_programs, program
from tests.lab.cluster.programs import write_program


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """KUBEBUILDER_ASSETS; the cache and PATH are empty."""
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "given"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "given"


def test_a_program_that_is_given_goes_before_the_one_that_was_built(given: Path) -> None:
    built = cache_folder() / f"kube-{VERSION}" / "kubectl"
    assert program("kubectl") == built
    there = write_program(given / "kubectl")
    assert program("kubectl") == there
    there.chmod(0o644)
    assert program("kubectl") == built, "what cannot be run does not count"


def test_etcd_is_given_or_in_the_path(given: Path, tmp_path: Path) -> None:
    assert etcd() is None
    installed = write_program(tmp_path / "bin" / "etcd")
    assert etcd() == installed
    there = write_program(given / "etcd")
    assert etcd() == there


def test_what_is_missing_is_named_with_what_to_do(given: Path) -> None:
    names = ("kube-apiserver", "kubectl", "kubelet")
    write_program(given / "kubectl")
    told = missing_programs(names)
    assert told.startswith(f"no kube-apiserver, kubelet in {cache_folder()}/kube-{VERSION}: ")
    assert "KUBEBUILDER_ASSETS" in told
    assert "build_assets.sh" in told
    for name in names:
        write_program(given / name)
    assert "etcd is not installed" in missing_programs(names)
    write_program(given / "etcd")
    assert missing_programs(names) == ""


def test_what_a_cni_needs_is_built_by_a_builder_of_its_own(given: Path) -> None:
    told = missing_programs(("kube-router",))
    assert str(cache_folder() / "kube-router-") in told
    assert "build_cni.sh" in told
