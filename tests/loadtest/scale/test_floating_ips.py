from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loadtest.gateway import FLOATING_IPS
from loadtest.scale.floating_ips import apply_floating_ips, floating_ips, wait_until_held
from service.lab.plan import LabOptions, make_plan
from service.model.errors import TransientError
from service.model.objects import EgressPolicy, NetworkGateway
from service.sources.manifests.source import load_folder


def test_the_usual_ones_are_the_first_and_no_host_of_a_lab_has_one() -> None:
    assert tuple(map(str, floating_ips(3))) == FLOATING_IPS
    plan = make_plan(LabOptions(nodes=80, controllers=3))
    hosts = {member.ip for member in (*plan.nodes, *plan.controllers)}
    assert not hosts & set(floating_ips(155))


@pytest.mark.parametrize("count", [0, 156])
def test_there_are_no_more_than_the_segment_has_room_for(count: int) -> None:
    with pytest.raises(ValueError, match="room for 155"):
        floating_ips(count)


@pytest.mark.parametrize("has_policy", [True, False])
def test_the_gateway_lists_them_all(tmp_path: Path, has_policy: bool) -> None:
    lab: Any = SimpleNamespace(manifests=tmp_path)
    apply_floating_ips(lab, 100, has_policy=has_policy)
    objects, errors = load_folder(tmp_path)
    assert errors == ()
    (listed,) = [one.floating_ips for one in objects if isinstance(one, NetworkGateway)]
    assert sorted(listed) == sorted(floating_ips(100))
    assert sum(isinstance(one, EgressPolicy) for one in objects) == has_policy


ROW = {"holder": "worker1", "assigned": "worker1"}


@pytest.mark.parametrize(
    ("rows", "missing"),
    [
        ({}, "3 are not held"),
        ({address: ROW | {"holder": None} for address in FLOATING_IPS}, "3 are not held"),
        ({address: ROW | {"assigned": "worker2"} for address in FLOATING_IPS}, "3 are not held"),
        (dict.fromkeys((*FLOATING_IPS, "192.168.1.103"), ROW), "1 others are held, such as 192.168.1.103"),
        (dict.fromkeys(FLOATING_IPS, ROW) | {"192.168.1.103": ROW | {"holder": None}}, ""),
    ],
)
def test_it_is_waited_for_each_of_them_and_for_no_other(
    monkeypatch: pytest.MonkeyPatch, rows: dict[str, Any], missing: str
) -> None:
    monkeypatch.setattr("loadtest.gateway.status", lambda lab, node: {"floatingIPs": rows})
    monkeypatch.setattr("loadtest.gateway.defect", lambda document, names: "")
    monkeypatch.setattr("loadtest.scale.floating_ips.HELD_S", 0.0)
    lab: Any = SimpleNamespace(plan=SimpleNamespace(nodes=[SimpleNamespace(name="worker1")]))
    if not missing:
        wait_until_held(lab, 3)
        return
    with pytest.raises(TransientError, match=missing):
        wait_until_held(lab, 3)
