"""The compiled datapath as bytes that any process of this kind of machine can load: instructions, and maps by name."""

import hashlib
import struct
from collections.abc import Mapping
from typing import Self

import msgspec

from service.model.errors import InvariantError

_DIGEST_BYTES = 32
_INSTRUCTION = struct.Struct("=BBhi")
_LOAD_64, _MAP_BY_DESCRIPTOR, _CALL = 0x18, 1, 0x85
"""BPF_LD | BPF_IMM | BPF_DW, and its source register BPF_PSEUDO_MAP_FD. Source: include/uapi/linux/bpf.h."""


class CorruptCompiled(Exception):
    """Bytes that are not what `encode` has made."""


class MapSpec(msgspec.Struct, frozen=True, array_like=True):
    """A map as the source asks for it: type, bytes of key and value, rows, flags."""

    name: str
    type: int
    key_size: int
    value_size: int
    rows: int
    flags: int


class Program(msgspec.Struct, frozen=True, array_like=True):
    """One program. `maps`: at which instructions, of 8 bytes each, which map is named."""

    name: str
    instructions: bytes
    maps: tuple[tuple[int, str], ...]

    @classmethod
    def of(cls, name: str, instructions: bytes, descriptors: Mapping[int, str]) -> Self:
        """From code that names its maps by descriptors. Raises InvariantError where one is nobody's."""
        code, named = bytearray(instructions), []
        for index in _places(instructions):
            operation, registers, offset, descriptor = _INSTRUCTION.unpack_from(code, index * 8)
            if descriptor not in descriptors:
                raise InvariantError(f"{name} names a map by descriptor {descriptor}, which is no map's")
            named.append((index, descriptors[descriptor]))
            _INSTRUCTION.pack_into(code, index * 8, operation, registers, offset, 0)
        return cls(name, bytes(code), tuple(named))

    def linked(self, descriptors: Mapping[str, int]) -> bytes:
        """The instructions with this process's descriptors of the maps."""
        code = bytearray(self.instructions)
        for index, name in self.maps:
            operation, registers, offset, _none = _INSTRUCTION.unpack_from(code, index * 8)
            _INSTRUCTION.pack_into(code, index * 8, operation, registers, offset, descriptors[name])
        return bytes(code)


class Compiled(msgspec.Struct, frozen=True, array_like=True):
    """All programs of the datapath, and every map that they name."""

    maps: tuple[MapSpec, ...]
    programs: tuple[Program, ...]

    def encode(self) -> bytes:
        """With its digest before it: a file that was half written is not taken for a whole one."""
        body = msgspec.msgpack.encode(self)
        return hashlib.sha256(body).digest() + body

    @classmethod
    def decode(cls, encoded: bytes) -> Self:
        """Raises CorruptCompiled."""
        digest, body = encoded[:_DIGEST_BYTES], encoded[_DIGEST_BYTES:]
        if hashlib.sha256(body).digest() != digest:
            raise CorruptCompiled("its digest is another")
        try:
            return msgspec.msgpack.decode(body, type=cls)
        except msgspec.DecodeError as error:
            raise CorruptCompiled(str(error)) from error


def _places(instructions: bytes) -> list[int]:
    """Of every instruction that loads a map's address. Calls of other programs' code are not expected."""
    found, skip = [], False
    for index, (operation, registers, _offset, _value) in enumerate(_INSTRUCTION.iter_unpack(instructions)):
        if skip:
            skip = False  # The second half of a load of 64 bits.
            continue
        skip = operation == _LOAD_64
        source = registers >> 4
        if operation == _LOAD_64 and source == _MAP_BY_DESCRIPTOR:
            found.append(index)
        elif source and operation in (_LOAD_64, _CALL):
            raise InvariantError(f"instruction {index} names something that is neither a map nor a helper")
    return found
