"""What an upgrade must keep whatever it loses."""

import subprocess
from typing import Any

import pytest
import yaml

from loadtest.gateway import SOURCE_IP
from loadtest.upgrade import BEFORE_VERSION, Step, Stream, Upgrade, UpgradeOptions, measure_upgrade, retagged
from service.lab.cluster.image import REPOSITORY
from service.model.errors import OperatorError


def step(**changes: Any) -> Step:
    values: dict[str, Any] = {
        "told": "to the present version",
        "asked": {"push": 4, "udp": 4},
        "alive": {"push": 0, "udp": 1},
        "opened": 8,
        "alive_after": 8,
        "streams": {"worker1": Stream(200, 40, 250.0)},
        "sources": (SOURCE_IP,),
        "speakers": (),
    }
    return Step(**values | changes)


def test_what_is_lost_on_the_way_is_stated_and_is_no_failure() -> None:
    assert step().failures == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sources": (SOURCE_IP, "192.168.1.21")}, "seen as 192.168.1.21"),
        ({"speakers": ("worker1 spoke",)}, "two speakers: worker1 spoke"),
        ({"alive_after": 7}, "of 8 connections opened afterwards 7 live"),
    ],
)
def test_a_wrong_source_two_speakers_and_dead_connections_afterwards_are(changes: dict[str, Any], told: str) -> None:
    result = Upgrade(UpgradeOptions("v1"), [step(), step(**changes)])
    assert result.failures == [f"to the present version: {told}"]


def test_manifests_name_the_image_of_the_version() -> None:
    text = (REPOSITORY / "deploy" / "kustomization.yaml").read_text(encoding="utf-8")
    document, before = yaml.safe_load(retagged(text, BEFORE_VERSION)), yaml.safe_load(text)
    assert document.pop("images") == [{**before.pop("images")[0], "newTag": BEFORE_VERSION}]
    assert document == before


def test_a_commit_that_is_not_there_is_named() -> None:
    if subprocess.run(["git", "-C", str(REPOSITORY), "rev-parse"], capture_output=True).returncode != 0:
        assert not (REPOSITORY / ".git").exists()
        return
    with pytest.raises(OperatorError, match="--before no-such-commit: "):
        measure_upgrade(UpgradeOptions("no-such-commit", name="egwt-none"), lambda line: None)
