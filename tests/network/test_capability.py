"""What is missing on the node is said at the start, one sentence each."""

from pathlib import Path

import pytest

from service.model.errors import OperatorError
from service.network.capability import check_node

EVERYTHING = (1 << 41) - 1
SYS_ADMIN, NET_RAW, NET_ADMIN, BPF, PERFMON = 1 << 21, 1 << 13, 1 << 12, 1 << 39, 1 << 38


@pytest.fixture
def tools(tmp_path: Path) -> str:
    program = tmp_path / "bin" / "nft"
    program.parent.mkdir()
    program.touch(mode=0o755)
    return str(program.parent)


def proc(folder: Path, capabilities: int, *, jit: str = "1") -> Path:
    (folder / "self").mkdir()
    (folder / "self/status").write_text(f"Name:\tagent\nCapEff:\t{capabilities:016x}\n", encoding="ascii")
    (folder / "sys/net/core").mkdir(parents=True)
    (folder / "sys/net/core/bpf_jit_enable").write_text(jit, encoding="ascii")
    return folder


def test_a_capable_node_gives_no_word(tmp_path: Path, tools: str) -> None:
    assert check_node(proc=proc(tmp_path, EVERYTHING), release="5.10.0-28-amd64", search_path=tools) == ()


def test_narrow_capabilities_suffice(tmp_path: Path, tools: str) -> None:
    assert check_node(proc=proc(tmp_path, NET_ADMIN | NET_RAW | BPF | PERFMON), release="6.1", search_path=tools) == ()


def test_each_missing_thing_has_its_sentence(tmp_path: Path) -> None:
    with pytest.raises(OperatorError) as caught:
        check_node(proc=proc(tmp_path, BPF), release="5.4.0-1", search_path=str(tmp_path))
    sentences = str(caught.value).splitlines()
    assert len(sentences) == 5
    for word in ("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_PERFMON", "5.4.0-1", "nft"):
        assert any(word in sentence for sentence in sentences)


def test_sys_admin_stands_for_bpf(tmp_path: Path, tools: str) -> None:
    node = proc(tmp_path, NET_ADMIN | NET_RAW | SYS_ADMIN)
    assert check_node(proc=node, release="5.10", search_path=tools) == ()


@pytest.mark.parametrize("half", [0, BPF, PERFMON])
def test_bpf_needs_perfmon_beside_it_and_either_alone_is_missing(tmp_path: Path, tools: str, half: int) -> None:
    with pytest.raises(OperatorError, match=r"^CAP_BPF with CAP_PERFMON"):
        check_node(proc=proc(tmp_path, NET_ADMIN | NET_RAW | half), release="5.10", search_path=tools)


def test_an_interpreted_datapath_is_only_a_warning(tmp_path: Path, tools: str) -> None:
    (warning,) = check_node(proc=proc(tmp_path, EVERYTHING, jit="0"), release="6.1", search_path=tools)
    assert "bpf_jit_enable" in warning
