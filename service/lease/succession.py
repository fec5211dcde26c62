"""Which electorate a process takes after the one that it knows, and on whose word (leases.md, M1-M3, M6, M8).

Another keeper, or a controller, has made sure of what it says. The object says what somebody wrote: it may be edited,
set back, or deleted and made anew, and is believed only as far as it can be checked here. Pure functions.
"""

from service.lease.electorate import changes, electorate_fault
from service.model.lease import Elector, Electorate

REWRITE_STRIDE = 1000
"""More steps than could have been made, unheard, in an object that is lost."""


def rewritten(electorate: Electorate) -> Electorate:
    """The same electors, to be written where the object is gone or says what cannot be (M8).

    In an epoch above every one that somebody may have written in between, and whose writing nobody here has heard of:
    two different electorates of one epoch could each find a majority.
    """
    return Electorate(electorate.epoch + REWRITE_STRIDE, electorate.members, electorate.members)


def succession_fault(known: Electorate, offered: Electorate) -> str:
    """Why a newer electorate is not taken from anybody, for the one who reads the status; empty where it may be."""
    if fault := electorate_fault(offered):
        return fault
    # Somebody wrote the epoch that is known here before the object was lost. Whoever counted this node towards the end
    # of the epoch that is followed would be wrong: it went on from there already.
    if offered.is_rewrite and offered.epoch - REWRITE_STRIDE < known.epoch < offered.epoch - 1:
        return (
            f"epoch {offered.epoch} was written anew after {offered.epoch - REWRITE_STRIDE}, but {known.epoch} is known"
            " here; begin with `egressgw electors reset`"
        )
    return ""


def object_fault(known: Electorate, offered: Electorate, *, begun_anew: bool) -> str:
    """Why a newer electorate is not taken from the object; empty where it may be, once that known is in force (M2).

    `begun_anew`: the object says that an operator began it with `egressgw electors reset`, who has waited (M6).
    """
    if fault := succession_fault(known, offered):
        return fault
    if begun_anew:
        return "what is begun anew follows no members, but `previous` names some" if offered.previous else ""
    if known.epoch == 0:
        return ""
    if offered.epoch not in (known.epoch + 1, known.epoch + REWRITE_STRIDE):
        return (
            f"epoch {offered.epoch} does not follow {known.epoch}, which was accepted; it is taken from a keeper that "
            f"was there, or write {known.epoch} again"
        )
    if _by_name(offered.previous) != _by_name(known.members):
        return f"`previous` of epoch {offered.epoch} are not the members of {known.epoch}; change it by one member"
    if offered.epoch != known.epoch + 1 and not offered.is_rewrite:
        return f"epoch {offered.epoch} does not follow {known.epoch}, which was accepted; write {known.epoch} again"
    unnumbered = [member.name for member in offered.members if not member.memory]
    if unnumbered and any(member.memory for member in known.members):
        return f"members: {', '.join(unnumbered)} without `memory`, the number of the disk (M7)"
    changed = changes(known, offered)
    if len(changed) > 1:
        return f"epoch {offered.epoch} changes {', '.join(changed)} at once; add or remove one member per epoch"
    return ""


def is_for_keepers_to_say(known: Electorate, offered: Electorate, *, begun_anew: bool) -> bool:
    """Nothing is known here by which the object could be checked: a keeper that knows its electorate tells it."""
    return known.epoch == 0 and not begun_anew and (offered.epoch > 1 or bool(offered.previous))


def _by_name(electors: tuple[Elector, ...]) -> dict[str, Elector]:
    return {elector.name: elector for elector in electors}
