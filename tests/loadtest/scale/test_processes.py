import os

import pytest

from loadtest.goal import Row
from loadtest.scale import processes
from loadtest.scale.curve import QUADRATIC
from loadtest.scale.options import ScaleOptions, ScaleSizes
from loadtest.scale.processes import measure_processes
from service.lab.namespace import namespaces_of

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.e2e, pytest.mark.timeout(240)]
SIZES = ScaleSizes(policies=40, few_pods=20, gateway_nodes=40, idle_s=2.0, churn_floating_ips=12)
NAME = f"s{os.getpid() % 100000}"


@pytest.fixture(scope="module")
def row() -> Row:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "QUIET_S", 0.5)
        return measure_processes(ScaleOptions(name=NAME, sizes=SIZES), lambda line: None)


def test_every_process_of_the_lab_is_seen_at_every_size_and_the_lab_is_gone(row: Row) -> None:
    stages = row.detail["stages"]
    sizes = [(stage["floating_ips"], stage["policies"], stage["pods"]) for stage in stages]
    assert sizes == [(3, 1, 0), (4, 1, 0), (12, 1, 0), (3, 8, 4), (3, 40, 20)]
    for stage in stages:
        kinds = sorted(program["kind"] for program in stage["programs"])
        assert kinds == ["agent"] * 3 + ["controller"] * 2 + ["keeper"] * 3
        assert all(10 < program["memory"]["rss"] < 1000 for program in stage["programs"])
        assert stage["leases_per_s"] > 1, "nobody renews a lease"
        assert stage["datagrams_per_s"] >= stage["leases_per_s"]
        assert stage["looks"]["all"] > 0
    assert namespaces_of(f"{NAME}p") == []


def test_each_kind_has_its_goals_and_each_number_is_there(row: Row) -> None:
    goals = [str(figure.goal) for figure in row.figures if figure.goal]
    assert goals == ["<= 1.5", "<= 1", "<= 1"] * 2 + ["<= 80", "<= 40", "<= 70", "<= 70"]
    assert all(figure.value is not None for figure in row.figures)


def test_nothing_turns_quadratic(row: Row) -> None:
    curves = row.detail["curves"]
    assert len(curves) == 11
    # A few ticks of the kernel's clock, and a few floating IPs, are too few to tell a slope by.
    told = [curve for curve in curves if (curve["of"], curve["unit"]) != ("floating IPs", "% of a core")]
    assert [curve["title"] for curve in told if curve["exponent"] > QUADRATIC] == []
