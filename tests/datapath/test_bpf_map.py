"""Maps through bpf(2), against real maps of the kernel."""

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.datapath import bpf_map
from service.datapath.bpf_map import BpfMap, create_map
from service.model.errors import InvariantError
from service.network import bpf_call

pytestmark = pytest.mark.bpf

HASH, PERCPU_HASH, PERCPU_ARRAY, LRU_HASH, LPM_TRIE = 1, 5, 6, 9, 11
NO_PREALLOC = 1
NO_EXIST = 1


@pytest.fixture
def small() -> Iterator[BpfMap]:
    """A hash of 8 entries, 4 to 8 bytes."""
    target = BpfMap(create_map(HASH, 4, 8, 8, name="small"))
    yield target
    target.close()


def entry(number: int) -> tuple[bytes, bytes]:
    return struct.pack("=I", number), struct.pack("=Q", number * 10)


def test_a_map_tells_its_shape(small: BpfMap) -> None:
    assert small.info == bpf_map.MapInfo(HASH, 4, 8, 8, 0, "small")


def test_what_was_updated_is_looked_up(small: BpfMap) -> None:
    small.update(*entry(1))
    assert small.lookup(entry(1)[0]) == entry(1)[1]


def test_an_update_replaces(small: BpfMap) -> None:
    small.update(*entry(1))
    small.update(entry(1)[0], entry(2)[1])
    assert small.items() == {entry(1)[0]: entry(2)[1]}


def test_create_if_absent_refuses_a_present_key(small: BpfMap) -> None:
    small.update(*entry(1), flags=NO_EXIST)
    with pytest.raises(FileExistsError):
        small.update(*entry(1), flags=NO_EXIST)


def test_an_absent_key_is_none(small: BpfMap) -> None:
    assert small.lookup(entry(1)[0]) is None


def test_delete_says_whether_something_was_there(small: BpfMap) -> None:
    small.update(*entry(1))
    assert small.delete(entry(1)[0])
    assert not small.delete(entry(1)[0])


def test_a_full_map_refuses_a_new_key(small: BpfMap) -> None:
    small.update_many([entry(number) for number in range(8)])
    with pytest.raises(OSError, match="Argument list too long") as raised:
        small.update(*entry(8))
    assert raised.value.errno == errno.E2BIG


@pytest.mark.parametrize(("key", "value"), [(b"abc", bytes(8)), (b"abcd", bytes(7)), (b"abcde", bytes(8))])
def test_sizes_that_are_not_the_maps_are_our_bug(small: BpfMap, key: bytes, value: bytes) -> None:
    with pytest.raises(InvariantError, match="small"):
        small.update(key, value)
    with pytest.raises(InvariantError):
        small.update_many([(key, value)])
    assert small.items() == {}


def test_items_are_all_entries(small: BpfMap) -> None:
    entries = dict(entry(number) for number in range(5))
    small.update_many(list(entries.items()))
    assert small.items() == entries
    assert sorted(small.keys()) == sorted(entries)


def test_an_empty_map_has_no_keys(small: BpfMap) -> None:
    assert small.keys() == []


def test_a_batch_says_how_many_entries_were_written_before_the_map_was_full(small: BpfMap) -> None:
    assert small.update_many([entry(number) for number in range(11)]) == 8
    assert len(small.items()) == 8


def test_an_empty_batch_writes_nothing(small: BpfMap) -> None:
    assert small.update_many([]) == 0


def test_a_batch_replaces_present_entries_of_a_full_map(small: BpfMap) -> None:
    small.update_many([entry(number) for number in range(8)])
    assert small.update_many([(entry(number)[0], bytes(8)) for number in range(8)]) == 8
    assert set(small.items().values()) == {bytes(8)}


def test_keys_can_be_walked_in_pieces(small: BpfMap) -> None:
    small.update_many([entry(number) for number in range(5)])
    found, after = [], None
    while piece := small.keys(after=after, count=2):
        found += piece
        after = piece[-1]
    assert sorted(found) == [entry(number)[0] for number in range(5)]


def test_a_kernel_without_batches_is_driven_entry_by_entry(small: BpfMap, monkeypatch: pytest.MonkeyPatch) -> None:
    real = bpf_map.bpf_call

    def refuse_batches(command: int, attributes: bytearray) -> int:
        if command == bpf_map._UPDATE_BATCH:
            raise OSError(errno.EINVAL, "no such command")
        return real(command, attributes)

    monkeypatch.setattr(bpf_map, "bpf_call", refuse_batches)
    assert small.update_many([entry(number) for number in range(11)]) == 8
    assert len(small.items()) == 8


def test_a_full_trie_is_reported_like_a_full_hash() -> None:
    """It says ENOSPC where a hash says E2BIG."""
    trie = BpfMap(create_map(LPM_TRIE, 8, 4, 4, flags=NO_PREALLOC))
    rows = [(struct.pack("=I4B", 32, 10, 0, 0, number), bytes(4)) for number in range(6)]
    assert trie.update_many(rows) == 4
    assert sorted(trie.keys()) == sorted(key for key, _ in rows[:4])
    trie.close()


def test_an_lru_map_takes_any_number_of_entries() -> None:
    lru = BpfMap(create_map(LRU_HASH, 4, 8, 64))
    assert lru.update_many([entry(number) for number in range(1000)]) == 1000
    assert lru.lookup(entry(999)[0]) == entry(999)[1]
    lru.close()


def test_a_per_cpu_map_has_a_value_for_every_cpu() -> None:
    counters = BpfMap(create_map(PERCPU_ARRAY, 4, 8, 2))
    value = counters.lookup(bytes(4))
    assert value is not None
    assert set(value) == {0}
    assert len(value) >= 8 * (os.cpu_count() or 1)
    counters.close()


@pytest.mark.parametrize("value_size", [8, 12])
def test_a_per_cpu_value_is_written_for_all_cpus_or_not_at_all(value_size: int) -> None:
    """A value for one CPU would let the kernel read past its end."""
    target = BpfMap(create_map(PERCPU_HASH, 4, value_size, 4))
    with pytest.raises(InvariantError):
        target.update(bytes(4), bytes(value_size))
    target.update(bytes(4), bytes(16 if value_size == 12 else 8) * _possible_cpus())
    assert target.update_many([(b"abcd", bytes(16 if value_size == 12 else 8) * _possible_cpus())]) == 1
    assert len(target.items()) == 2
    target.close()


def _possible_cpus() -> int:
    return int(Path("/sys/devices/system/cpu/possible").read_text().strip().rsplit("-", maxsplit=1)[-1]) + 1


def test_a_pinned_map_is_the_same_map(small: BpfMap, bpffs: Path) -> None:
    path = bpffs / "pinned"
    bpf_call.pin(small.fd, str(path))
    again = bpf_map.open_pinned(str(path))
    small.update(*entry(1))
    assert again.items() == small.items()
    again.close()
    path.unlink()


def test_a_pin_is_not_overwritten(small: BpfMap, bpffs: Path) -> None:
    path = bpffs / "taken"
    bpf_call.pin(small.fd, str(path))
    with pytest.raises(FileExistsError):
        bpf_call.pin(small.fd, str(path))
    path.unlink()


def test_what_is_not_pinned_cannot_be_opened(bpffs: Path) -> None:
    with pytest.raises(FileNotFoundError):
        bpf_map.open_pinned(str(bpffs / "nothing"))


def test_what_cannot_be_asked_for_its_shape_keeps_no_descriptor(
    small: BpfMap, bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int) -> bpf_map.MapInfo:
        raise OSError(errno.EINVAL, "no map")

    path = bpffs / "program"
    bpf_call.pin(small.fd, str(path))
    monkeypatch.setattr(bpf_map, "map_info", refuse)
    open_before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        with pytest.raises(OSError, match="no map"):
            bpf_map.open_pinned(str(path))
    assert len(os.listdir("/proc/self/fd")) == open_before
    path.unlink()


def test_a_pinned_map_outlives_its_descriptors(small: BpfMap, bpffs: Path) -> None:
    path = bpffs / "outlives"
    small.update(*entry(1))
    bpf_call.pin(small.fd, str(path))
    small.close()
    again = bpf_map.open_pinned(str(path))
    assert again.items() == dict([entry(1)])
    again.close()
    path.unlink()


def test_closing_twice_is_harmless(small: BpfMap) -> None:
    small.close()
    small.close()
    assert small.fd == -1


def test_a_closed_map_is_an_error(small: BpfMap) -> None:
    small.close()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        small.lookup(bytes(4))


def test_the_interpreter_lock_is_free_while_the_kernel_works() -> None:
    """Else a batch in a worker thread would hold up the event loop: PyDLL would keep it, CDLL lets it go."""
    assert type(bpf_call._libc) is ctypes.CDLL
