import pytest

from service.lab.client import ask_udp
from service.lab.fault import Fault, apply_fault
from service.lab.lab import Lab
from service.lab.namespace import inside, run
from service.lab.process import is_alive
from service.model.errors import OperatorError

pytestmark = pytest.mark.root


def test_a_cut_is_silent_and_heals(site: Lab) -> None:
    pod = site.pod("alice/frontend-worker1")
    apply_fault(site, "worker1", Fault.CUT)
    try:
        for device in ("eth0", "eth1"):
            assert "LOWER_UP" in run(site.enter("worker1", "ip", "link", "show", device))
        with pytest.raises(OSError, match=r"timed out|unreachable"):
            inside(pod.netns, lambda: ask_udp("8.8.8.8", timeout_s=0.3))
    finally:
        done = apply_fault(site, "worker1", Fault.HEAL)
    assert done == ["port worker1-0 forwards again", "port worker1-1 forwards again"]
    assert inside(pod.netns, lambda: ask_udp("8.8.8.8").source) == "192.168.1.21"


def test_what_members_say_to_each_other_is_cut_alone_and_heals(site: Lab) -> None:
    pod, rules = site.pod("alice/frontend-worker1"), site.enter("worker1", "nft", "list", "tables")
    for _twice in range(2):
        apply_fault(site, "worker1", Fault.CUT_CONTROL)
    try:
        assert "table ip cut_control" in run(rules)
        assert inside(pod.netns, lambda: ask_udp("8.8.8.8").source) == "192.168.1.21"
        for port in (9640, 9641):
            with pytest.raises(OSError, match=r"not permitted"):
                inside(site.netns("worker1"), lambda port=port: ask_udp("192.168.1.22", port=port, timeout_s=0.3))
    finally:
        apply_fault(site, "worker1", Fault.HEAL)
    assert "cut_control" not in run(rules)


def test_stop_freezes_cont_thaws_kill_ends_and_restart_starts_what_is_dead(site: Lab) -> None:
    for kind in ("agent", "keeper"):
        site.start(kind, "worker2", site.node("worker2").netns, "http.server", "0")
    agent, keeper = site.state.process("agent", "worker2"), site.state.process("keeper", "worker2")
    assert agent is not None
    assert keeper is not None

    apply_fault(site, "worker2", Fault.STOP, only="agent")
    assert _state(agent.pid) == "T"
    assert _state(keeper.pid) != "T"
    assert apply_fault(site, "worker2", Fault.RESTART) == []

    apply_fault(site, "worker2", Fault.CONT)
    assert _state(agent.pid) != "T"

    assert len(apply_fault(site, "worker2", Fault.KILL)) == 2
    assert not is_alive(agent)
    assert site.info()["nodes"][2]["agent_pid"] is None

    assert len(apply_fault(site, "worker2", Fault.RESTART)) == 2
    again = site.state.process("agent", "worker2")
    assert again is not None
    assert is_alive(again)
    assert again.pid != agent.pid
    apply_fault(site, "worker2", Fault.KILL)


def test_unknown_members_and_programs_are_refused_by_name(site: Lab) -> None:
    with pytest.raises(OperatorError, match="worker9"):
        apply_fault(site, "worker9", Fault.CUT)
    with pytest.raises(OperatorError, match="control1 has no program"):
        apply_fault(site, "control1", Fault.KILL)


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        return stat.read().rpartition(")")[2].split()[0]
