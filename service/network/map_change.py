"""Changes of the maps that say which chain a pod's packets go through: values, and in the words of `nft`."""

from collections.abc import Iterable
from enum import IntEnum
from ipaddress import IPv4Address
from typing import NamedTuple


class Jump(IntEnum):
    """To go to a chain, and come back or not; by the kernel's numbers (linux/netfilter/nf_tables.h)."""

    JUMP = -3
    GOTO = -4


class MapChange(NamedTuple):
    """One element of a map from an IPv4 address to a verdict."""

    map: str
    key: bytes
    """Four bytes."""
    chain: str | None
    """None: the element goes."""
    jump: Jump = Jump.JUMP


def map_text(table: str, changes: Iterable[MapChange]) -> str:
    """The changes as lines for `nft -f`, of a table of family `ip`."""
    lines: dict[tuple[str, str], list[str]] = {}
    for change in changes:
        verb, key = "delete" if change.chain is None else "add", IPv4Address(change.key)
        verdict = "" if change.chain is None else f" : {change.jump.name.lower()} {change.chain}"
        lines.setdefault((verb, change.map), []).append(f"{key}{verdict}")
    return "".join(
        f"{verb} element ip {table} {name} {{ {', '.join(elements)} }}\n" for (verb, name), elements in lines.items()
    )
