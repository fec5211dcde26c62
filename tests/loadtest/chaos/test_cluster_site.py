"""A site in a cluster, with kubectl as a stand-in that keeps what it is told."""

import random
from typing import Any

import pytest

from loadtest.chaos.cluster_site import ClusterSite
from loadtest.chaos.events import ALL, CATALOGUE, CLUSTER_CATALOGUE, cluster
from loadtest.chaos.site import ChaosSite
from service.lab.cluster.cluster import Cluster
from service.lab.fault import Fault
from service.lab.lab import Lab
from service.lab.plan import LabOptions
from service.lab.state import LabState
from service.model.errors import TransientError


class Told:
    """kubectl that notes what it is given."""

    def __init__(self) -> None:
        self.applied: list[str] = []
        self.deleted: list[str] = []
        self.restarts = {"agent": 0, "keeper": 0}

    def apply(self, *documents: dict[str, Any]) -> None:
        self.applied += [document["metadata"]["name"] for document in documents]

    def run(self, *arguments: str, text: str = "") -> None:
        assert arguments[0] == "delete"
        self.deleted.append(text)

    def get(self, *arguments: str) -> Any:
        counts = [{"name": name, "restartCount": count} for name, count in self.restarts.items()]
        return {"items": [{"metadata": {"name": "pod1"}, "status": {"containerStatuses": counts}}]}


@pytest.fixture
def site() -> ClusterSite:
    made = ClusterSite(Cluster(LabState(options=LabOptions(name="unbuilt", kubernetes=True), host_settings={})))
    made.lab.kubectl = Told()  # type: ignore[assignment]
    return made


def told(site: ClusterSite) -> Told:
    assert isinstance(site.lab.kubectl, Told)
    return site.lab.kubectl


def test_what_is_put_in_the_place_of_something_takes_it_away(site: ClusterSite) -> None:
    site.beat()
    site.beat()
    assert told(site).applied == ["beat1", "beat2"]
    assert ["beat1" in text for text in told(site).deleted] == [True]
    site.put("chaos-beat.yaml")
    assert "beat2" in told(site).deleted[-1]
    site.put("chaos-beat.yaml")
    assert len(told(site).deleted) == 2, "what is gone is not deleted again"


def test_a_container_that_no_event_has_ended_may_not_be_restarted(
    site: ClusterSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadtest.chaos.cluster_site.apply_cluster_fault", lambda *arguments, **options: [])
    assert list(site.ended_by_themselves()) == []
    told(site).restarts["agent"] += 1
    assert list(site.ended_by_themselves()) == ["pod1/agent was restarted 1 times"]
    assert list(site.ended_by_themselves()) == [], "told once"
    site.fault("worker1", Fault.KILL, "agent")
    told(site).restarts["agent"] += 1
    told(site).restarts["keeper"] += 1
    assert list(site.ended_by_themselves()) == ["pod1/keeper was restarted 1 times"]


def test_an_api_server_that_does_not_answer_is_no_error_of_the_test(
    site: ClusterSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Told, *arguments: str) -> None:
        from service.model.errors import OperatorError

        raise OperatorError("connection refused")

    monkeypatch.setattr(Told, "get", fail)
    with pytest.raises(TransientError, match="refused"):
        assert site.controllers


def test_events_of_a_cluster_are_its_own_and_those_that_make_sense_there() -> None:
    assert {event.name for event in cluster.EVENTS} <= set(CLUSTER_CATALOGUE)
    assert not {event.name for event in cluster.EVENTS} & set(CATALOGUE)
    assert set(ALL) == {*CATALOGUE, *CLUSTER_CATALOGUE}
    assert all(event.__doc__ for event in CLUSTER_CATALOGUE.values())


@pytest.mark.parametrize("kind", cluster.EVENTS, ids=lambda kind: kind.name)
def test_events_of_a_cluster_are_refused_elsewhere(kind: type[cluster.ClusterEvent]) -> None:
    lab = Lab(LabState(options=LabOptions(name="unbuilt"), host_settings={}))
    with pytest.raises(ValueError, match="in a cluster only"):
        kind(ChaosSite(lab), random.Random(1))
