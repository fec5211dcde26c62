from types import SimpleNamespace
from typing import Any, cast

import pytest

from loadtest import failover_case, gateway
from loadtest.failover_case import CASES
from service.lab.fault import Fault
from service.lab.lab import Lab
from service.model.errors import TransientError


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    done: list[tuple[str, Fault]] = []
    monkeypatch.setattr(failover_case, "apply_fault", lambda lab, member, fault: done.append((member, fault)))
    monkeypatch.setattr(gateway, "leads", lambda lab, name: name == "controller2")
    controllers = [SimpleNamespace(name=f"controller{number}") for number in (1, 2)]
    plan = SimpleNamespace(controllers=controllers, nodes=[SimpleNamespace(name="worker1")])
    return cast(Lab, SimpleNamespace(plan=plan, done=done))


def done(lab: Lab) -> list[tuple[str, Fault]]:
    return cast(Any, lab).done


def test_nothing_is_done_before_the_moment(lab: Lab) -> None:
    acts = [CASES[name].prepare(lab, "worker1") for name in ("crash", "leader")]
    assert done(lab) == []
    for act in acts:
        act()
    assert done(lab) == [
        ("worker1", Fault.CUT),
        ("worker1", Fault.KILL),
        ("worker1", Fault.CUT),
        ("controller2", Fault.KILL),
        ("worker1", Fault.KILL),
    ]


def test_without_a_leader_the_case_is_none(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "leads", lambda lab, name: False)
    with pytest.raises(TransientError, match="no controller leads"):
        CASES["leader"].prepare(lab, "worker1")


def test_what_was_killed_runs_again_and_a_move_leaves_nothing_to_mend(lab: Lab) -> None:
    CASES["leader"].mend(lab, "worker1")
    assert done(lab) == [
        ("worker1", Fault.HEAL),
        ("worker1", Fault.RESTART),
        ("controller1", Fault.RESTART),
        ("controller2", Fault.RESTART),
    ]
    done(lab).clear()
    CASES["move"].mend(lab, "worker1")
    assert done(lab) == []
