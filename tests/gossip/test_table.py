import pytest

from service.gossip.config import DEFAULT_CONFIG, GossipConfig
from service.gossip.table import Row, Tables


def test_only_a_higher_version_is_taken() -> None:
    tables = Tables(DEFAULT_CONFIG)
    assert tables.accept("t", "k", Row((1, 2, 3), b"a"))
    assert not tables.accept("t", "k", Row((1, 2, 3), b"b"))
    assert not tables.accept("t", "k", Row((1, 2, 2), b"b"))
    assert not tables.accept("t", "k", Row((0, 9, 9), b"b"))
    assert tables.rows("t")["k"] == Row((1, 2, 3), b"a")
    assert tables.accept("t", "k", Row((2, 0, 0), b"c"))


def test_tables_are_apart() -> None:
    tables = Tables(DEFAULT_CONFIG)
    tables.accept("t", "k", Row((1, 0, 0), b"a"))
    assert dict(tables.rows("u")) == {}
    assert tables.accept("u", "k", Row((0, 0, 1), b"b"))


def test_the_bound_refuses_new_keys_and_still_takes_newer_versions() -> None:
    tables = Tables(GossipConfig(table_rows_max=1))
    tables.accept("t", "k", Row((1, 0, 0), b"a"))
    assert not tables.accept("t", "l", Row((1, 0, 0), b"a"))
    assert tables.accept("t", "k", Row((2, 0, 0), b"b"))
    assert tables.accept("u", "l", Row((1, 0, 0), b"a")), "a full table is not another's affair"


def test_tables_of_others_leave_room_for_those_that_are_ours() -> None:
    tables = Tables(GossipConfig(tables_max=3), names=("ours",))
    taken = [tables.accept(name, "k", Row((1, 0, 0), b"a")) for name in ("a", "b", "c", "ours")]
    assert taken == [True, True, False, True]


def test_a_view_cannot_be_written() -> None:
    tables = Tables(GossipConfig(table_rows_max=1))
    tables.accept("t", "k", Row((1, 0, 0), b"a"))
    with pytest.raises(TypeError):
        tables.rows("t")["k"] = Row((9, 0, 0), b"")  # type: ignore[index]
