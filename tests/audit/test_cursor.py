from pathlib import Path

import pytest

from service.audit.cursor import BEGIN, Cursor, Position, read_cursor


def stored(folder: Path, *positions: Position) -> None:
    cursor = Cursor(folder)
    cursor.load()
    for position in positions:
        cursor.store(position)


def test_a_folder_that_was_never_published_has_no_cursor(tmp_path: Path) -> None:
    assert read_cursor(tmp_path) is None
    assert Cursor(tmp_path).load() == BEGIN


def test_the_newest_position_is_read_also_by_the_next_process(tmp_path: Path) -> None:
    stored(tmp_path, Position(1, 100), Position(1, 200), Position(2, 16))
    assert read_cursor(tmp_path) == (2, 16)
    stored(tmp_path, Position(2, 50))
    assert read_cursor(tmp_path) == (2, 50)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_torn_write_leaves_the_position_before(tmp_path: Path, count: int) -> None:
    positions = [Position(1, 100 * number) for number in range(1, count + 2)]
    stored(tmp_path, *positions[:-1])
    before = (tmp_path / "cursor").read_bytes()
    stored(tmp_path, positions[-1])
    after = (tmp_path / "cursor").read_bytes().ljust(1024, b"\0")
    before = before.ljust(1024, b"\0")
    first = next(index for index in range(1024) if before[index] != after[index])
    for length in range(1, 36):
        torn = before[:first] + after[first : first + length] + before[first + length :]
        (tmp_path / "cursor").write_bytes(torn)
        assert read_cursor(tmp_path) in (positions[-2], positions[-1])


def test_a_damaged_cursor_is_none(tmp_path: Path) -> None:
    (tmp_path / "cursor").write_bytes(b"nonsense" * 200)
    assert read_cursor(tmp_path) is None


def test_the_same_position_is_not_written_twice(tmp_path: Path) -> None:
    stored(tmp_path, Position(3, 30))
    written = (tmp_path / "cursor").stat().st_mtime_ns
    stored(tmp_path, Position(3, 30))
    assert (tmp_path / "cursor").stat().st_mtime_ns == written
