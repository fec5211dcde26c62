"""Which maps are copied into one of another size, and what is told of the others."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from service.datapath import map_size
from service.datapath.layout import MAP_SHAPES, MapName
from service.datapath.map_size import KeptSize, copy_rows
from tests.datapath.stand_in import StandInMap

BPF = Path(__file__).resolve().parents[2] / "bpf"
INSERTS = re.compile(r"\b(\w+)\.(?:update|insert)\(")


class SmallMap(StandInMap):
    """Has room for two rows."""

    def update_many(self, items: Sequence[tuple[bytes, bytes]]) -> int:
        self.rows.update(items[:2])
        return len(self.rows)


def is_copied(name: str) -> bool:
    new = SmallMap()
    assert copy_rows(name, StandInMap({b"a": b"1", b"b": b"2"}), new) == bool(new.rows)
    return len(new.rows) == 2


def test_u1_no_map_is_copied_into_which_a_program_or_the_keeper_puts_rows() -> None:
    inserted = {name for path in BPF.glob("*.[ch]") for name in INSERTS.findall(path.read_text("ascii"))}
    others = (inserted & MAP_SHAPES.keys()) | {MapName.LEASE_DEADLINES}
    assert MapName.FLOWS_OPEN in others
    assert MapName.WAY_HINTS in others
    assert not [name for name in others if is_copied(name)]


def test_u1_where_pods_go_by_a_map_it_is_copied() -> None:
    assert is_copied(MapName.SELECTED)
    assert is_copied(MapName.RULES)
    assert is_copied(MapName.WAYS)


def test_u1_rows_that_do_not_all_fit_stay_where_they_are() -> None:
    rows = {b"a": b"1", b"b": b"2", b"c": b"3"}
    assert not copy_rows(MapName.SELECTED, StandInMap(rows), SmallMap())


@pytest.mark.parametrize("kept", [[], [KeptSize("flows_open", 300, 600)]])
def test_a_size_that_is_not_the_wanted_one_is_told_with_what_makes_it_so(kept: list[KeptSize]) -> None:
    told = map_size.trouble(kept)
    assert ("flows_open has 300 and not 600" in told) == bool(kept)
    assert ("rebooted, or egressgw uninstalled" in told) == bool(kept)
