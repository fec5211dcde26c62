"""An address that is listed no more is let go of last by its holder (rule S9)."""

from ipaddress import IPv4Address

from service.agent.withdrawal import WITHDRAWAL_NS, Withdrawals
from service.model.keeper_message import Claim
from service.model.lease import Token

FIRST, SECOND = IPv4Address("192.168.1.100"), IPv4Address("192.168.1.101")
HELD = {FIRST: Token(3, 7, 2), SECOND: Token(3, 8, 1)}
CLAIM = Claim(str(FIRST), "holder", 3, 7)


def test_what_is_held_and_listed_no_more_is_claimed_as_it_is_held_for_a_moment() -> None:
    withdrawals = Withdrawals()
    assert withdrawals.claims(HELD, {FIRST, SECOND}, now_ns=5) == ()
    assert withdrawals.claims(HELD, {SECOND}, now_ns=10) == (CLAIM,)
    assert withdrawals.claims(HELD, {SECOND}, now_ns=9 + WITHDRAWAL_NS) == (CLAIM,)
    assert withdrawals.claims(HELD, {SECOND}, now_ns=10 + WITHDRAWAL_NS) == ()


def test_an_address_that_is_listed_again_meanwhile_has_a_whole_moment_the_next_time() -> None:
    withdrawals = Withdrawals()
    withdrawals.claims(HELD, {SECOND}, now_ns=0)
    withdrawals.claims(HELD, {FIRST, SECOND}, now_ns=WITHDRAWAL_NS - 1)
    assert withdrawals.claims(HELD, {SECOND}, now_ns=WITHDRAWAL_NS) == (CLAIM,)


def test_an_agent_that_has_just_started_claims_nothing_of_which_it_has_seen_no_row() -> None:
    """Or the keeper would take it for unlisted when the moment is over."""
    withdrawals = Withdrawals()
    assert withdrawals.claims(HELD, (), now_ns=0) == ()
    assert withdrawals.claims(HELD, {FIRST}, now_ns=WITHDRAWAL_NS) == ()
    assert withdrawals.claims(HELD, (), now_ns=2 * WITHDRAWAL_NS) == (CLAIM,)


def test_what_is_held_no_more_is_not_claimed() -> None:
    withdrawals = Withdrawals()
    withdrawals.claims(HELD, {FIRST, SECOND}, now_ns=0)
    withdrawals.claims(HELD, {SECOND}, now_ns=0)
    assert withdrawals.claims({SECOND: HELD[SECOND]}, {SECOND}, now_ns=1) == ()
