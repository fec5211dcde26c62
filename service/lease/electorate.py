"""Who should be an elector, and the one step that may be made towards it now (leases.md, M2-M5, M7). Pure functions.

A step adds or removes one member, or changes the address of one. It may be made only when the present epoch is in
force: a majority of its members has settled in it, so that every promise of older epochs is known to whoever is counted
from then on. Replacing is adding, then removing: an elector that is not there must not be needed, and one that is new
must not be missing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from service.model.errors import OperatorError
from service.model.lease import ELECTORS_MAX, EPOCH_MAX, Elector, Electorate

SIZES = (1, 2, 3, 5, 7)
"""Of an electorate that nobody is changing. With four one may be lost, as with three, and there is one more to lose."""
MEMORY_MAX = (1 << 64) - 1
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Candidate:
    """An agent that is there, as gossip tells."""

    name: str
    host: str
    is_control_plane: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """What a keeper has said of itself lately."""

    epoch: int
    """That it has on disk."""
    memory: int
    """Number of its disk (M7)."""
    voting: bool
    """It is out of the silence of P2."""
    settled: bool
    """It knows what was promised before its epoch (M3)."""
    elector: bool
    """Its epoch names it, with the disk that it has."""
    misses_other: bool = False
    """It was one of two, goes on alone, and does not hear the other."""


def electorate_fault(electorate: Electorate) -> str:
    """What is wrong with an electorate that somebody wrote by hand, in a word for the writer; empty where nothing is.

    Whoever takes one over asks this first.
    """
    if fault := layout_fault(electorate):
        return fault
    for what, electors in (("members", electorate.members), ("previous", electorate.previous)):
        for elector in electors:
            address = IPv4Address(elector.host)
            if address.is_unspecified or address.is_multicast or address.is_reserved:
                return f"{what}: {elector.name}: {address} is the address of no node"
        if len({elector.host for elector in electors}) < len(electors):
            return f"{what}: two electors have one address"
    return ""


def layout_fault(electorate: Electorate) -> str:
    """Why it does not fit the wire or the disk; empty where it does.

    Taken over it would end every keeper that takes it, and, being on their disks by then, end them again at each start.
    """
    if not 1 <= electorate.epoch <= EPOCH_MAX:
        return f"epoch {electorate.epoch} is not from 1 to {EPOCH_MAX}; write the one after that in force"
    for what, electors in (("members", electorate.members), ("previous", electorate.previous)):
        if len(electors) > ELECTORS_MAX or (what == "members" and not electors):
            return f"{what}: {len(electors)} of them; name 1, 3, 5 or 7 agents"
        if len({elector.name for elector in electors}) < len(electors):
            return f"{what}: an elector is named twice"
        for elector in electors:
            if fault := _elector_fault(elector):
                return f"{what}: {fault}"
    return ""


def _elector_fault(elector: Elector) -> str:
    if not _NAME.fullmatch(elector.name):
        return f"{elector.name[:80]!r} is no name of a node"
    try:
        IPv4Address(elector.host)
    except ValueError:
        return f"{elector.name}: {elector.host[:80]!r} is no IPv4 address"
    if not 0 <= elector.memory <= MEMORY_MAX:
        return f"{elector.name}: the memory is no number of 64 bits"
    return ""


def is_present(electorate: Electorate, known: Mapping[str, Known]) -> bool:
    """A majority of the members answers in this very epoch, has settled in it and votes: it goes by no newer one."""
    present = {
        member.name: True
        for member in electorate.members
        if (one := known.get(member.name)) is not None
        and (one.elector, one.settled, one.voting, one.epoch) == (True, True, True, electorate.epoch)
    }
    return electorate.has_quorum(present)


def size_hint(electorate: Electorate) -> str:
    """Why no operator should leave it at so many members; empty where one may."""
    count = len(electorate.members)
    if count == 0 or count % 2:
        return ""
    return (
        f"{count} of them bear the loss of no more than {count - 1} would, and one more can be lost; name 1, 3, 5 or 7 "
        "once nobody is being replaced"
    )


def size_for(agents: int) -> int:
    """How many electors so many agents get (M5)."""
    if agents >= 5:
        return 5
    return min(agents, 3)


def first_electorate(candidates: Mapping[str, Candidate], known: Mapping[str, Known]) -> Electorate | None:
    """The electorate that is begun with; None while not every agent has answered."""
    if not candidates or any(name not in known for name in candidates):
        return None
    chosen = _in_order(candidates)[: size_for(len(candidates))]
    return Electorate(1, tuple(_elector(one, known) for one in chosen))


def is_in_force(electorate: Electorate, known: Mapping[str, Known]) -> bool:
    """A majority of the members has settled in this epoch (M3). Once true it stays true."""
    settled = {
        member.name: True
        for member in electorate.members
        if (one := known.get(member.name)) is not None
        and (one.elector, one.settled, one.epoch) == (True, True, electorate.epoch)
    }
    return electorate.has_quorum(settled)


def target(
    electorate: Electorate,
    candidates: Mapping[str, Candidate],
    known: Mapping[str, Known],
    dead: Mapping[str, None],
) -> tuple[Elector, ...]:
    """Whom the electorate should consist of. `dead`: members that have been silent for so long, or lost their disk."""
    # In the order of the electorate, so that two who judge by the same facts want the same thing.
    alive = [_readdressed(member, candidates) for member in electorate.members if member.name not in dead]
    # An electorate never shrinks because agents are away: those that are left would decide for less than a majority.
    floor = max(size for size in SIZES if size <= max(len(electorate.members), 1))
    size = max(size_for(len(candidates)), floor)
    parted = _parted(electorate, known)
    for one in _in_order(candidates):
        is_ready = one.name in known and known[one.name].voting and one.name not in parted
        # A newcomer first waits out the longest lease (M3); a silent member would be one vote less for everybody.
        if len(alive) < size and is_ready and all(member.name != one.name for member in alive):
            alive.append(_elector(one, known))
    # In the middle of a replacement there is one too many: the one that does not answer, not the newcomer.
    alive.sort(key=lambda member: member.name not in known)
    # A dead one that nobody can replace stays: without it a majority of the rest would be a smaller one.
    missing = [member for member in electorate.members if member.name in dead]
    replaced = {member.name for member in alive}
    kept = [member for member in missing if member.name not in replaced]
    return tuple(alive[:size] + kept[: max(0, size - len(alive))])


def _parted(electorate: Electorate, known: Mapping[str, Known]) -> dict[str, None]:
    """Whom a sole elector lost and does not hear: two that do not hear each other would grant nothing."""
    said = known.get(electorate.members[0].name) if len(electorate.members) == 1 else None
    return {one.name: None for one in electorate.previous} if said is not None and said.misses_other else {}


def step(electorate: Electorate, wanted: tuple[Elector, ...], known: Mapping[str, Known]) -> Electorate | None:
    """The next electorate on the way to the members wanted; None where they are the members already (M3).

    None, too, while it would not be carried: of several steps the first one that is.
    """
    return next((following for following in _steps(electorate, wanted) if is_carried(following, known)), None)


def is_carried(following: Electorate, known: Mapping[str, Known]) -> bool:
    """Whether a majority of its members answers, each with the disk that is meant: without them it could not begin.

    A member that is only away would make it wait. One that lost its disk in the meantime, which nobody knows before it
    answers, would make it wait for ever (M7).
    """
    answering = {
        member.name: True
        for member in following.members
        if (one := known.get(member.name)) is not None and one.voting and member.memory in (0, one.memory)
    }
    return following.has_quorum(answering)


def _steps(electorate: Electorate, wanted: tuple[Elector, ...]) -> list[Electorate]:
    """What may follow, the best first; any of them is one step."""
    members = {member.name: member for member in electorate.members}
    goal = {member.name: member for member in wanted}
    for name, member in goal.items():
        if name in members and members[name].memory != member.memory:
            # The same name on another disk (M7): the old one goes, then the new one comes.
            return [_without(electorate, name)]
        if name in members and members[name] != member:
            return [_after(electorate, members | {name: member})]
    # Replacing is adding, and when that is in force, removing (M3).
    if added := [_after(electorate, members | {name: member}) for name, member in goal.items() if name not in members]:
        return added
    return [_without(electorate, name) for name in members if name not in goal]


def reset(electorate: Electorate, names: tuple[str, ...]) -> Electorate:
    """The electorate an operator begins anew with when a majority is lost for good (M6). Raises OperatorError.

    It asks nobody what was promised before: to be made known only after the longest lease.
    """
    unknown = [name for name in names if electorate.member(name) is None]
    if unknown:
        members = ", ".join(member.name for member in electorate.members)
        raise OperatorError(f"--keep: {', '.join(unknown)} is no elector of epoch {electorate.epoch} ({members})")
    kept = tuple(member for member in electorate.members if member.name in names)
    following = Electorate(electorate.epoch + 1, kept)
    if fault := electorate_fault(following):
        raise OperatorError(f"the object cannot be followed: {fault}")
    return following


def check_successor(electorate: Electorate, following: Electorate) -> None:
    """Raise OperatorError, with the fix, where an operator's electorate is no single step from the present one (M2)."""
    if following.epoch < electorate.epoch:
        raise OperatorError(
            f"electors.epoch: {following.epoch} is older than {electorate.epoch}, which is in force; raise it to "
            f"{electorate.epoch + 1} to change the members"
        )
    if following.epoch == electorate.epoch:
        if _names(following) != _names(electorate):
            raise OperatorError(
                f"electors.members: epoch {electorate.epoch} has other members ({', '.join(_names(electorate))}); "
                f"raise electors.epoch to {electorate.epoch + 1}"
            )
        return
    if following.epoch != electorate.epoch + 1:
        raise OperatorError(
            f"electors.epoch: {following.epoch} does not follow {electorate.epoch}; write {electorate.epoch + 1}"
        )
    changed = changes(electorate, following)
    if len(changed) > 1:
        raise OperatorError(
            f"electors.members: {', '.join(changed)} changed at once; add or remove one member per epoch (replacing "
            "is adding, then removing)"
        )


def changes(electorate: Electorate, following: Electorate) -> list[str]:
    """Names of the members that come, go, or have another address or disk."""
    before, after = ({member.name: member for member in one.members} for one in (electorate, following))
    return [name for name in before | after if before.get(name) != after.get(name)]


def _names(electorate: Electorate) -> list[str]:
    return sorted(f"{member.name} {member.host}" for member in electorate.members)


def _without(electorate: Electorate, name: str) -> Electorate:
    return _after(electorate, {member.name: member for member in electorate.members if member.name != name})


def _after(electorate: Electorate, members: Mapping[str, Elector]) -> Electorate:
    return Electorate(electorate.epoch + 1, tuple(members.values()), electorate.members)


def _in_order(candidates: Mapping[str, Candidate]) -> list[Candidate]:
    return sorted(candidates.values(), key=lambda one: (not one.is_control_plane, one.name))


def _elector(one: Candidate, known: Mapping[str, Known]) -> Elector:
    return Elector(one.name, one.host, known[one.name].memory)


def _readdressed(member: Elector, candidates: Mapping[str, Candidate]) -> Elector:
    found = candidates.get(member.name)
    return replace(member, host=found.host) if found is not None else member
