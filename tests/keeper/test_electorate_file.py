import json
import stat
from pathlib import Path

import pytest

from service.keeper import electorate_file
from service.keeper.electorate_file import ElectorateFile, StoredElectorate
from service.model.errors import OperatorError, TransientError
from service.model.lease import NO_ELECTORATE, Elector, Electorate

MEMBERS = (Elector("node0", "192.0.2.1", 7), Elector("node1", "192.0.2.2"))
CONFIGURED = Electorate(1, MEMBERS)
STORED = StoredElectorate(0xFEED, Electorate(4, MEMBERS, MEMBERS[:1]), False)


@pytest.fixture
def file(tmp_path: Path) -> ElectorateFile:
    return ElectorateFile(tmp_path / "state")


def test_a_new_disk_gets_its_number_once(file: ElectorateFile) -> None:
    """M7: a node with another number is a newcomer, so a restart must not draw one."""
    assert file.open(memory=5) == StoredElectorate(5, NO_ELECTORATE, True)
    assert file.open(memory=6) == StoredElectorate(5, NO_ELECTORATE, True)


def test_what_was_written_is_read_with_members_before_it_and_whether_it_settled(file: ElectorateFile) -> None:
    file.open(memory=1)
    file.write(STORED)
    assert file.open(memory=1) == STORED


def test_a_number_of_64_bits_survives(file: ElectorateFile) -> None:
    file.open(memory=(1 << 63) - 1)
    assert file.open(memory=1).memory == (1 << 63) - 1


def test_the_record_is_written_durably(file: ElectorateFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """M1: what is acknowledged in an epoch must not be forgotten with the power."""
    written: list[Path] = []
    monkeypatch.setattr(electorate_file, "replace_durably", lambda path, data: written.append(path))
    file.write(STORED)
    assert [path.name for path in written] == ["electorate"]


def test_a_node_that_knew_none_goes_by_the_configured_one_and_writes_it_down(file: ElectorateFile) -> None:
    assert file.open_or_configure(CONFIGURED, memory=5) == StoredElectorate(5, CONFIGURED, True)
    assert file.open(memory=6) == StoredElectorate(5, CONFIGURED, True)


def test_what_is_on_disk_wins_over_the_configuration(file: ElectorateFile) -> None:
    """M1: it never goes back; and forward only by a transition, which asks the others."""
    file.open(memory=1)
    file.write(STORED)
    for epoch in (1, 9):
        assert file.open_or_configure(Electorate(epoch, MEMBERS), memory=5) == STORED


def test_where_none_is_configured_none_is_gone_by(file: ElectorateFile) -> None:
    assert file.open_or_configure(NO_ELECTORATE, memory=5) == StoredElectorate(5, NO_ELECTORATE, True)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"memory": "xyz", "electorate": [1, []], "settled": true}'], ids=repr
)
def test_a_damaged_record_is_the_operators_and_stays_as_it_is(
    file: ElectorateFile, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "state" / "electorate"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(OperatorError, match=r"damaged .*remove it"):
        file.open(memory=1)
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(OperatorError, match="state_dir"):
        ElectorateFile(tmp_path / "state").open(memory=1)


def test_a_first_record_that_cannot_be_written_now_may_be_in_a_moment(
    file: ElectorateFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(electorate_file, "replace_durably", refuse)
    with pytest.raises(TransientError, match=r"^state_dir: cannot write .*No space"):
        file.open(memory=1)


def test_the_record_can_be_read_by_an_operator(file: ElectorateFile, tmp_path: Path) -> None:
    file.open(memory=1)
    file.write(STORED)
    path = tmp_path / "state" / "electorate"
    assert path.read_bytes().endswith(b"\n")
    assert json.loads(path.read_bytes()) == {
        "memory": "000000000000feed",
        "electorate": [4, [["node0", "192.0.2.1", 7], ["node1", "192.0.2.2", 0]], [["node0", "192.0.2.1", 7]], False],
        "settled": False,
    }
    assert stat.S_ISREG(path.stat().st_mode)


def test_an_electorate_on_disk_that_cannot_be_ends_nobody_and_the_disk_is_still_the_same_one(tmp_path: Path) -> None:
    file = ElectorateFile(tmp_path)
    poisoned = Electorate(1 << 33, (Elector("a", "192.0.2.1"),))
    file.write(file.open(memory=7)._replace(electorate=poisoned))
    assert ElectorateFile(tmp_path).open(memory=9) == StoredElectorate(7, NO_ELECTORATE, True)
    configured = Electorate(1, (Elector("a", "192.0.2.1"),))
    assert ElectorateFile(tmp_path).open_or_configure(configured, memory=9).electorate == configured


@pytest.mark.parametrize("memory", ["0", "-5", "1" + 16 * "0"], ids=repr)
def test_a_number_of_the_disk_that_does_not_fit_the_wire_is_damage(tmp_path: Path, memory: str) -> None:
    """Of its kind and not seen: it would have ended the keeper with its first answer, at each start."""
    file = ElectorateFile(tmp_path)
    file.write(STORED)
    path = tmp_path / "electorate"
    path.write_bytes(path.read_bytes().replace(b"000000000000feed", memory.encode()))
    with pytest.raises(OperatorError, match=r"damaged .*64 bits"):
        file.open(memory=1)


def test_a_configured_electorate_that_cannot_be_written_now_leaves_the_record_as_it_was(
    file: ElectorateFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen: the second write of a start, on a disk that had just filled up, ended the keeper with a traceback."""
    file.open(memory=1)

    def refuse(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(electorate_file, "replace_durably", refuse)
        with pytest.raises(TransientError, match=r"cannot write .*No space"):
            file.open_or_configure(CONFIGURED, memory=5)
    assert file.open(memory=6) == StoredElectorate(1, NO_ELECTORATE, True)
