"""Last good state, with the time passed in."""

import os
from pathlib import Path

import pytest

from service.model.objects import Kind, ObjectKey
from service.sources.manifests.folder import OMISSION_QUIET_NS, REMOVAL_QUIET_NS, FolderView, ManifestFolder
from service.sources.manifests.status_file import CreationTimes, StatusFolder
from tests.sources.texts import GATEWAY, POLICY, documents, pod_text, policy_text


class Desk:
    """A folder, its state, and a clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now_ns = 0
        self.state = ManifestFolder(path, CreationTimes(StatusFolder(path)))

    def write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)

    def scan(self, wait_ns: int = 1) -> FolderView:
        self.now_ns += wait_ns
        return self.state.scan(self.now_ns)

    def names(self, wait_ns: int = 1) -> list[str]:
        return sorted(str(key) for key in self.scan(wait_ns).objects)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def policy_key(name: str) -> ObjectKey:
    return ObjectKey(Kind.POLICY, "", name)


def created(view: FolderView, name: str) -> str:
    return view.objects[policy_key(name)].created


BROKEN = [
    ("bad YAML", "spec: [", ""),
    ("bad object", POLICY.replace("8.8.8.0/24", "8.8.8.1/24"), "spec.destinationCIDRs[0]"),
    ("object without a name", POLICY.replace("{name: egress}", "{}"), "metadata.name"),
    ("another kind of ours", POLICY.replace("EgressNATPolicy", "EgressPolicy"), "kind"),
    ("blank", "\n", ""),
    ("nothing", "", ""),
]


@pytest.mark.parametrize(("text", "field"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_file_that_turns_bad_keeps_its_objects_in_force(desk: Desk, text: str, field: str) -> None:
    desk.write("a.yaml", documents(GATEWAY, POLICY))
    good = desk.scan().objects
    desk.write("a.yaml", text)
    view = desk.scan()
    assert view.objects == good
    assert [(error.origin, error.field) for error in view.errors] == [(str(desk.path / "a.yaml"), field)]
    # However long it stays so.
    assert desk.scan(100 * OMISSION_QUIET_NS).objects == good
    desk.write("a.yaml", documents(GATEWAY, POLICY))
    assert desk.scan().errors == ()


def test_good_objects_beside_a_bad_one_take_effect(desk: Desk) -> None:
    desk.write("a.yaml", documents(policy_text("x"), policy_text("y")))
    desk.scan()
    desk.write("a.yaml", documents(policy_text("x", ip="192.168.1.101"), policy_text("y", ip="bad")))
    view = desk.scan()
    assert str(view.objects[policy_key("x")].egress_source_ip) == "192.168.1.101"
    assert str(view.objects[policy_key("y")].egress_source_ip) == "192.168.1.100"


def test_a_file_half_written_then_completed_takes_nothing_away(desk: Desk) -> None:
    text = documents(GATEWAY, POLICY, pod_text("one"), pod_text("two", "10.0.0.2"))
    desk.write("a.yaml", text)
    good = desk.scan().objects
    for length in range(0, len(text), 7):
        desk.write("a.yaml", text[:length])
        assert set(desk.scan(OMISSION_QUIET_NS // 2).objects) == set(good)
    desk.write("a.yaml", text)
    assert desk.scan().objects == good
    assert desk.scan(2 * OMISSION_QUIET_NS).objects == good


def test_an_object_taken_out_of_its_file_goes_after_a_while(desk: Desk) -> None:
    desk.write("a.yaml", documents(policy_text("x"), policy_text("y")))
    desk.scan()
    desk.write("a.yaml", policy_text("x"))
    view = desk.scan()
    assert view.is_pending
    assert len(view.objects) == 2
    assert desk.names(OMISSION_QUIET_NS) == ["x"]


def test_commenting_everything_out_removes_everything(desk: Desk) -> None:
    desk.write("a.yaml", POLICY)
    desk.scan()
    desk.write("a.yaml", "".join(f"# {line}\n" for line in POLICY.splitlines()))
    assert desk.names() == ["egress"]
    assert desk.names(OMISSION_QUIET_NS) == []


def test_a_removed_file_takes_its_objects_and_errors_along(desk: Desk) -> None:
    desk.write("a.yaml", POLICY)
    desk.write("b.yaml", "[")
    assert len(desk.scan().errors) == 1
    (desk.path / "a.yaml").unlink()
    (desk.path / "b.yaml").unlink()
    view = desk.scan()
    assert (list(view.objects), view.errors) == ([policy_key("egress")], ())
    assert desk.names(REMOVAL_QUIET_NS) == []


def test_an_editor_that_replaces_the_file_removes_nothing(desk: Desk) -> None:
    desk.write("a.yaml", POLICY)
    desk.scan()
    (desk.path / "a.yaml").rename(desk.path / "a.yaml~")
    assert desk.names() == ["egress"]
    desk.write("a.yaml", POLICY)
    assert desk.names() == ["egress"]
    assert desk.names(10 * REMOVAL_QUIET_NS) == ["egress"]


def test_of_duplicates_the_first_file_counts_and_both_are_named(desk: Desk) -> None:
    desk.write("b.yaml", policy_text("x", ip="192.168.1.101"))
    desk.write("a.yaml", policy_text("x"))
    view = desk.scan()
    assert str(view.objects[policy_key("x")].egress_source_ip) == "192.168.1.100"
    (error,) = view.errors
    assert error.origin.endswith("b.yaml")
    assert str(desk.path / "a.yaml") in error.message
    (desk.path / "a.yaml").unlink()
    desk.scan()
    view = desk.scan(REMOVAL_QUIET_NS)
    assert str(view.objects[policy_key("x")].egress_source_ip) == "192.168.1.101"


def test_a_duplicate_within_one_file_is_named(desk: Desk) -> None:
    desk.write("a.yaml", documents(policy_text("x"), policy_text("x", ip="192.168.1.101")))
    view = desk.scan()
    assert str(view.objects[policy_key("x")].egress_source_ip) == "192.168.1.100"
    assert "twice" in view.errors[0].message


def test_an_object_moved_to_another_file_is_no_duplicate_of_itself(desk: Desk) -> None:
    desk.write("a.yaml", documents(policy_text("x"), policy_text("y")))
    before = desk.scan()
    desk.write("a.yaml", policy_text("y"))
    desk.write("z.yaml", policy_text("x"))
    view = desk.scan()
    assert view.errors == ()
    assert view.objects == before.objects
    (desk.path / "z.yaml").rename(desk.path / "c.yaml")
    assert desk.scan().errors == ()


def test_what_editors_leave_behind_and_other_folders_are_not_read(desk: Desk) -> None:
    for name in (".a.yaml", "a.yaml~", "#a.yaml#", ".a.yaml.swp", "a.yaml.bak", "a.txt", "~a.yaml"):
        desk.write(name, "[")
    (desk.path / "status").mkdir()
    (desk.path / "status" / "x.yaml").write_text("[")
    (desk.path / "folder.yaml").mkdir()
    os.mkfifo(desk.path / "pipe.yaml")
    desk.write("a.yml", POLICY)
    desk.write("b.json", '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}')
    view = desk.scan()
    assert sorted(str(key) for key in view.objects) == ["egress", "shop"]
    assert view.errors == ()


def test_a_dangling_link_and_bytes_that_are_no_text_are_errors(desk: Desk) -> None:
    (desk.path / "a.yaml").symlink_to("/nowhere/at/all")
    (desk.path / "b.yaml").write_bytes(b"a: \xff")
    messages = [error.message for error in desk.scan().errors]
    assert "cannot be read" in messages[0]
    assert "not UTF-8 text: byte 3 is 0xff" in messages[1]


def test_lists_are_opened_and_foreign_kinds_do_not_hold_things_up(desk: Desk) -> None:
    foreign = "apiVersion: v1\nkind: Service\nmetadata: {name: x}\n"
    items = "apiVersion: v1\nkind: List\nitems:\n" + "".join(
        "- " + text.replace("\n", "\n  ").rstrip() + "\n" for text in (pod_text("one"), pod_text("two", "10.0.0.2"))
    )
    desk.write("a.yaml", documents(items, policy_text("x"), foreign))
    assert desk.names() == ["shop/one", "shop/two", "x"]
    desk.write("a.yaml", documents(items, foreign))
    desk.scan()
    view = desk.scan(OMISSION_QUIET_NS)
    assert policy_key("x") not in view.objects
    assert [error.field for error in view.errors] == ["kind"]


def test_a_folder_that_cannot_be_read_changes_nothing(desk: Desk) -> None:
    desk.write("a.yaml", POLICY)
    good = desk.scan().objects
    hidden = desk.path.with_name("hidden")
    desk.path.rename(hidden)
    view = desk.scan(10 * REMOVAL_QUIET_NS)
    assert view.objects == good
    assert "last good state" in view.errors[0].message
    hidden.rename(desk.path)
    assert desk.scan().errors == ()


def test_two_quick_writes_of_equal_length_are_both_seen(desk: Desk) -> None:
    for last in range(100, 150):
        desk.write("a.yaml", policy_text("x", ip=f"192.168.1.{last}"))
        assert str(desk.scan().objects[policy_key("x")].egress_source_ip) == f"192.168.1.{last}"


def test_the_age_of_a_policy_is_when_its_file_was_first_seen(desk: Desk) -> None:
    desk.write("a.yaml", POLICY)
    os.utime(desk.path / "a.yaml", ns=(0, 1_714_521_600_000_000_001))
    assert created(desk.scan(), "egress") == "2024-05-01T00:00:00.000000001Z"
    desk.write("a.yaml", POLICY.replace("8.8.8.0/24", "9.9.9.0/24"))
    assert created(desk.scan(), "egress") == "2024-05-01T00:00:00.000000001Z"


def test_a_stated_creation_time_comes_before_the_status_and_that_before_the_file(desk: Desk) -> None:
    status = StatusFolder(desk.path)
    for name in ("stated", "kept"):
        status.write(policy_key(name), {}, created="2020-01-01T00:00:00.000000000Z")
    desk.write("a.yaml", documents(policy_text("stated", created="2019-01-01T00:00:00Z"), policy_text("kept")))
    view = desk.scan()
    assert created(view, "stated") == "2019-01-01T00:00:00.000000000Z"
    assert created(view, "kept") == "2020-01-01T00:00:00.000000000Z"


def test_a_new_policy_does_not_inherit_the_age_of_its_namesake(desk: Desk) -> None:
    StatusFolder(desk.path).write(policy_key("egress"), {}, created="2020-01-01T00:00:00.000000000Z")
    desk.write("a.yaml", POLICY)
    assert created(desk.scan(), "egress").startswith("2020")
    (desk.path / "a.yaml").unlink()
    desk.scan()
    assert desk.names(REMOVAL_QUIET_NS) == []
    desk.write("a.yaml", POLICY)
    assert not created(desk.scan(), "egress").startswith("2020")
