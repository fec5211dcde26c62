"""What a keeper tells its agent of its leases and of the electorate: a pure composition of values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from service.host.loop_lag import NO_LAGS, Lags
from service.lease.holder import HeldKey
from service.lease.tiebreaker import Swap
from service.model.keeper_message import ElectorateRecord, HeldLease, LeaseReport
from service.model.lease import Electorate

_TROUBLES_MAX = 16
_LETTERS_MAX = 400
"""Of each trouble: a report is one datagram."""


@dataclass(frozen=True, slots=True)
class KeeperState:
    """One keeper at one time."""

    now_ns: int
    """CLOCK_BOOTTIME, read before everything else was: `held` was true then."""
    held: Mapping[str, HeldKey]
    released: tuple[str, ...]
    is_leaving: bool
    known: Electorate
    is_elector: bool
    is_voting: bool
    is_settled: bool
    swap: Swap | None
    """What one of two electors asks for that lost the other."""
    trouble: str
    sees_majority: bool
    silent: Mapping[str, int]
    """Electors that are not seen to vote, with when each last was."""
    scheduling: str
    troubles: Sequence[str] = ()
    errors: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    lags: Lags = NO_LAGS


def compose(state: KeeperState) -> LeaseReport:
    """Put the state in the words of the wire."""
    return LeaseReport(
        held=tuple(HeldLease(key, *lease.token, lease.deadline_ns) for key, lease in sorted(state.held.items())),
        elector=state.is_elector,
        voting=state.is_elector and state.is_voting,
        electorate=ElectorateRecord.of(state.known),
        settled=state.is_settled,
        trouble=state.trouble,
        wanted=_wanted(state),
        majority=state.sees_majority,
        silent=tuple(sorted(state.silent.items())),
        scheduling=state.scheduling,
        at_ns=state.now_ns,
        released=state.released,
        troubles=tuple(trouble[:_LETTERS_MAX] for trouble in state.troubles[:_TROUBLES_MAX]),
        errors=dict(state.errors),
        refused=dict(state.refused),
        lags=state.lags.counts,
        lag_sum_s=state.lags.sum_s,
    )


def _wanted(state: KeeperState) -> ElectorateRecord | None:
    swap = state.swap
    # A newer epoch is on its way already; or nobody is left here to be the only elector.
    if swap is None or swap.before.epoch != state.known.epoch or state.is_leaving:
        return None
    return ElectorateRecord.of(swap.following)
