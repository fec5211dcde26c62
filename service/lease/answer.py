"""What an elector answers to a renewal: granted or not, and what the claimant should know of others."""

from collections.abc import Container, Mapping

from service.lease.message import Ack, ClaimRole, Detail, Entry, Row, Verdict
from service.lease.oblivion import FORGOTTEN, highest_token
from service.lease.promise import Identity, Instant, Promise
from service.lease.standing_claim import HolderSession, StandingClaim
from service.model.lease import ZERO_TOKEN, Stamp, Token

_GRANTED, _STALE, _PROMISED = int(Verdict.GRANTED), int(Verdict.STALE), int(Verdict.PROMISED)
_CONTESTED, _OUTRANKED = int(Verdict.CONTESTED), int(Verdict.OUTRANKED)
_RIVAL_IS_HOLDER = int(Verdict.RIVAL_IS_HOLDER)
Claims = Mapping[str, Mapping[Identity, StandingClaim]]


def acknowledgement(
    session: HolderSession,
    number: int,
    *,
    promises: Mapping[str, Promise],
    claims: Claims,
    withheld: Container[str],
    now: Instant,
    epoch: int,
    settled: bool,
) -> Ack:
    """The answer to the last renewal of a group.

    `withheld`: keys of which nobody may hear that they are granted, for their token is not on disk yet (K1).

    P5: the sequence is that of the last renewal, even where the grant is spontaneous. The claimant counts from when it
    sent that one, which is never later than what is promised here.
    """
    group = session.groups[number]
    granted = []
    details = {}
    for index, entry in enumerate(group.entries):
        if entry.role is ClaimRole.RELEASED:
            # Also where there was nothing to release: the claimant is to stop saying so.
            granted.append(True)
            continue
        promise = promises.get(entry.key)
        if entry.key in withheld and promise is not None and promise.holder == session.identity:
            # Neither granted nor anything to go above: the claimant waits, and hears when the disk has it.
            granted.append(False)
            details[index] = Detail(Verdict.NONE, ZERO_TOKEN, Stamp(0, 0))
            continue
        ours = _is_granted(session, entry, promise, now)
        granted.append(ours)
        highest = highest_token(promises, entry.key)
        detail = _detail(session, entry, promise, claims.get(entry.key, {}), now, ours=ours, highest=highest)
        if detail is not None:
            details[index] = detail
    return Ack(
        epoch, session.start_id, group.sequence, number, group.list_number, False, tuple(granted), details, settled
    )


def _is_granted(session: HolderSession, entry: Entry, promise: Promise | None, now: Instant) -> bool:
    return (
        promise is not None
        and promise.holder == session.identity
        # Two processes of one kernel may ask under one token; only one of them was granted it (K1).
        and promise.start_id == session.start_id
        and promise.token == entry.token
        and not promise.is_over(now)
    )


def _detail(
    session: HolderSession,
    entry: Entry,
    promise: Promise | None,
    claims: Mapping[Identity, StandingClaim],
    now: Instant,
    *,
    ours: bool,
    highest: Token,
) -> Detail | None:
    """What `granted` does not say; None where that is all. So a quiet renewal's answer has no details."""
    # As numbers: flags are put together by a class, and this is done for each key of each renewal.
    verdict = _GRANTED if ours else 0
    if not ours and entry.token <= highest:
        verdict |= _STALE
    if not ours and promise is not None and promise.holder != session.identity and not promise.is_over(now):
        verdict |= _PROMISED
    rival = _rival(session.identity, claims, highest, now)
    stamp = Stamp(0, 0)
    if rival is not None:
        verdict |= _CONTESTED
        stamp = rival.token.stamp
        if rival.role is ClaimRole.HOLDER:
            verdict |= _RIVAL_IS_HOLDER
        mine = claims.get(session.identity)
        if mine is not None and rival.rank > mine.rank:
            verdict |= _OUTRANKED
    if verdict == _GRANTED:
        return None
    return Detail(Verdict(verdict), highest, stamp)


def _rival(
    identity: Identity, claims: Mapping[Identity, StandingClaim], highest: Token, now: Instant
) -> StandingClaim | None:
    """The best live claim of another session whose assignment is not older than what was granted.

    One whose token is too low counts too: it will go above as soon as the key is open.
    """
    best: StandingClaim | None = None
    for other, claim in claims.items():
        if other == identity or claim.token.stamp < highest.stamp or not claim.is_alive(now):
            continue
        if best is None or claim.rank > best.rank:
            best = claim
    return best


def rows_of(promises: Mapping[str, Promise], now: Instant) -> list[Row]:
    """What is promised, as a report says it."""
    rows = []
    for key, promise in promises.items():
        if key == FORGOTTEN:
            continue
        left_ns = max(promise.until.left_ns(now), 0)
        held = promise.holder is not None and not promise.is_over(now)
        node = promise.holder.node if held and promise.holder is not None else None
        rows.append(Row(key, promise.token, node, left_ns // 1_000_000 if held else 0))
    return rows
