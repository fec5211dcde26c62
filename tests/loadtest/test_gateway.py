from typing import Any

import pytest
import yaml

from loadtest.gateway import FLOATING_IPS, defect, manifests
from service.sources.manifests.source import load_folder

NODES = ("control1", "worker1")


def _whole() -> dict[str, Any]:
    return {
        "node": "worker1",
        "nodes": {name: {"state": "Up", "ready": True} for name in NODES},
        "floatingIPs": {
            address: {"holder": "worker1", "assigned": "worker1", "successor": "control1"} for address in FLOATING_IPS
        },
        "keeper": {"alive": True, "elector": True, "voting": True},
        "pods": {"10.244.1.10": "steering"},
    }


def test_a_whole_cluster_has_no_defect() -> None:
    assert defect(_whole(), NODES) == ""


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("nodes", "worker1", "state"), "Down", "worker1 is Down"),
        (("nodes", "worker1", "ready"), False, "not ready"),
        (("floatingIPs", FLOATING_IPS[1], "holder"), None, "held by None"),
        (("floatingIPs", FLOATING_IPS[1], "assigned"), "control1", "assigned to control1"),
        (("floatingIPs", FLOATING_IPS[2], "successor"), None, "no successor"),
        (("keeper", "alive"), False, "keeper"),
        (("keeper", "voting"), False, "does not vote"),
        (("pods", "10.244.1.10"), "setting", "10.244.1.10"),
    ],
)
def test_what_is_missing_is_told(path: tuple[str, ...], value: object, told: str) -> None:
    document = _whole()
    place = document
    for word in path[:-1]:
        place = place[word]
    place[path[-1]] = value
    assert told in defect(document, NODES)


def test_a_node_nobody_has_heard_of_is_a_defect() -> None:
    assert "worker2 is unknown" in defect(_whole(), (*NODES, "worker2"))


def test_the_manifests_are_valid(tmp_path: Any) -> None:
    (tmp_path / "load.yaml").write_text(yaml.safe_dump_all(manifests(("8.8.8.8/32", "198.51.100.0/24"))))
    objects, errors = load_folder(tmp_path)
    assert len(objects) == 2
    assert errors == ()
