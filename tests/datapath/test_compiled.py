"""What was compiled as bytes: the same for every process, and nothing else is taken for it."""

import pytest

from service.datapath.compiled import Compiled, CorruptCompiled, MapSpec, Program
from service.model.errors import InvariantError

EXIT = b"\x95" + bytes(7)


def load_map(descriptor: int, *, source: int = 1) -> bytes:
    """The two instructions by which register 1 gets a map's address."""
    return bytes([0x18, source << 4 | 1, 0, 0]) + descriptor.to_bytes(4, "little") + bytes(8)


CODE = load_map(7) + load_map(0x18, source=0) + load_map(9) + EXIT
PROGRAM = Program.of("pod_ingress", CODE, {7: "ways", 9: "rules"})
COMPILED = Compiled((MapSpec("ways", 1, 4, 32, 4096, 0), MapSpec("rules", 11, 16, 8, 1, 1)), (PROGRAM,))


def test_maps_are_named_by_their_names_wherever_the_code_names_them() -> None:
    assert PROGRAM.maps == ((0, "ways"), (4, "rules"))
    assert PROGRAM.instructions == load_map(0) + load_map(0x18, source=0) + load_map(0) + EXIT


def test_another_process_has_other_descriptors() -> None:
    assert PROGRAM.linked({"ways": 70, "rules": 90}) == load_map(70) + load_map(0x18, source=0) + load_map(90) + EXIT


def test_a_descriptor_that_is_no_maps_is_not_guessed_at() -> None:
    with pytest.raises(InvariantError, match="descriptor 9"):
        Program.of("pod_ingress", CODE, {7: "ways"})


@pytest.mark.parametrize("strange", [load_map(1, source=2), bytes([0x85, 0x10, 0, 0, 1, 0, 0, 0])])
def test_code_that_names_anything_else_is_refused(strange: bytes) -> None:
    """An address within a map, a function of its own: neither is linked here."""
    with pytest.raises(InvariantError, match="instruction 0"):
        Program.of("pod_ingress", strange + EXIT, {})


def test_what_is_read_is_what_was_written() -> None:
    assert Compiled.decode(COMPILED.encode()) == COMPILED


@pytest.mark.parametrize(
    "damage",
    [lambda good: b"", lambda good: good[:-1], lambda good: good[:40] + b"\0" + good[41:], lambda good: good + b"\0"],
    ids=["empty", "cut short", "one byte", "more"],
)
def test_what_was_damaged_is_not_taken(damage) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CorruptCompiled):
        Compiled.decode(damage(COMPILED.encode()))


def test_a_whole_file_of_another_shape_is_not_taken() -> None:
    import hashlib

    body = b"\x93\x01\x02\x03"
    with pytest.raises(CorruptCompiled):
        Compiled.decode(hashlib.sha256(body).digest() + body)
