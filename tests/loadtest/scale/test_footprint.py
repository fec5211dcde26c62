import json
from pathlib import Path

import pytest

from loadtest.scale.footprint import ELEMENTS, RULES, Growth, map_entries, most_grown, nft_counts
from service.datapath.bpf_map import BpfMap, create_map
from service.datapath.layout import MAP_SHAPES, MapName
from service.lab.namespace import run
from service.model.errors import TransientError
from service.network.bpf_call import pin

LISTING = {
    "nftables": [
        {"metainfo": {"version": "1.0.6"}},
        {"table": {"family": "ip", "name": "egressgw"}},
        {"counter": {"name": "steered", "packets": 3}},
        {"set": {"name": "cluster", "elem": ["10.0.0.1", {"prefix": {"addr": "10.244.0.0", "len": 16}}]}},
        {"map": {"name": "guard", "elem": [["10.244.0.10", {"drop": None}]]}},
        {"set": {"name": "empty"}},
        {"chain": {"name": "guard"}},
        {"rule": {"chain": "guard"}},
    ]
}


def test_elements_are_counted_and_what_is_made_of_nothing_is_no_element() -> None:
    assert nft_counts(json.dumps(LISTING)) == {ELEMENTS: 3, RULES: 5}


def test_what_grew_most_of_what_there_was_is_named() -> None:
    grown = most_grown({"agent": 100.0, "keeper": 40.0, "gone": 1.0}, {"agent": 101.0, "keeper": 42.0, "new": 9.0})
    assert (grown.where, grown.more, grown.percent) == ("keeper", 2.0, 5.0)
    assert str(grown) == "keeper: 40 -> 42"


def test_what_was_not_there_has_grown_too_and_nothing_to_compare_is_no_zero() -> None:
    assert Growth("worker1", 0, 3).percent == 300
    with pytest.raises(TransientError):
        most_grown({"agent": 1.0}, {})


@pytest.fixture
def bpffs(tmp_path: Path) -> Path:
    folder = tmp_path / "bpf"
    folder.mkdir()
    run(["mount", "-t", "bpf", "bpf", str(folder)])
    return folder


@pytest.mark.root
@pytest.mark.bpf
def test_entries_are_those_of_maps_that_can_grow_and_deadlines_of_once_held_addresses_do_not_count(bpffs: Path) -> None:
    try:
        (bpffs / "v1").mkdir()
        for name, rows in ((MapName.SELECTED, 5), (MapName.LEASE_DEADLINES, 7), (MapName.NEXT_HOPS, 9)):
            shape = MAP_SHAPES[name]
            made = BpfMap(create_map(shape.type, shape.key_size, shape.value_size, 64))
            for number in range(rows):
                made.update(number.to_bytes(shape.key_size, "big"), bytes(shape.value_size))
            pin(made.fd, str(bpffs / "v1" / name))
            made.close()
        assert map_entries(bpffs, 6) == {MapName.SELECTED: 5, MapName.LEASE_DEADLINES: 1}
    finally:
        run(["umount", str(bpffs)])
