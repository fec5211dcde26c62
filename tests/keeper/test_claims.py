"""What is adopted, claimed, kept and given up, against a real elector."""

import asyncio
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from service.keeper.claims import REFUSAL_NS
from service.keeper.fence import FenceEntry
from service.model.errors import InvariantError
from service.model.lease import Token
from tests.keeper.node import IP, SECOND, heartbeat
from tests.keeper.site import GRACE_NS, site
from tests.virtual_time import in_virtual_time, now_ns

OTHER = "192.0.2.101"
THIRD = "192.0.2.102"
GRACE_S = GRACE_NS / SECOND


@in_virtual_time
async def test_what_an_earlier_keeper_opened_goes_on_and_the_rest_is_closed(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        await asyncio.sleep(1)
        token = Token(3, 1, 2)
        for address, deadline_ns in ((IP, now_ns() + SECOND), (OTHER, now_ns()), (THIRD, 0)):
            here.fence.values[IPv4Address(address)] = FenceEntry(token, deadline_ns)
        here.claims.adopt()
        assert here.fence.writes == [(OTHER, 0), (THIRD, 0)]
        assert {key: lease.token for key, lease in here.claims.held().items()} == {IP: token}
        async with here.running():
            await asyncio.sleep(2)
            assert here.fence.values[IPv4Address(IP)].token == token
            assert here.fence.is_open(IP)


@in_virtual_time
async def test_what_the_agent_claims_is_held_once_there_is_a_fence(tmp_path: Path) -> None:
    async with site(tmp_path) as here, here.running():
        here.fence.is_pinned = False
        here.claims.hear(heartbeat())
        await asyncio.sleep(0.5)
        assert here.fence.writes == []
        here.fence.is_pinned = True
        here.claims.apply()
        await asyncio.sleep(0.1)
        assert here.fence.is_open(IP)


@in_virtual_time
async def test_nothing_new_is_claimed_for_an_agent_that_was_silent_for_a_second(tmp_path: Path) -> None:
    async with site(tmp_path) as here, here.running():
        here.fence.is_pinned = False
        here.claims.hear(heartbeat())
        await asyncio.sleep(1)
        here.fence.is_pinned = True
        await here.apply_for(2)
        assert here.fence.writes == []
        here.claims.hear(heartbeat())
        await asyncio.sleep(0.1)
        assert here.fence.is_open(IP)


@in_virtual_time
async def test_a_silent_agent_costs_nothing_before_its_grace_is_over_and_then_everything(tmp_path: Path) -> None:
    async with site(tmp_path) as here, here.running():
        here.claims.hear(heartbeat())
        await here.apply_for(GRACE_S - 0.1)
        assert here.fence.is_open(IP)
        await here.apply_for(0.2)
        assert here.fence.writes[-1] == (IP, 0)


@in_virtual_time
async def test_an_address_whose_uplink_has_no_carrier_is_given_up_at_once(tmp_path: Path) -> None:
    async with site(tmp_path) as here, here.running():
        here.claims.hear(heartbeat())
        await asyncio.sleep(0.1)
        assert here.fence.is_open(IP)
        here.claims.hear(heartbeat(carrier=False))
        assert here.fence.writes[-1] == (IP, 0)


@in_virtual_time
async def test_while_nothing_was_ever_heard_nothing_that_was_adopted_is_given_up(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        here.fence.values[IPv4Address(IP)] = FenceEntry(Token(3, 1, 2), now_ns() + SECOND)
        here.claims.adopt()
        async with here.running():
            await here.apply_for(GRACE_S - 0.1)
            assert here.fence.is_open(IP)
            await here.apply_for(0.2)
            assert not here.fence.is_open(IP)


@in_virtual_time
async def test_what_the_kernel_does_not_take_is_closed_and_released_at_once(tmp_path: Path) -> None:
    async with site(tmp_path) as here, here.running():
        here.claims.hear(heartbeat())
        await asyncio.sleep(0.05)
        here.fence.full_for = IP
        # Its next extension, within a renew interval; nobody looks at the claims meanwhile.
        await asyncio.sleep(0.09)
        assert here.fence.writes[-1] == (IP, 0)
        assert here.vote.machine.promises()[IP].holder is None
        here.fence.full_for = ""
        await here.apply_for(REFUSAL_NS / SECOND - 0.2)
        assert not here.fence.is_open(IP)
        assert len(here.claims.troubles()) == 1
        here.claims.hear(heartbeat())
        await here.apply_for(0.3)
        assert here.fence.is_open(IP)
        assert here.claims.troubles() == []


@in_virtual_time
async def test_p1_what_cannot_be_closed_is_never_said_to_be_released(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        serving = asyncio.create_task(here.claims.pump.run())
        async with here.running_vote():
            here.claims.hear(heartbeat())
            await asyncio.sleep(0.05)
            here.fence.is_stuck = True
            here.claims.hear(heartbeat(claims=False))
            with pytest.raises(InvariantError, match=f"{IP} cannot be closed"):
                await serving
            await here.farewell.say()
            assert here.vote.machine.promises()[IP].holder is not None


@in_virtual_time
async def test_no_fence_is_a_trouble_while_there_is_none(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        here.fence.trouble = "the fence: nothing is pinned"
        assert here.claims.troubles() == ["the fence: nothing is pinned"]
