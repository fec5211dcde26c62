"""Who gets how many blocks, and who is asked to give some back (Q2). Pure arithmetic over one leader's table."""

from collections.abc import Collection
from dataclasses import dataclass, field

from service.port_block.leader_table import LeaderTable


@dataclass(slots=True)
class Allotment:
    """What one look at a table comes to."""

    gifts: list[tuple[str, int]] = field(default_factory=list)
    """(node, block), in this order."""
    short: dict[str, int] = field(default_factory=dict)
    """Blocks of their base that nodes lack and that there are none for."""
    recalls: dict[str, int] = field(default_factory=dict)
    """How many each node is asked to give back, if it does not use them."""


def allot(table: LeaderTable, members: Collection[str], *, base: int, quota: int, now_ns: int) -> Allotment:
    """The base of each node that has selected pods; then what was asked for, from what no base will need.

    The base of members without pods is kept for them, so that the order in which pods come does not matter.
    """
    result = Allotment()
    lacking = {name: base - table.count(name) for name in table.demand if table.count(name) < base}
    wishes = {name: wish.wanted for name, wish in sorted(table.wishes.items()) if wish.wanted > table.count(name)}
    free = table.free(now_ns) if lacking or wishes else []
    for name, lack in lacking.items():
        given, free = free[:lack], free[lack:]
        result.gifts += [(name, block) for block in given]
        if len(given) < lack:
            result.short[name] = lack - len(given)
    missing = sum(result.short.values()) + _grant_wishes(table, wishes, free, members, result, base=base, quota=quota)
    _recall(table, wishes, missing, result, base=base)
    return result


def _grant_wishes(
    table: LeaderTable,
    wishes: dict[str, int],
    free: list[int],
    members: Collection[str],
    result: Allotment,
    *,
    base: int,
    quota: int,
) -> int:
    if not wishes:
        return 0
    kept = sum(max(0, base - table.count(name)) for name in members if name not in table.demand)
    spare = free[: max(0, len(free) - kept)]
    missing = 0
    # Who has least goes first, and nobody gets more than as much again.
    for name in sorted(wishes, key=lambda name: (table.count(name), name)):
        have = table.count(name)
        wanted = min(wishes[name] - have, max(1, have), quota - have)
        given, spare = spare[: max(0, wanted)], spare[max(0, wanted) :]
        result.gifts += [(name, block) for block in given]
        missing += max(0, wanted) - len(given)
    return missing


def _recall(table: LeaderTable, wishes: dict[str, int], missing: int, result: Allotment, *, base: int) -> None:
    for name, have in table.owners():
        if name not in table.demand and name not in wishes:
            # Kept while it has selected pods, and no longer.
            result.recalls[name] = have
        elif missing and have > base and name not in wishes:
            result.recalls[name] = min(missing, have - base)
