from collections.abc import Iterable
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loadtest.scale import crowd as crowd_module
from loadtest.scale.crowd import CHANGES, FILE_PODS, Crowd
from loadtest.scale.options import ScaleSizes
from service.lab.plan import LabOptions, make_plan
from service.model.errors import TransientError
from service.model.objects import EgressPolicy, ObjectKey, Pod
from service.sources.manifests.source import load_folder

SIZES = ScaleSizes(churn_floating_ips=6, churn_policies=8, churn_pods=60)


def keys(pods: Iterable[Pod]) -> set[ObjectKey]:
    return {pod.key for pod in pods}


class Site:
    """A lab's plan and folder of manifests, and no network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.addresses: dict[str, set[IPv4Address]] = {}
        plan = make_plan(LabOptions())
        nodes = {node.name: node for node in plan.nodes}
        self.lab: Any = SimpleNamespace(plan=plan, manifests=folder, node=nodes.__getitem__)

    def provide_device(self, lab: Any, node: str, addresses: Iterable[IPv4Address]) -> None:
        self.addresses[node] = set(addresses)

    def pods(self) -> list[Pod]:
        objects, errors = load_folder(self.folder)
        assert errors == ()
        return [one for one in objects if isinstance(one, Pod)]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    found = Site(tmp_path)
    monkeypatch.setattr(crowd_module, "provide_device", found.provide_device)
    return found


@pytest.fixture
def crowd(site: Site) -> Crowd:
    crowd = Crowd(site.lab, SIZES)
    crowd.begin()
    return crowd


def test_pods_are_spread_over_the_nodes_each_with_an_address_behind_its_nodes_device(site: Site, crowd: Crowd) -> None:
    pods = site.pods()
    assert len(pods) == len({pod.ip for pod in pods}) == 60
    for node in site.lab.plan.nodes:
        addresses = {pod.ip for pod in pods if pod.node == node.name}
        assert len(addresses) == 20
        assert addresses <= site.addresses[node.name]


def test_no_two_policies_have_one_floating_ip(site: Site, crowd: Crowd) -> None:
    objects, _ = load_folder(site.folder)
    sources = [one.egress_source_ip for one in objects if isinstance(one, EgressPolicy)]
    assert len(set(sources)) == len(sources) == 8
    assert sum(source in crowd_module.floating_ips(6) for source in sources) == 6


def test_with_each_change_some_pods_go_and_as_many_come_where_they_were(site: Site, crowd: Crowd) -> None:
    before = site.pods()
    assert crowd.change() == CHANGES
    after = site.pods()
    gone, come = keys(before) - keys(after), keys(after) - keys(before)
    assert len(gone) == len(come) == FILE_PODS
    assert not {pod.ip for pod in after if pod.key in come} & {pod.ip for pod in before}
    assert {pod.ip for pod in (*before, *after)} <= set().union(*site.addresses.values())
    assert sorted((pod.node, pod.labels) for pod in before) == sorted((pod.node, pod.labels) for pod in after)


def test_all_that_change_have_changed_before_one_changes_again(site: Site, crowd: Crowd) -> None:
    first = keys(site.pods())
    rounds = crowd_module.FILES_MIN
    for _ in range(rounds):
        crowd.change()
    assert len(first - keys(site.pods())) == rounds * FILE_PODS


@pytest.mark.parametrize(
    ("phases", "is_served"),
    [
        (lambda addresses: dict.fromkeys(addresses, "steering"), True),
        (lambda addresses: dict.fromkeys(addresses, "clearing"), False),
        (lambda addresses: dict.fromkeys(addresses[1:], "steering"), False),
        (lambda addresses: dict.fromkeys([*addresses, "10.244.0.10"], "steering"), True),
    ],
)
def test_it_is_served_when_every_agent_steers_its_pods(
    site: Site, crowd: Crowd, monkeypatch: pytest.MonkeyPatch, phases: Any, is_served: bool
) -> None:
    def status(lab: Any, node: str) -> dict[str, Any]:
        return {"pods": phases([str(pod.ip) for pod in site.pods() if pod.node == node])}

    monkeypatch.setattr("loadtest.gateway.status", status)
    if is_served:
        assert crowd.is_served()
    else:
        with pytest.raises(TransientError, match="steers"):
            crowd.is_served()


def test_a_pod_that_has_left_and_is_still_known_is_not_served_right(
    site: Site, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def status(lab: Any, node: str) -> dict[str, Any]:
        return {"pods": {str(address): "steering" for address in site.addresses[node]}}

    monkeypatch.setattr("loadtest.gateway.status", status)
    with pytest.raises(TransientError, match="steers 40 pods, and 20 there are"):
        crowd.is_served()


def test_a_crowd_too_small_to_change_is_refused(site: Site) -> None:
    with pytest.raises(ValueError, match="at least 20"):
        Crowd(site.lab, ScaleSizes(churn_pods=19))
