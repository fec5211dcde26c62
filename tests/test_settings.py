"""What differs from pod to pod comes from the environment; the file wins."""

import ast
from pathlib import Path

import pytest

from service import settings as settings_module
from service.model.errors import OperatorError
from service.model.gateway_node import NodeRole
from service.settings import load_settings


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NODE_NAME", "worker7")
    monkeypatch.setenv("BIND_ADDRESS", "192.168.1.27")
    path = tmp_path / "config.yaml"
    path.write_text("source: kubernetes\n")
    return path


def test_one_file_serves_every_pod_because_name_and_address_come_from_the_environment(file: Path) -> None:
    settings = load_settings(file)
    assert (settings.node, settings.bind_address) == ("worker7", "192.168.1.27")


def test_http_is_served_at_the_nodes_address_unless_another_is_named(tmp_path: Path) -> None:
    node = {"node": "n1", "keyring": ["00" * 32], "bind_address": "192.0.2.7"}
    assert load_settings(None, node).http.address == "192.0.2.7"
    assert load_settings(None, node | {"http": {"address": "0.0.0.0"}}).http.address == "0.0.0.0"
    with pytest.raises(OperatorError, match=r"http\.address"):
        load_settings(None, node | {"http": {"address": "everywhere"}})


def test_the_file_and_flags_win_over_the_environment(file: Path) -> None:
    file.write_text("source: kubernetes\nnode: worker1\nbind_address: 10.0.0.1\nrole: control-plane\n")
    settings = load_settings(file, {"node": "worker2"})
    assert (settings.node, settings.bind_address) == ("worker2", "10.0.0.1")
    assert settings.role is NodeRole.CONTROL_PLANE


def test_an_address_in_the_environment_that_is_none_is_refused_by_name(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIND_ADDRESS", "worker7.example")
    with pytest.raises(OperatorError, match="bind_address"):
        load_settings(file)


def test_a_process_in_kubernetes_without_an_address_says_which_variable_to_set(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BIND_ADDRESS")
    with pytest.raises(OperatorError, match=r"bind_address: .*BIND_ADDRESS .*status\.hostIP.*status\.podIP"):
        load_settings(file)


def test_a_role_that_is_not_set_is_left_to_the_node_object(file: Path) -> None:
    assert load_settings(file).role is None


def test_every_setting_says_what_it_means_where_it_is_declared() -> None:
    tree = ast.parse(Path(settings_module.__file__).read_text(encoding="utf-8"))
    sections = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    silent = []
    for name, section in sections.items():
        for field, following in zip(section.body, [*section.body[1:], None], strict=True):
            if not isinstance(field, ast.AnnAssign) or ast.unparse(field.annotation) in sections:
                continue  # a section speaks for itself
            is_told = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            if not is_told:
                silent.append(f"{name}.{ast.unparse(field.target)}")
    assert silent == []


def electors(*addresses: str, epoch: int = 1) -> str:
    members = ", ".join(f"{{name: n{index}, address: {address}}}" for index, address in enumerate(addresses))
    return f"electors: {{epoch: {epoch}, members: [{members}]}}\n"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (electors("10.0.0.1", epoch=1 << 33), r"electors\.epoch"),
        (electors("10.0.0.1", epoch=0), r"electors\.epoch"),
        (electors(*(f"10.0.0.{index}" for index in range(1, 10))), r"electors\.members: 9 of them"),
        (electors("10.0.0.1", "10.0.0.1"), r"electors\.members: two of them have one address"),
        (electors("10.0.0.1", "0.0.0.0"), r"electors\.members\[1\]\.address: 0\.0\.0\.0"),
        (electors("10.0.0.1", "nowhere"), r"electors\.members\[1\]\.address"),
    ],
)
def test_an_electorate_that_cannot_be_is_refused_by_the_name_of_its_field(file: Path, text: str, field: str) -> None:
    file.write_text(text)
    with pytest.raises(OperatorError, match=field):
        load_settings(file)


@pytest.mark.parametrize("count", range(1, 9))
def test_an_even_number_of_electors_is_accepted_as_a_step_on_the_way(file: Path, count: int) -> None:
    file.write_text(electors(*(f"10.0.0.{index}" for index in range(1, count + 1))))
    assert len(load_settings(file).electorate.members) == count


def test_one_lost_answer_must_not_make_a_node_deaf(file: Path) -> None:
    file.write_text("lease: {deaf_after_ms: 1400, probe_gap_ms: 500}\n")
    with pytest.raises(OperatorError, match=r"lease\.deaf_after_ms: less than three times"):
        load_settings(file)
    file.write_text("lease: {deaf_after_ms: 0, probe_gap_ms: 500}\n")
    assert load_settings(file).lease.deaf_after_ms == 0


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("mark: 0x3000", r"datapath\.mark: 0x3000 has more"),
        ("connection_mark: 0x3000", r"datapath\.connection_mark: 0x3000 has more"),
        ("mark: 0x2000", r"datapath\.connection_mark: is datapath\.mark"),
    ],
)
def test_w6_a_mark_is_one_bit_and_no_bit_is_both_marks(file: Path, text: str, field: str) -> None:
    file.write_text(f"source: kubernetes\ndatapath: {{{text}}}\n")
    with pytest.raises(OperatorError, match=field):
        load_settings(file)


def test_d4_ports_that_pods_open_connections_from_are_some(file: Path) -> None:
    file.write_text("source: kubernetes\ndatapath: {ephemeral_last: 32768}\n")
    assert list(load_settings(file).datapath.ephemeral_ports) == [32768]
    file.write_text("source: kubernetes\ndatapath: {ephemeral_last: 32767}\n")
    with pytest.raises(OperatorError, match=r"datapath\.ephemeral_last: less than datapath\.ephemeral_first"):
        load_settings(file)


def test_o2_labels_of_a_node_are_few_since_all_members_are_told(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("labels: {rack: a, zone: ''}\n")
    assert load_settings(path).labels == {"rack": "a", "zone": ""}
    path.write_text(f"labels: {{rack: {'a' * 200}}}\n")
    with pytest.raises(OperatorError, match="labels: 204 letters in all; at most 128"):
        load_settings(path)
