import threading
from pathlib import Path

import pytest
import yaml

from service.lab.client import ask_udp
from service.lab.configuration import member_folder
from service.lab.lab import Lab, knows_every_node, lab_down, lab_up, wait_until_ready
from service.lab.namespace import create_namespaces, inside, namespaces_of, run
from service.lab.plan import LabOptions
from service.lab.process import is_alive
from service.lab.state import LabState, lab_folder, locked
from service.model.errors import OperatorError
from service.model.gateway_node import NodeRole
from service.settings import load_settings

pytestmark = pytest.mark.root


def _traces(name: str) -> list[str]:
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"egressgw-lab-{name}" in line]
    return [*namespaces_of(name), *mounts, *map(str, Path("/run").glob(f"egressgw-lab-{name}*"))]


def test_down_leaves_nothing_and_can_be_repeated(other_name: str) -> None:
    lab = lab_up(LabOptions(name=other_name, nodes=1), processes=False)
    outside = lab.state.process("outside", "outside")
    assert outside is not None
    assert is_alive(outside)
    assert lab_down(other_name)
    assert not is_alive(outside)
    assert _traces(other_name) == []
    assert not lab_down(other_name)


def test_a_second_lab_of_the_name_is_refused_unless_it_replaces(other_name: str) -> None:
    options = LabOptions(name=other_name, nodes=1, pods_per_node=1)
    lab_up(options, processes=False)
    with pytest.raises(OperatorError, match="--replace"):
        lab_up(options, processes=False)
    lab = lab_up(options, processes=False, replace=True)
    assert inside(lab.plan.pods[0].netns, lambda: ask_udp("8.8.8.8").source) == "192.168.1.11"


def test_two_labs_of_different_names_stand_side_by_side(site: Lab, other_name: str) -> None:
    lab_up(LabOptions(name=other_name, nodes=1), processes=False)
    lab_down(other_name)
    assert inside(site.plan.pods[0].netns, lambda: ask_udp("8.8.8.8").source) == "192.168.1.11"


def test_a_step_that_fails_clears_what_was_built(other_name: str) -> None:
    create_namespaces([f"{other_name}-worker1"])
    with pytest.raises(OperatorError, match="worker1"):
        lab_up(LabOptions(name=other_name), processes=False)
    assert _traces(other_name) == []


def test_an_interrupt_clears_what_was_built(other_name: str) -> None:
    def interrupt(step: str) -> None:
        if step.startswith("worker1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lab_up(LabOptions(name=other_name), processes=False, report=interrupt)
    assert _traces(other_name) == []


def test_a_half_built_lab_is_told_from_a_whole_one(other_name: str) -> None:
    seen: list[str] = []

    def look(step: str) -> None:
        if step.startswith("worker1"):
            with pytest.raises(OperatorError, match="half built"):
                Lab.find(other_name)
            seen.append(step)

    lab_up(LabOptions(name=other_name), processes=False, report=look)
    assert seen
    assert Lab.find(other_name).info()["name"] == other_name


def test_only_one_works_on_a_lab_at_a_time(other_name: str) -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(other_name):
            entered.set()
            leave.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(30)
    try:
        with pytest.raises(OperatorError, match="at work"):
            lab_up(LabOptions(name=other_name), processes=False)
    finally:
        leave.set()
        holder.join()


def test_a_program_that_dies_is_told_with_its_last_words(other_name: str, tmp_path: Path) -> None:
    lab = lab_up(LabOptions(name=other_name, nodes=1, controllers=0), processes=False)
    lab.start("agent", "control1", lab.node("control1").netns, "service.lab.no_such_module")
    with pytest.raises(OperatorError, match=r"(?s)agent of control1 ended.*no_such_module"):
        wait_until_ready(lab)


def test_info_names_what_tests_and_measurements_need(site: Lab) -> None:
    info = site.info()
    assert [node["name"] for node in info["nodes"]] == ["control1", "worker1", "worker2"]
    for node in info["nodes"]:
        assert {"name", "netns", "ip", "mac", "agent_pid", "keeper_pid", "http"} <= set(node)
        assert node["mac"] in run(site.enter(node["name"], "ip", "link", "show", "eth0"))
    for pod in info["pods"]:
        assert {"namespace", "name", "labels", "netns", "ip", "node"} <= set(pod)
    assert {"netns", "ip", "tcp_port", "udp_port", "log"} <= set(info["outside"])
    assert set(info["bridge"]) == {"netns", "name"}
    assert Path(info["manifests"]).is_dir()


def test_settings_of_every_member_are_valid(site: Lab) -> None:
    for node in site.plan.nodes:
        settings = load_settings(member_folder(site.folder, node.name) / "config.yaml")
        assert (settings.node, settings.role, settings.bind_address) == (node.name, node.role, str(node.ip))
        assert len(settings.electorate.members) == 3
        assert len(settings.keys()) == 1
        assert Path(settings.datapath.bpf_dir).is_mount()
    for controller in site.plan.controllers:
        settings = load_settings(member_folder(site.folder, controller.name) / "config.yaml")
        assert settings.role is NodeRole.CONTROLLER


def test_pins_of_two_nodes_are_apart(site: Lab) -> None:
    devices = {(member_folder(site.folder, node.name) / "bpf").stat().st_dev for node in site.plan.nodes}
    assert len(devices) == 3


def test_manifests_describe_every_pod_and_the_files_of_the_source(other_name: str, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("kind: EgressNATPolicy\n")
    (tmp_path / "notes.txt").write_text("not a manifest")
    lab = lab_up(LabOptions(name=other_name, nodes=2), source=tmp_path, processes=False)
    documents = [
        document for path in sorted(lab.manifests.iterdir()) for document in yaml.safe_load_all(path.read_text())
    ]
    pods = [document for document in documents if document["kind"] == "Pod"]
    assert [pod["status"] for pod in pods] == [
        {"phase": "Running", "podIP": str(pod.ip), "podIPs": [{"ip": str(pod.ip)}]} for pod in lab.plan.pods
    ]
    assert len({pod["metadata"]["uid"] for pod in pods}) == 6
    assert {"kind": "EgressNATPolicy"} in documents
    assert not (lab.manifests / "notes.txt").exists()


def test_a_source_without_manifests_is_refused(other_name: str, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="--source"):
        lab_up(LabOptions(name=other_name, nodes=1), source=tmp_path, processes=False)
    assert not lab_folder(other_name).exists()


def test_a_lab_is_ready_when_its_controllers_have_heard_of_every_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen on a busy machine: addresses were placed, for good, on the one node that the leader knew to be ready."""
    lab = Lab(LabState(options=LabOptions(nodes=2), host_settings={}))
    nodes = {"control1": {"ready": True}, "worker1": {"ready": False}}
    monkeypatch.setattr("service.lab.lab.fetch_json", lambda *arguments: {"nodes": nodes})
    assert not knows_every_node(lab, lab.plan.controllers[0])
    nodes["worker1"] = {"ready": True}
    assert knows_every_node(lab, lab.plan.controllers[0])
    del nodes["worker1"]
    assert not knows_every_node(lab, lab.plan.controllers[0])
