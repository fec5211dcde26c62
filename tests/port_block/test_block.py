"""The geometry of blocks, and the base."""

import pytest

from service.port_block.block import BLOCKS, TIMES, base_blocks, block_of, ports_of


def test_every_port_from_1024_on_is_in_exactly_one_block() -> None:
    assert [block_of(port) for port in (0, 1023, 1024, 1087, 1088, 65535)] == [None, None, 0, 0, 1, BLOCKS - 1]
    assert [port for block in range(BLOCKS) for port in ports_of(block)] == list(range(1024, 65536))


@pytest.mark.parametrize(("members", "base"), [(0, 64), (1, 64), (7, 64), (8, 63), (100, 5), (504, 1), (2000, 1)])
def test_q2_the_base_is_half_of_all_blocks_shared_among_the_members(members: int, base: int) -> None:
    assert base_blocks(members) == base


def test_the_durations_leave_room_for_clocks_that_differ_by_a_twelfth_each_way() -> None:
    fast, slow = 12 / 11, 12 / 13
    # Q9: a slow owner has given up before a fast leader gives its block away.
    assert TIMES.contact_ns / slow < TIMES.rest_ns / fast
    # Q8: a slow successor counts on nothing any more when a fast owner stops waiting for it.
    assert TIMES.whole_ns / slow < TIMES.settle_ns / fast
    # Q9: of three confirmations two may be lost.
    assert 3 * TIMES.confirm_ns / slow < TIMES.contact_ns / fast
