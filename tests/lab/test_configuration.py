"""The settings of a lab's members are what the service's own reader takes them for."""

from pathlib import Path

import pytest

from service.lab.configuration import MAX_LEASE_MS, manifests_folder, member_folder, write_configuration
from service.lab.plan import LabOptions, Plan, make_plan
from service.model.gateway_node import NodeRole
from service.settings import Settings, load_settings

KEY = "ab" * 32


@pytest.fixture
def plan() -> Plan:
    return make_plan(LabOptions(name="mine", profile="fast", kafka="127.0.0.1:9", datapath={"flows_per_pod": 7}))


def written(folder: Path, plan: Plan, name: str) -> Settings:
    member = next(member for member in (*plan.nodes, *plan.controllers) if member.name == name)
    return load_settings(write_configuration(folder, plan, member, KEY))


def test_a_node_has_its_own_address_role_and_folders(tmp_path: Path, plan: Plan) -> None:
    settings = written(tmp_path, plan, "worker1")
    assert (settings.node, settings.role, settings.cluster) == ("worker1", NodeRole.WORKER, "mine")
    assert settings.bind_address == "192.168.1.21"
    for folder in (settings.state_dir, settings.run_dir, settings.datapath.bpf_dir):
        assert Path(folder).is_dir()
        assert Path(folder).parent == member_folder(tmp_path, "worker1")
    assert settings.datapath.uplinks == ("eth0", "eth1")


@pytest.mark.parametrize(("name", "role"), [("control1", "control-plane"), ("controller2", "controller")])
def test_the_role_is_that_of_the_member(tmp_path: Path, plan: Plan, name: str, role: str) -> None:
    assert str(written(tmp_path, plan, name).role) == role


def test_all_members_know_the_same_electors_seeds_and_key(tmp_path: Path, plan: Plan) -> None:
    first, second = written(tmp_path, plan, "worker2"), written(tmp_path, plan, "controller1")
    assert first.electorate == second.electorate
    assert [member.name for member in first.electorate.members] == ["control1", "worker1", "worker2"]
    assert first.gossip.seeds == second.gossip.seeds == ("192.168.1.11", "192.168.1.21", "192.168.1.22")
    assert first.keys() == second.keys()
    assert first.source == second.source == f"manifests:{manifests_folder(tmp_path)}"


def test_options_of_the_lab_arrive(tmp_path: Path, plan: Plan) -> None:
    settings = written(tmp_path, plan, "worker1")
    assert (str(settings.lease.profile), settings.lease.max_lease_ms) == ("fast", MAX_LEASE_MS)
    assert settings.kafka.bootstrap_servers == ("127.0.0.1:9",)
    assert settings.datapath.flows_per_pod == 7
    without = make_plan(LabOptions())
    assert written(tmp_path, without, "worker1").kafka.bootstrap_servers == ()
