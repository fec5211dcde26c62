"""An operator begins the electorate anew (leases.md, M6): with members that are left, after the longest lease."""

import asyncio

import click

from service.electorate.store import ElectorateStore, open_electorate
from service.lease.electorate import reset
from service.model.errors import OperatorError
from service.model.lease import LONG_LEASE_NS, Electorate

WAIT_S = LONG_LEASE_NS * 12 // 10 / 1e9
"""The longest lease that a lost elector may have promised, and a fifth for the difference of clocks (P2)."""
_READ_S = 10.0


async def begin_anew(names: tuple[str, ...], namespace: str, *, is_sure: bool) -> None:
    """Open the object in this namespace and `renew` it. Raises as that does, and where no credentials are found."""
    async with open_electorate(namespace, changed=lambda found: None) as store:
        await renew(store, names, namespace, is_sure=is_sure)


async def renew(
    store: ElectorateStore, names: tuple[str, ...], namespace: str, *, is_sure: bool, wait_s: float = WAIT_S
) -> None:
    """Say what must be true, ask unless `is_sure`, wait, and write the next epoch with the members named.

    Raises OperatorError, click.Abort and ApiError, with nothing changed; but after an ApiError without an answer
    (status 0) that is not known.
    """
    async with asyncio.timeout(_READ_S):
        while not store.is_read:  # noqa: ASYNC110 - the watch's state
            await asyncio.sleep(0.05)
    read = store.current
    if read is None:
        raise OperatorError(f"there is no electorate in {namespace}: {store.trouble or 'no such object'}")
    following = reset(read.electorate, names)
    click.echo(_conditions(read.electorate, following))
    if not is_sure:
        await asyncio.to_thread(click.confirm, "Is all of this true?", abort=True)
    click.echo(f"waiting {wait_s:g} s, until every lease of the lost electors is over")
    await asyncio.sleep(wait_s)
    # Only the version that was read: whoever changed it meanwhile was not lost.
    await store.swap(read, following, in_force=False, begun_anew=True)
    click.echo(f"epoch {following.epoch}: {', '.join(member.name for member in following.members)}")


def _conditions(before: Electorate, following: Electorate) -> str:
    lost = [member.name for member in before.members if following.member(member.name) is None]
    return (
        f"epoch {before.epoch} has the electors {', '.join(member.name for member in before.members)}.\n"
        f"These must be off, and stay off until they are installed anew: {', '.join(lost) or 'none'}.\n"
        "No other node may be cut off from those that go on: what it holds by the lost electors would be held twice."
    )
