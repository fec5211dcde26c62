"""What runs on a site beside the product."""

from pathlib import Path

import pytest

from loadtest.chaos import site as module
from loadtest.chaos.site import WATCHED, ChaosSite
from loadtest.gateway import FLOATING_IPS
from service.lab.lab import Lab
from service.lab.plan import LabOptions
from service.lab.state import LabState


@pytest.fixture
def site(tmp_path: Path) -> ChaosSite:
    lab = Lab(LabState(options=LabOptions(name="unbuilt"), host_settings={}))
    lab.folder = tmp_path
    return ChaosSite(lab)


def test_every_pod_has_traffic_and_somebody_asks_for_every_address(
    site: ChaosSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(module, "nft", lambda netns, text: None)
    monkeypatch.setattr(Lab, "start", lambda lab, *words: started.append(words))
    site.start_traffic()
    kinds = [words[0] for words in started]
    assert kinds.count("client") == len(site.pods)
    assert kinds.count("far-end") == 1
    (asker,) = (words for words in started if words[0] == "asker")
    assert asker[-3:] == FLOATING_IPS
    assert asker[2] == site.lab.plan.router
    assert set(kinds) <= WATCHED, "one that ends by itself says nothing any more"


def test_each_program_is_started_with_a_small_run_of_its_own(site: ChaosSite, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(module, "run", lambda command, **options: commands.append(command))
    monkeypatch.setattr(Lab, "start", lambda lab, *words: commands.append(["start", *words]))
    site.start_programs()
    mounted = [command[-1].split("/")[-2] for command in commands if command[0] == "mount"]
    assert mounted == ["control1", "worker1", "worker2", *site.controllers]
    started = [(command[1], command[2]) for command in commands if command[0] == "start"]
    assert len(started) == len(set(started)) == 8
    assert commands.index(next(one for one in commands if one[0] == "start")) == len(mounted), "all disks come first"


def test_objects_of_a_name_replace_each_other_and_go(site: ChaosSite) -> None:
    site.lab.manifests.mkdir()
    site.put("a.yaml", {"kind": "X", "metadata": {"name": "one"}})
    site.put("a.yaml", {"kind": "X", "metadata": {"name": "two"}})
    (path,) = site.lab.manifests.glob("*.yaml")
    assert "two" in path.read_text(encoding="utf-8")
    site.put("a.yaml")
    site.put("a.yaml")
    assert list(site.lab.manifests.glob("*.yaml")) == []
